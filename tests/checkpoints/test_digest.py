"""A checkpoint's digest: what anyone can compute, and what it depends on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.checkpoints.content import DIGESTED
from ensemble.checkpoints.digest import compute_digest, resolve_pinned
from ensemble.checkpoints.resolve import resolve_checkpoint
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
        resolve_pinned([str(folder)], pinned)

    assert pinned in str(caught.value)
    assert compute_digest(str(folder)) in str(caught.value)


def test_what_a_model_does_not_depend_on_does_not_count(folder: Path) -> None:
    pinned = compute_digest(str(folder))
    (folder / "README.md").write_text("About this model")
    (folder / "training_args.bin").write_bytes(b"left by a trainer")

    assert resolve_pinned([str(folder)], pinned) == (folder,)


def test_hashing_tells_how_far_it_is(folder: Path) -> None:
    heard: list[tuple[str, float]] = []

    compute_digest(str(folder), on_phase=lambda name, share: heard.append((name, share)))

    assert {name for name, _ in heard} == {"check digest"}
    assert heard[-1][1] == 1.0


def test_several_are_pinned_by_the_lines_of_their_digests_in_order(folder: Path, original: Path) -> None:
    change_the_config(folder)
    lines = "".join(f"{compute_digest(str(one))}\n" for one in (original, folder))
    printed = subprocess.run(["sha256sum"], input=lines.encode(), capture_output=True, check=True, timeout=60)  # noqa: S607

    digest = compute_digest(str(original), str(folder))

    assert digest == "sha256:" + printed.stdout.split()[0].decode()
    assert resolve_pinned([str(original), str(folder)], digest) == (original, folder)
    with pytest.raises(CheckpointError, match="its digest is sha256:"):
        resolve_pinned([str(folder), str(original)], digest)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapters_weights_and_config_are_pinned(folder: Path, tmp_path: Path, name: str) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for one in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / one).write_text("{}")
    pinned = compute_digest(str(folder), str(adapter))
    (adapter / name).write_text('{"r": 8}')

    with pytest.raises(CheckpointError, match="its digest is sha256:"):
        resolve_pinned([str(folder), str(adapter)], pinned)


def test_an_earlier_files_conversion_does_not_run_in_the_place_of_the_pinned_one(tmp_path: Path) -> None:
    file, cache = tmp_path / "tiny.gguf", tmp_path / "cache"
    write_tiny_gguf(file)
    before = file.stat()
    earlier = resolve_checkpoint(str(file), cache_dir=cache)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # As of a file that was unpacked from an archive: path, size and time are those of the earlier one.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resolve_checkpoint(str(file), cache_dir=cache) == earlier

    (folder,) = resolve_pinned([str(file)], compute_digest(str(file)), cache_dir=cache)

    assert folder != earlier
    assert compute_digest(str(file)).removeprefix("sha256:")[:16] in folder.name


def test_a_gguf_file_that_is_not_the_pinned_one_is_not_converted(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")

    with pytest.raises(CheckpointError, match="its digest is sha256:"):
        resolve_pinned([str(file)], f"sha256:{'0' * 64}", cache_dir=tmp_path / "cache")

    assert not (tmp_path / "cache").exists()
