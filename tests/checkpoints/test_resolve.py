"""From references to folders: conversion once, whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForCausalLM

from ensemble.checkpoints import load_checkpoint, resolve_checkpoint
from ensemble.errors import CheckpointError
from tests.checkpoints.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

PACKAGE = """
import shutil
from pathlib import Path

def assemble(output_path):
    shutil.copy(Path(__file__).with_name("whole"), output_path)
"""


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def find_conversions(cache_dir: Path) -> list[Path]:
    return sorted(path.parent for path in cache_dir.glob("**/config.json"))


def test_a_converted_gguf_gives_the_logits_of_the_gguf_itself(gguf_file: Path, tmp_path: Path) -> None:
    direct = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    tokens = torch.arange(3, 20)[None]

    converted = load_checkpoint(str(gguf_file), dtype="float32", device="cpu", cache_dir=tmp_path)

    with torch.inference_mode():
        assert torch.allclose(converted.model(tokens).logits, direct(tokens).logits, atol=1e-4)
    assert converted.tokenizer.decode(converted.tokenizer("the")["input_ids"]) == "the"
    assert converted.model.config.bos_token_id == 1
    assert converted.model.lm_head.weight is converted.model.model.embed_tokens.weight


def test_the_second_call_finds_the_conversion_of_the_first(gguf_file: Path, tmp_path: Path) -> None:
    phases: list[str] = []
    first = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path)

    second = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path, on_phase=lambda name, _: phases.append(name))

    assert second == first
    assert phases == []


def test_a_copy_of_the_file_shares_the_conversion(gguf_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / gguf_file.name
    copy.parent.mkdir()
    copy.write_bytes(gguf_file.read_bytes())
    first = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path / "cache")

    assert resolve_checkpoint(str(copy), cache_dir=tmp_path / "cache") == first


def test_a_changed_file_is_converted_anew(gguf_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    content = bytearray(gguf_file.read_bytes())
    file.write_bytes(content)
    first = resolve_checkpoint(str(file), cache_dir=tmp_path / "cache")
    content[-1] ^= 1
    file.write_bytes(content)

    assert resolve_checkpoint(str(file), cache_dir=tmp_path / "cache") != first


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_works(gguf_file: Path, tmp_path: Path) -> None:
    def interrupt(name: str, share: float) -> None:
        if name == "write" and share == 1.0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve_checkpoint(str(gguf_file), cache_dir=tmp_path, on_phase=interrupt)

    assert find_conversions(tmp_path) == []
    folder = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path)
    assert find_conversions(tmp_path) == [folder]


def test_what_a_killed_conversion_left_is_removed_by_the_next_one(gguf_file: Path, tmp_path: Path) -> None:
    name = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path / "other").name
    leftover = tmp_path / f".partial-{name}-k1lled_x"
    leftover.mkdir()
    (leftover / "config.json").write_text("{}")

    folder = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path)

    assert not leftover.exists()
    assert folder.is_dir()


def resolve_after(barrier: Barrier, file: str, cache_dir: str) -> tuple[str, bool]:
    """Wait for the other process, then resolve; say whether this process did the converting."""
    phases: list[str] = []
    barrier.wait(timeout=100)
    folder = resolve_checkpoint(file, cache_dir=Path(cache_dir), on_phase=lambda name, _: phases.append(name))
    return str(folder), "dequantise" in phases


def test_two_processes_convert_one_file_once(gguf_file: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        arguments = (manager.Barrier(2), str(gguf_file), str(tmp_path))
        pending = [pool.apply_async(resolve_after, arguments) for _ in range(2)]

        outcomes = [result.get(timeout=120) for result in pending]

    assert {folder for folder, _ in outcomes} == {str(folder) for folder in find_conversions(tmp_path)}
    assert sorted(converted for _, converted in outcomes) == [False, True]


def kill_yourself_at(phase: str, reference: str, cache_dir: str) -> None:
    """Resolve, and be killed when a phase begins."""

    def die(name: str, _share: float) -> None:
        if name == phase:
            os.kill(os.getpid(), signal.SIGKILL)

    resolve_checkpoint(reference, cache_dir=Path(cache_dir), on_phase=die)


@pytest.mark.parametrize("phase", ["hash", "dequantise", "write"])
def test_a_killed_conversion_leaves_nothing_that_loads_and_no_lock(gguf_file: Path, tmp_path: Path, phase: str) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=kill_yourself_at, args=(phase, str(gguf_file), str(tmp_path)))
    process.start()
    process.join(timeout=100)

    assert process.exitcode == -signal.SIGKILL
    assert find_conversions(tmp_path) == []
    folder = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path)
    assert find_conversions(tmp_path) == [folder]
    assert not list(tmp_path.glob(".partial-*"))


def test_what_a_killed_process_assembled_is_removed_by_the_next_one(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(tmp_path, "weights_of_the_killed", monkeypatch)
    (package / "whole").write_bytes(gguf_file.read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    cache_dir = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=kill_yourself_at, args=("dequantise", "package:weights_of_the_killed", str(cache_dir))
    )
    process.start()
    process.join(timeout=100)
    left = list(cache_dir.glob(".assembled-*"))

    resolve_checkpoint("package:weights_of_the_killed", cache_dir=cache_dir)

    assert len(left) == 1
    assert not list(cache_dir.glob(".assembled-*"))


def test_waiting_for_another_process_is_told(gguf_file: Path, tmp_path: Path) -> None:
    second: list[str] = []
    waits, others = threading.Event(), list[Future[Path]]()

    def hear_second(name: str, _share: float) -> None:
        second.append(name)
        waits.set()

    with ThreadPoolExecutor() as pool:

        def resolve_again(name: str, _share: float) -> None:
            if name == "dequantise":
                others.append(pool.submit(resolve_checkpoint, str(gguf_file), cache_dir=tmp_path, on_phase=hear_second))
                assert waits.wait(timeout=60)

        folder = resolve_checkpoint(str(gguf_file), cache_dir=tmp_path, on_phase=resolve_again)

        assert others[0].result(timeout=60) == folder
    assert second == ["wait for another process that converts it"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.99])
def test_a_gguf_file_cut_short_is_refused_and_leaves_nothing(gguf_file: Path, tmp_path: Path, share: float) -> None:
    content = gguf_file.read_bytes()
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(CheckpointError, match=r"cut\.gguf"):
        resolve_checkpoint(str(damaged), cache_dir=tmp_path / "cache")

    assert find_conversions(tmp_path / "cache") == []


@pytest.mark.parametrize("inside", ["", "cache"], ids=["a_file_in_its_place", "below_a_file"])
def test_a_cache_folder_that_cannot_be_one_is_refused_with_the_remedy(
    gguf_file: Path, tmp_path: Path, inside: str
) -> None:
    (tmp_path / "file").write_text("")
    cache_dir = tmp_path / "file" / inside

    with pytest.raises(CheckpointError, match=rf"{cache_dir}.*ENSEMBLE_CACHE_DIR"):
        resolve_checkpoint(str(gguf_file), cache_dir=cache_dir)


def test_a_full_disk_is_told_with_the_remedy_and_leaves_nothing(gguf_file: Path, tmp_path: Path) -> None:
    def fill(name: str, share: float) -> None:
        if name == "write" and share == 1.0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=rf"{tmp_path}.*No space left.*ENSEMBLE_CACHE_DIR"):
        resolve_checkpoint(str(gguf_file), cache_dir=tmp_path, on_phase=fill)

    assert find_conversions(tmp_path) == []


def make_package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(folder)
    return package


def test_a_file_inside_a_package_is_found_without_importing_it(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(tmp_path, "weights_in_a_package", monkeypatch)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(gguf_file.read_bytes())

    folder = resolve_checkpoint("package:weights_in_a_package/tiny.gguf", cache_dir=tmp_path / "cache")

    assert find_conversions(tmp_path / "cache") == [folder]


def test_a_package_assembles_its_file_for_the_first_call_only(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(tmp_path, "weights_in_parts", monkeypatch)
    (package / "whole").write_bytes(gguf_file.read_bytes())

    first = resolve_checkpoint("package:weights_in_parts", cache_dir=tmp_path / "cache")
    (package / "whole").unlink()
    second = resolve_checkpoint("package:weights_in_parts", cache_dir=tmp_path / "cache")

    assert first == second
    assert not list((tmp_path / "cache").glob(".assembled-*"))


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("package:no_such_package_anywhere/x.gguf", "not installed"),
        ("package:incomplete_package/x.gguf", "has no file x.gguf"),
        ("package:incomplete_package", "do not make a whole file"),
        ("package:json", "has no function assemble"),
    ],
)
def test_a_package_without_the_checkpoint_is_refused(
    reference: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(tmp_path, "incomplete_package", monkeypatch)

    with pytest.raises(CheckpointError, match=problem):
        resolve_checkpoint(reference, cache_dir=tmp_path / "cache")


def test_a_repository_that_is_not_cached_is_refused_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError, match="not in the local cache, and the hub cannot be reached"):
        resolve_checkpoint("no-such-org/no-such-checkpoint", cache_dir=tmp_path)
