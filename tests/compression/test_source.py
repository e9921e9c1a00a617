"""Two checkpoints are one source where they say the same, and only there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ensemble.checkpoints import resolve_checkpoint
from ensemble.checkpoints.digest import compute_digest
from ensemble.checkpoints.progress import ignore_phase
from ensemble.compression.source import Source, open_source
from tests.checkpoints.tiny_models import write_tiny_gguf


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    return resolve_checkpoint(str(write_tiny_gguf(folder / "tiny.gguf")), cache_dir=folder / "cache")


def open_one(reference: Path, tmp_path: Path) -> Source:
    return open_source(str(reference), cache_dir=tmp_path / "cache", allow_compressed=False, on_phase=ignore_phase)


def test_a_gguf_file_is_the_same_source_wherever_it_was_converted(converted: Path, tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "moved.gguf")

    source = open_one(file, tmp_path)

    assert source.folder != converted
    assert source.digest == open_one(converted, tmp_path).digest == compute_digest(str(converted))


def test_a_conversion_that_was_trained_further_is_another_source(converted: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(converted, tmp_path / "trained")
    content = bytearray((trained / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (trained / "model.safetensors").write_bytes(content)

    source = open_one(trained, tmp_path)

    assert source.digest != open_one(converted, tmp_path).digest


@pytest.mark.parametrize("origin", ["{}", "[]", "x"])
def test_what_a_folder_says_of_its_origin_makes_it_no_other_source(
    origin: str, converted: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(converted, tmp_path / "copy")
    (copy / "origin.json").write_text(origin)

    source = open_one(copy, tmp_path)

    assert source.digest == open_one(converted, tmp_path).digest
