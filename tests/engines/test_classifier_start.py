"""What a classifier engine finds out about its checkpoint when it starts, and what a fault while it reads does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer, BertForSequenceClassification

from ensemble.engines.classifier_loading import LoadedClassifier
from ensemble.engines.config import EmbeddedEngineConfig
from ensemble.engines.embedded import EmbeddedEngine
from ensemble.engines.pass_faults import MAX_FAULTS_IN_A_ROW
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import CheckpointError, MemberError, MemberRefusedError
from tests.engines.classifier_runs import TEXTS, ask, ask_together, running, score_plainly
from tests.engines.tiny_checkpoints import save_random_llama
from tests.engines.tiny_classifiers import bert_config, gpt2_config, roberta_config, save_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("bert"), bert_config())


async def test_a_text_fills_the_positions_that_numbering_from_the_padding_token_leaves(tmp_path: Path) -> None:
    checkpoint = save_classifier(tmp_path, roberta_config())

    async with running(checkpoint) as engine:
        longest = await engine.score(ask("w1 " * 127))
        with pytest.raises(MemberRefusedError, match="128 tokens and the context holds 127"):
            await engine.score(ask("w1 " * 128))

    assert longest.prompt_tokens == 127


async def test_without_any_padding_token_a_pass_reads_one_text(tmp_path: Path) -> None:
    checkpoint = save_classifier(tmp_path, gpt2_config(), has_padding=False)
    texts = ("w1 w2", "w3 w4", "w5 w6 w7")

    async with running(checkpoint) as engine:
        together = await ask_together(engine, texts)
        stats = engine.stats()

    for text, scores in zip(texts, together, strict=True):
        assert scores.logprobs == pytest.approx(score_plainly(checkpoint, text), abs=2e-4)
    assert (stats.max_batch, stats.steps) == (1, len(texts))


async def test_a_padding_token_without_an_embedding_is_none(tmp_path: Path) -> None:
    checkpoint = save_classifier(tmp_path, gpt2_config())
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_special_tokens({"pad_token": "[FILL]"})
    tokenizer.save_pretrained(checkpoint)

    async with running(checkpoint) as engine:
        await ask_together(engine, TEXTS)
        stats = engine.stats()

    assert (stats.max_batch, stats.finished_requests) == (1, len(TEXTS))


async def test_a_model_that_cannot_read_a_text_is_a_bad_checkpoint(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BertForSequenceClassification, "forward", fail_to_read)

    with pytest.raises(CheckpointError, match="cannot read a text"):
        async with running(bert):
            pass


def fail_to_read(*_: object, **__: object) -> torch.Tensor:
    raise ValueError("no such mask")


async def test_a_forward_pass_that_raises_fails_its_own_requests_alone(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = LoadedClassifier.compute_logits

    def trip_over_four(model: LoadedClassifier, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        if any(len(text) == 4 for text in texts):
            raise IndexError("four is out of bounds")
        return compute(model, texts)

    async with running(bert, max_batch=1) as engine:
        monkeypatch.setattr(LoadedClassifier, "compute_logits", trip_over_four)
        for _ in range(4):
            with pytest.raises(MemberError, match="the forward pass failed: IndexError: four is out of bounds"):
                await engine.score(ask("w1 w1 w1 w1"))
        scores = await engine.score(ask("w1"))
        await engine.check_health()
        stats = engine.stats()

    assert scores.logprobs == pytest.approx(score_plainly(bert, "w1"), abs=2e-4)
    assert (stats.finished_requests, stats.running_requests, stats.waiting_requests) == (1, 0, 0)


async def test_a_model_that_reads_nothing_any_more_makes_its_engine_unhealthy(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(bert) as engine:
        monkeypatch.setattr(LoadedClassifier, "compute_logits", fail_to_read)
        for _ in range(MAX_FAULTS_IN_A_ROW):
            await engine.check_health()
            with pytest.raises(MemberError, match="the forward pass failed: ValueError: no such mask"):
                await engine.score(ask("w1"))
        with pytest.raises(MemberError, match="no such mask"):
            await engine.score(ask("w1"))
        with pytest.raises(MemberError, match="the engine failed: ValueError: no such mask"):
            await engine.check_health()
        stats = engine.stats()

    assert (stats.finished_requests, stats.running_requests, stats.waiting_requests) == (0, 0, 0)


async def test_labels_that_meet_after_normalisation_are_refused_at_the_start(tmp_path: Path) -> None:
    checkpoint = save_classifier(tmp_path, bert_config(), labels=("a b", "A  B", "c"))

    with pytest.raises(CheckpointError, match="not distinct"):
        async with running(checkpoint):
            pass


async def test_a_causal_model_is_no_classifier_and_a_classifier_cannot_write(tmp_path: Path, bert: str) -> None:
    causal = save_random_llama(tmp_path)
    embedded = EmbeddedEngine(
        EmbeddedEngineConfig(device="cpu"), checkpoint=bert, member="m", prompt_format=PromptFormat()
    )

    with pytest.raises(CheckpointError, match=r"engine\.type to embedded"):
        async with running(causal):
            pass
    with pytest.raises(CheckpointError, match=r"engine\.type to classifier"):
        await embedded.start()
