"""Checkpoints that the engines' tests share."""

from __future__ import annotations

import pytest

from tests.engines.tiny_checkpoints import PARROT_TEXT, save_parrot, save_random_gemma, save_random_llama


@pytest.fixture(scope="module", params=[save_random_llama, save_random_gemma], ids=["llama", "gemma"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: str = request.param(tmp_path_factory.mktemp("random"))
    return folder


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_parrot(tmp_path_factory.mktemp("parrot"), PARROT_TEXT, broken_by="#")
