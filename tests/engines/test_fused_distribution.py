"""Completions of several checkpoints are distributed as they should: chi-square tests over a small vocabulary.

Seeds are fixed, so a test that passes keeps passing. The threshold is what an exact engine falls below once in a
thousand choices of seeds.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy import stats

from ensemble.engines import fused_drafts
from ensemble.engines.batch_loop import BatchLoop
from ensemble.engines.fused_drafts import Proposal
from ensemble.engines.fused_loading import load_fused
from ensemble.engines.fused_speculation import SpeculativeBatch
from ensemble.engines.inbox import Inbox
from ensemble.engines.jobs import GenerationJob
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import CompletionChunk, GenerationParameters, GenerationRequest
from tests.engines.fused_runs import WEIGHTS, decode_plainly, encode_plainly, eos_of, fused_config, mix_plainly
from tests.engines.tiny_checkpoints import save_random_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ensemble.engines.batch import Batch
    from ensemble.engines.engine_thread import Deliveries

NUM_SAMPLES = 10_000
NUM_WORDS = 6
NUM_TOKENS = 3
PROMPT = "w1 w2 w3"
P_THRESHOLD = 1e-3
SPECULATIVE = {"method": "speculative", "max_draft": 4}
_MAX_BATCH = 250
_LEAST_EXPECTED = 5.0


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("group")
    return tuple(save_random_llama(folder / str(seed), seed=seed, num_words=NUM_WORDS) for seed in (3, 4))


def _sample_texts(
    group: Sequence[str], cache_dir: Path, *, options: dict[str, Any], **parameters: Any
) -> tuple[Counter[str], Batch]:
    """Draw NUM_SAMPLES completions, many at once; give what they were decoded with too."""
    config = fused_config(group[1:], weights=WEIGHTS, max_batch=_MAX_BATCH, **options)
    model = load_fused(config, checkpoint=group[0], member="m", prompt_format=PromptFormat(), cache_dir=cache_dir)
    inbox = Inbox(member="m", max_jobs=NUM_SAMPLES)
    texts: dict[GenerationJob, str] = {}

    def deliver(deliveries: Deliveries) -> None:
        for job, chunk in deliveries:
            assert isinstance(job, GenerationJob)
            assert isinstance(chunk, CompletionChunk)
            texts[job] = texts.get(job, "") + chunk.text

    loop = BatchLoop(model=model, inbox=inbox, deliver=deliver)
    for seed in range(NUM_SAMPLES):
        drawn = GenerationParameters(max_tokens=NUM_TOKENS, seed=seed, **parameters)
        inbox.put(GenerationJob(request=GenerationRequest(request_id="r", prompt=PROMPT, parameters=drawn)))
    with torch.inference_mode():
        while inbox.num_jobs:
            loop._turn()
    assert len(texts) == NUM_SAMPLES
    return Counter(texts.values()), loop._batch


def _expect_texts(group: Sequence[str], next_token: Callable[[list[int]], torch.Tensor]) -> dict[str, float]:
    """Give each text's probability, by going through all sequences of tokens."""
    prompt = encode_plainly(group[0], PROMPT)
    probability_by_text: defaultdict[str, float] = defaultdict(float)
    ends: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(NUM_TOKENS):
        going_on: dict[tuple[int, ...], float] = {}
        for tokens, reached in ends.items():
            for token, probability in enumerate(next_token([*prompt, *tokens]).tolist()):
                if token == eos_of(group[0]):
                    probability_by_text[_text(group, tokens)] += reached * probability
                else:
                    going_on[*tokens, token] = reached * probability
        ends = going_on
    for tokens, reached in ends.items():
        probability_by_text[_text(group, tokens)] += reached
    return dict(probability_by_text)


def _shape_mixture(group: Sequence[str], *, pooling: str, temperature: float = 1.0, top_p: float = 1.0) -> Any:
    """Mix the checkpoints' next-token probabilities, then shape them."""
    return lambda tokens: _shape(mix_plainly(group, tokens, pooling=pooling, weights=WEIGHTS)[-1], temperature, top_p)


def _mix_shaped(group: Sequence[str], *, temperature: float = 1.0, top_p: float = 1.0) -> Any:
    """Shape each checkpoint's next-token probabilities, then mix them."""

    def next_token(tokens: list[int]) -> torch.Tensor:
        alone = [mix_plainly([one], tokens, pooling="linear", weights=(1.0,))[-1] for one in group]
        shaped = [_shape(probabilities, temperature, top_p) for probabilities in alone]
        return torch.stack([weight * p for weight, p in zip(WEIGHTS, shaped, strict=True)]).sum(0)

    return next_token


