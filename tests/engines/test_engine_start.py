"""What every engine with a model does before it is ready: it tells where it is, and it has run its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ensemble.engines.config import ClassifierEngineConfig, EmbeddedEngineConfig, EngineConfig
from ensemble.engines.engine import Engine
from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import CheckpointError
from tests.engines.tiny_checkpoints import save_random_llama
from tests.engines.tiny_classifiers import bert_config, save_classifier

EMBEDDED = EmbeddedEngineConfig(device="cpu", threads=1, max_context=64)
CLASSIFIER = ClassifierEngineConfig(device="cpu", threads=1)


def save_bert(folder: Path) -> str:
    return save_classifier(folder, bert_config())


def build(config: EngineConfig, checkpoint: str) -> Engine:
    return build_engine(config, checkpoint=checkpoint, member="m", prompt_format=PromptFormat())


SUBJECTS = pytest.mark.parametrize(
    ("config", "save"), [(EMBEDDED, save_random_llama), (CLASSIFIER, save_bert)], ids=["embedded", "classifier"]
)


@SUBJECTS
async def test_a_start_tells_its_phases_in_order_and_counts_nothing(
    config: EngineConfig, save: Callable[[Path], str], tmp_path: Path
) -> None:
    heard: list[str] = []
    engine = build(config, save(tmp_path))

    await engine.start(lambda phase, _: heard.append(phase))

    stats = engine.stats()
    await engine.close()
    assert list(dict.fromkeys(heard)) == ["load", "warm up"]
    assert (stats.steps, stats.started_requests, stats.prompt_tokens, stats.completion_tokens) == (0, 0, 0, 0)


@SUBJECTS
async def test_a_model_that_gives_nan_does_not_start(
    config: EngineConfig, save: Callable[[Path], str], tmp_path: Path
) -> None:
    checkpoint = save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for tensor in weights.values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    engine = build(config, checkpoint)

    with pytest.raises(CheckpointError, match="not numbers"):
        await engine.start()
