"""Small checkpoints to store, and stores to put them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.checkpoints.store import CheckpointStore
from tests.checkpoints.stores import KINDS, save_checkpoint, url_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one layer."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("other"), num_layers=2)


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, tmp_path / "store")


@pytest.fixture
def store(url: str) -> CheckpointStore:
    return CheckpointStore.at(url)