def _text(group: Sequence[str], tokens: Sequence[int]) -> str:
    prompt = encode_plainly(group[0], PROMPT)
    return decode_plainly(group[0], [*prompt, *tokens]).removeprefix(PROMPT)


def _shape(probabilities: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Apply temperature, then keep the fewest likeliest tokens that reach top_p."""
    shaped = probabilities ** (1 / temperature)
    shaped = shaped / shaped.sum()
    order = shaped.argsort(descending=True).tolist()
    reached = itertools.accumulate((shaped[token].item() for token in order), initial=0.0)
    for token, before in zip(order, reached, strict=False):
        if before >= top_p:
            shaped[token] = 0.0
    return shaped / shaped.sum()


def _p_value(counts: Counter[str], probability_by_text: dict[str, float]) -> float:
    """Test the counts with Pearson's chi-square; rare texts share a cell."""
    assert sum(probability_by_text.values()) == pytest.approx(1.0)
    assert all(probability_by_text.get(text, 0.0) > 0 for text in counts)
    common = {text: p for text, p in probability_by_text.items() if p * NUM_SAMPLES >= _LEAST_EXPECTED}
    observed = [counts[text] for text in common]
    expected = [p * NUM_SAMPLES for p in common.values()]
    rest = (NUM_SAMPLES - sum(observed), NUM_SAMPLES - sum(expected))
    if rest[1] >= _LEAST_EXPECTED:
        observed.append(rest[0])
        expected.append(rest[1])
    assert len(observed) >= 10
    scale = sum(observed) / sum(expected)
    return float(stats.chisquare(observed, [e * scale for e in expected]).pvalue)


@pytest.mark.parametrize(
    ("pooling", "parameters"),
    [
        ("linear", {"temperature": 1.0, "top_p": 1.0}),
        ("geometric", {"temperature": 1.0, "top_p": 1.0}),
        ("linear", {"temperature": 1.5, "top_p": 0.9}),
    ],
    ids=str,
)
def test_speculative_samples_are_the_mixture_s(
    group: tuple[str, ...], tmp_path: Path, pooling: str, parameters: dict[str, float]
) -> None:
    counts, batch = _sample_texts(group, tmp_path, options={**SPECULATIVE, "mixture": pooling}, **parameters)

    assert isinstance(batch, SpeculativeBatch)
    # Proposals were kept, and some were not: both ways to a token were taken.
    assert 0.1 < batch.pace.num_kept / batch.pace.num_settled < 0.95
    expected = _expect_texts(group, _shape_mixture(group, pooling=pooling, **parameters))
    assert _p_value(counts, expected) > P_THRESHOLD


@pytest.mark.parametrize("parameters", [{"temperature": 1.0}, {"temperature": 1.5, "top_p": 0.9}], ids=str)
def test_mix_sample_s_samples_are_the_checkpoints_own_mixed(
    group: tuple[str, ...], tmp_path: Path, parameters: dict[str, float]
) -> None:
    counts, _ = _sample_texts(group, tmp_path, options={"method": "mix_sample"}, **parameters)

    assert _p_value(counts, _expect_texts(group, _mix_shaped(group, **parameters))) > P_THRESHOLD


def _keep_all(mixed_SV: torch.Tensor, proposals: Sequence[Proposal]) -> torch.Tensor:
    return torch.tensor([proposal.token for proposal in proposals], device=mixed_SV.device)


def _replace_from_the_mixture(mixed_SV: torch.Tensor, proposals: Sequence[Proposal]) -> torch.Tensor:
    """Accept as it should be, and draw what is not kept from the whole mixture instead of what is beyond."""
    wanted_SV = mixed_SV.double().exp()
    token_S = torch.tensor([proposal.token for proposal in proposals])
    ratio_S = torch.stack(
        [p_V[x.token] / x.probability_V[x.token] for p_V, x in zip(wanted_SV, proposals, strict=True)]  # type: ignore[index]
    )
    is_kept_S = torch.tensor([x.uniforms[1] for x in proposals]) < ratio_S
    return torch.where(is_kept_S, token_S, torch.multinomial(wanted_SV, 1)[:, 0])


@pytest.mark.parametrize("broken", [_keep_all, _replace_from_the_mixture])
def test_the_test_of_the_distribution_sees_broken_acceptance(
    group: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    monkeypatch.setattr(fused_drafts, "_keep_or_replace", broken)
    torch.manual_seed(0)

    counts, _ = _sample_texts(group, tmp_path, options=SPECULATIVE, temperature=1.0)

    assert _p_value(counts, _expect_texts(group, _shape_mixture(group, pooling="linear"))) < P_THRESHOLD / 1000
