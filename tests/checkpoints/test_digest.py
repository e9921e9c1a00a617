"""A checkpoint's digest: what anyone can compute, and what it depends on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.checkpoints.digest import DIGESTED, check_digest, compute_digest
from ensemble.errors import CheckpointError
from tests.checkpoints.tiny_models import build_llama, save, write_tiny_gguf


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    save(build_llama(), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "copy")


def test_a_folders_digest_is_what_sha256sum_gives(folder: Path) -> None:
    names = sorted(name for name in ("model.safetensors", *DIGESTED) if (folder / name).is_file())
    lines = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True, timeout=60)  # noqa: S603, S607
    whole = subprocess.run(["sha256sum"], input=lines.stdout, capture_output=True, check=True, timeout=60)  # noqa: S607

    assert compute_digest(str(folder)) == "sha256:" + whole.stdout.split()[0].decode()
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(names)


def test_a_gguf_files_digest_is_its_own_and_nothing_is_converted(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    printed = subprocess.run(["sha256sum", file], capture_output=True, check=True, timeout=60)  # noqa: S603, S607

    digest = compute_digest(str(file), cache_dir=tmp_path / "cache")

    assert digest == "sha256:" + printed.stdout.split()[0].decode()
    assert not (tmp_path / "cache").exists()


def flip_a_weight(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def change_the_tokenizer(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text("utf-8")
    (folder / "tokenizer.json").write_text(text + "\n", "utf-8")


def change_the_config(folder: Path) -> None:
    text = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(text.replace('"eos_token_id": 2', '"eos_token_id": 3'), "utf-8")


def add_a_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize("change", [flip_a_weight, change_the_tokenizer, change_the_config, add_a_chat_template])
def test_another_weight_tokenizer_or_config_is_refused_with_both_digests(
    folder: Path, change: Callable[[Path], None]
) -> None:
    pinned = compute_digest(str(folder))
    change(folder)

    with pytest.raises(CheckpointError, match="its digest is sha256:") as caught:
        check_digest(str(folder), pinned)

    assert pinned in str(caught.value)
    assert compute_digest(str(folder)) in str(caught.value)


def test_what_a_model_does_not_depend_on_does_not_count(folder: Path) -> None:
    pinned = compute_digest(str(folder))
    (folder / "README.md").write_text("About this model")
    (folder / "training_args.bin").write_bytes(b"left by a trainer")

    check_digest(str(folder), pinned)


def test_hashing_tells_how_far_it_is(folder: Path) -> None:
    heard: list[tuple[str, float]] = []

    compute_digest(str(folder), on_phase=lambda name, share: heard.append((name, share)))

    assert {name for name, _ in heard} == {"check digest"}
    assert heard[-1][1] == 1.0
