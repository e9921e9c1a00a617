"""The classifier engine against transformers' own forward pass, and what it refuses."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from ensemble.engines.classifier_loading import LoadedClassifier
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberBusyError, MemberError, MemberRefusedError
from ensemble.generation import EmbeddingRequest, GenerationParameters, GenerationRequest, ScoringRequest
from tests.engines.classifier_runs import TEXTS, ask, ask_together, running, score_plainly
from tests.engines.tiny_classifiers import (
    bert_config,
    fnet_config,
    gpt2_config,
    llama_config,
    roberta_config,
    save_classifier,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from transformers import PreTrainedConfig


@pytest.fixture(
    scope="module",
    params=[bert_config, roberta_config, llama_config, gpt2_config, fnet_config],
    ids=["bert", "roberta", "llama", "gpt2", "fnet"],
)
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    config: Callable[[], PreTrainedConfig] = request.param
    return save_classifier(tmp_path_factory.mktemp("classifier"), config())


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("bert"), bert_config())


async def test_together_texts_get_the_scores_that_each_gets_alone_from_plain_transformers(classifier: str) -> None:
    async with running(classifier) as engine:
        together = await ask_together(engine, TEXTS)
        stats = engine.stats()

    for text, scores in zip(TEXTS, together, strict=True):
        assert scores.logprobs == pytest.approx(score_plainly(classifier, text), abs=2e-4)
        assert scores.num_tokens == (1, 1, 1)
    assert (stats.finished_requests, stats.running_requests, stats.waiting_requests) == (len(TEXTS), 0, 0)
    assert stats.prompt_tokens == sum(scores.prompt_tokens for scores in together) == sum(map(count_words, TEXTS))


def count_words(text: str) -> int:
    return len(text.split())


async def test_waiting_requests_share_a_forward_pass_where_filling_up_is_sound(bert: str) -> None:
    async with running(bert, max_batch=3) as engine:
        await ask_together(engine, TEXTS)
        stats = engine.stats()

    assert 1 < stats.max_batch <= 3
    assert stats.steps < len(TEXTS)


async def test_the_scores_are_over_the_asked_labels_alone(bert: str) -> None:
    async with running(bert) as engine:
        scores = await engine.score(ask("w3 w4", ("negative", "positive")))

    assert scores.logprobs == pytest.approx(score_plainly(bert, "w3 w4", (0, 2)), abs=1e-4)


async def test_a_template_words_the_text_only_when_the_member_gives_one(bert: str) -> None:
    async with running(bert, PromptFormat(score_template="w7 {prompt} w8")) as engine:
        scores = await engine.score(ask("w3"))

    assert scores.logprobs == pytest.approx(score_plainly(bert, "w7 w3 w8"), abs=1e-4)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (ask("w1", ("positive", "angry")), "'angry' is none of its labels, which are negative, Neutral, positive"),
        (ask("w1", ()), "no choices"),
        (ask("  "), "no tokens"),
        (ask("w1 " * 129), "129 tokens and the context holds 128"),
    ],
)
async def test_what_cannot_be_classified_is_refused_and_the_next_request_is_served(
    bert: str, request_: ScoringRequest, problem: str
) -> None:
    async with running(bert) as engine:
        with pytest.raises(MemberRefusedError, match=problem):
            await engine.score(request_)
        scores = await engine.score(ask("w1"))
        stats = engine.stats()

    assert len(scores.logprobs) == 3
    assert (stats.finished_requests, stats.running_requests, stats.waiting_requests) == (1, 0, 0)


async def test_completions_and_embeddings_are_refused(bert: str) -> None:
    async with running(bert) as engine:
        with pytest.raises(MemberRefusedError, match="writes no text"):
            await anext(
                engine.generate(GenerationRequest(request_id="g", prompt="w1", parameters=GenerationParameters()))
            )
        with pytest.raises(MemberRefusedError, match="no embeddings"):
            await engine.embed(EmbeddingRequest(request_id="e", texts=("w1",)))


async def test_a_request_beyond_the_queue_is_refused_and_the_others_are_served(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read = threading.Event()
    compute = LoadedClassifier.compute_logits

    def compute_when_told(model: LoadedClassifier, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        may_read.wait()
        return compute(model, texts)

    async with running(bert, max_batch=1, max_waiting=1) as engine:
        monkeypatch.setattr(LoadedClassifier, "compute_logits", compute_when_told)
        inside = [asyncio.create_task(engine.score(ask(text))) for text in ("w1", "w2")]
        await asyncio.sleep(0)  # One turn of the event loop lets the tasks put their requests in.
        with pytest.raises(MemberBusyError):
            await engine.score(ask("w3"))
        inside[1].cancel()
        await asyncio.wait(inside[1:])
        may_read.set()
        scores = await inside[0]
        await engine.score(ask("w4"))
        stats = engine.stats()

    assert len(scores.logprobs) == 3
    assert (stats.aborted_requests, stats.finished_requests, stats.steps) == (1, 2, 2)


async def test_a_cancelled_request_leaves_the_engine(bert: str) -> None:
    async with running(bert) as engine:
        task = asyncio.create_task(engine.score(ask("w1")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.score(ask("w2"))
        stats = engine.stats()

    assert stats.running_requests == stats.waiting_requests == 0
    assert stats.aborted_requests + stats.finished_requests == 2
    assert stats.max_steps_to_abort <= 1


async def test_a_closed_engine_refuses_and_closing_twice_is_closing_once(bert: str) -> None:
    async with running(bert) as engine:
        await engine.check_health()
        await engine.close()
        await engine.close()

        with pytest.raises(MemberError, match="closed"):
            await engine.score(ask("w1"))
        with pytest.raises(MemberError, match="closed"):
            await engine.check_health()
