"""A member's start: what was checked is what runs, and a start that fails leaves nothing running."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ensemble.checkpoints.digest import compute_digest
from ensemble.checkpoints.progress import ignore_phase
from ensemble.checkpoints.store import CheckpointStore
from ensemble.config import MemberConfig
from ensemble.errors import CheckpointError, MemberError
from ensemble.member_start import start_engine
from ensemble.replica_servers import start_member
from ensemble.serving.replica import Place
from tests.checkpoints.stores import KINDS, put, save_checkpoint, url_of
from tests.checkpoints.tiny_models import write_tiny_gguf
from tests.engines.tiny_checkpoints import save_random_llama

GENEROUS_S = 240.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_random_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(checkpoint: str, tmp_path: Path) -> str:
    return str(shutil.copytree(checkpoint, tmp_path / "copy"))


def build_member(checkpoint: str, *others: str, **parts: Any) -> MemberConfig:
    """Describe a small embedded member, or with others a fused one."""
    kind: dict[str, Any] = {"type": "fused", "others": others} if others else {"type": "embedded"}
    engine = {**kind, "device": "cpu", "threads": 1, "max_batch": 2, "max_context": 64}
    return MemberConfig.model_validate(
        {"name": "m", "family": "m", "checkpoint": checkpoint, "engine": engine, **parts}
    )


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "engine-m"]


async def test_a_group_whose_other_was_changed_does_not_start_on_its_digest(checkpoint: str, copy: str) -> None:
    member = build_member(checkpoint, copy, checkpoint_digest=compute_digest(checkpoint, copy))
    engine = await start_engine(member, timeout_s=GENEROUS_S, on_phase=ignore_phase)
    await engine.close()
    tokenizer = Path(copy) / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\n", "utf-8")

    with pytest.raises(CheckpointError, match="but checkpoint_digest is"):
        await start_engine(member, timeout_s=GENEROUS_S, on_phase=ignore_phase)


async def test_what_was_checked_is_what_runs_whatever_becomes_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    member = build_member(str(file), checkpoint_digest=compute_digest(str(file)))

    def replace_file(phase: str, _share: float) -> None:
        if phase == "import the engine":
            file.write_bytes(b"GGUF of somebody else")

    engine = await start_engine(member, timeout_s=GENEROUS_S, on_phase=replace_file)

    await engine.check_health()
    await engine.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pinned_member_starts_from_a_store_that_this_machine_has_never_seen(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    url = url_of(kind, tmp_path / "store")
    digest = put(CheckpointStore.at(url), save_checkpoint(tmp_path / "model"), "tiny")

    engine = await start_engine(
        build_member(f"store:tiny@{url}", checkpoint_digest=digest), timeout_s=GENEROUS_S, on_phase=ignore_phase
    )

    await engine.check_health()
    await engine.close()


async def test_an_engine_that_is_not_up_in_time_is_taken_away(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr("ensemble.engines.engine_thread.CLOSE_TIMEOUT_S", 0.5)

    def stall(phase: str, _share: float) -> None:
        if phase != "import the engine":
            goes_on.wait(GENEROUS_S)

    with pytest.raises(MemberError, match=r"not up within 1 s; raise serving\.start_timeout_s"):
        await start_engine(build_member(checkpoint), timeout_s=1.0, on_phase=stall)

    goes_on.set()
    for thread in engine_threads():
        thread.join(GENEROUS_S)
    assert engine_threads() == []


async def test_an_engine_whose_server_does_not_start_is_taken_away(checkpoint: str) -> None:
    nowhere = Place(replica_id="r", node_ip="203.0.113.1", picker_by_name={})

    with pytest.raises(Exception, match=r"203\.0\.113\.1"):
        await start_member(build_member(checkpoint), "secret", GENEROUS_S, place=nowhere)

    assert engine_threads() == []
