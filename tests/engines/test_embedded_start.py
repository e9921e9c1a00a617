"""What the embedded engine says when it cannot start."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from ensemble.engines.batch_loop import LoadedModel
from ensemble.engines.config import EmbeddedEngineConfig
from ensemble.engines.embedded import EmbeddedEngine
from ensemble.engines.model_loading import load_model
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import CheckpointError, ConfigError, MemberError
from tests.engines.embedded_runs import (
    running,
    text_of,
)


def build(checkpoint: str) -> EmbeddedEngine:
    config = EmbeddedEngineConfig(device="cpu", threads=1, max_context=256)
    return EmbeddedEngine(config, checkpoint=checkpoint, member="m", prompt_format=PromptFormat())


async def test_a_gpu_that_is_not_there_is_a_config_error(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"engine\.device"):
        async with running(checkpoint, device="cuda"):
            pass


async def test_a_checkpoint_that_is_not_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        async with running(str(tmp_path / "absent")):
            pass


async def test_a_chat_without_a_chat_template_is_a_checkpoint_error(checkpoint: str) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        async with running(checkpoint, PromptFormat(chat=True)):
            pass


async def test_an_encoder_decoder_is_a_checkpoint_error(checkpoint: str, tmp_path: Path) -> None:
    config = T5Config(vocab_size=203, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError):
        async with running(str(tmp_path)):
            pass


async def test_a_second_start_waits_for_the_first(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    may_load = threading.Event()

    def load_when_told(*args: Any, **kwargs: Any) -> LoadedModel:
        may_load.wait(timeout=60)
        return load_model(*args, **kwargs)

    monkeypatch.setattr("ensemble.engines.embedded.EmbeddedEngine._load", staticmethod(load_when_told))
    engine = build(checkpoint)
    first, second = asyncio.create_task(engine.start()), asyncio.create_task(engine.start())
    await asyncio.sleep(0)  # One turn of the event loop brings both to where they wait.

    done_before, _ = await asyncio.wait([first, second], timeout=0.1)
    may_load.set()
    await first
    await second
    text = await text_of(engine, "w1")
    await engine.close()

    assert not done_before
    assert text


async def test_a_second_start_raises_what_the_first_raised(tmp_path: Path) -> None:
    engine = build(str(tmp_path / "absent"))
    with pytest.raises(CheckpointError):
        await engine.start()

    with pytest.raises(CheckpointError):
        await engine.start()


async def test_starting_a_closed_engine_is_a_member_error(checkpoint: str) -> None:
    engine = build(checkpoint)
    await engine.start()
    await engine.close()

    with pytest.raises(MemberError, match="closed"):
        await engine.start()


async def test_closing_does_not_wait_for_ever_for_a_thread_that_hangs(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_load = threading.Event()

    def hang(*_: Any, **__: Any) -> LoadedModel:
        may_load.wait(timeout=60)
        raise CheckpointError("checkpoint", "it took too long", "wait")

    monkeypatch.setattr("ensemble.engines.embedded.EmbeddedEngine._load", staticmethod(hang))
    monkeypatch.setattr("ensemble.engines.engine_thread.CLOSE_TIMEOUT_S", 0.05)
    engine = build(checkpoint)
    start = asyncio.create_task(engine.start())
    await asyncio.sleep(0)  # One turn of the event loop starts the thread.

    async with asyncio.timeout(20):
        await engine.close()

    assert "still runs 0.05 s after close" in caplog.text
    may_load.set()
    with pytest.raises(CheckpointError):
        await start
