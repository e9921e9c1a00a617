"""Drawing tokens from logits."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from ensemble.engines.sampling import Sampler, choose_tokens
from ensemble.generation import GenerationParameters

PROBABILITIES = (0.5, 0.3, 0.15, 0.05)
NUM_DRAWS = 4000


def _sampler(temperature: float = 0.0, top_p: float = 1.0, seed: int | None = 1) -> Sampler:
    return Sampler.from_parameters(GenerationParameters(temperature=temperature, top_p=top_p, seed=seed))


def _draw_shares(sampler: Sampler) -> list[float]:
    logits = torch.tensor([PROBABILITIES]).log()
    counts = Counter(choose_tokens(logits, [sampler])[0][0] for _ in range(NUM_DRAWS))
    return [counts[token] / NUM_DRAWS for token in range(len(PROBABILITIES))]


# Four standard deviations of a share of 0.5 over 4,000 draws are 0.032.
@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, PROBABILITIES),
        (0.5, 1.0, [p * p / sum(q * q for q in PROBABILITIES) for p in PROBABILITIES]),
        (1.0, 0.7, [0.5 / 0.8, 0.3 / 0.8, 0.0, 0.0]),
        (1.0, 0.01, [1.0, 0.0, 0.0, 0.0]),
        (1e-300, 1.0, [1.0, 0.0, 0.0, 0.0]),
    ],
    ids=["plain", "cooler", "nucleus", "smallest_nucleus", "vanishing_temperature"],
)
def test_tokens_are_drawn_by_the_distribution_asked_for(
    temperature: float, top_p: float, expected: list[float]
) -> None:
    assert _draw_shares(_sampler(temperature, top_p)) == pytest.approx(expected, abs=0.032)


def test_a_nucleus_leaves_out_exactly_what_lies_beyond_it() -> None:
    assert _draw_shares(_sampler(1.0, 0.7))[2:] == [0.0, 0.0]


def test_log_probabilities_are_the_unmodified_distribution_s() -> None:
    logits = torch.tensor([PROBABILITIES, PROBABILITIES]).log()

    (greedy, greedy_logprob), (drawn, drawn_logprob) = choose_tokens(logits, [_sampler(), _sampler(0.1, 0.2)])

    assert (greedy, drawn) == (0, 0)
    assert (greedy_logprob, drawn_logprob) == pytest.approx((math.log(0.5), math.log(0.5)), abs=1e-6)


def test_greedy_and_drawing_rows_mix_without_touching_each_other() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))

    alone = choose_tokens(logits[1:2], [_sampler(1.0, 0.9, seed=5)])
    mixed = choose_tokens(logits, [_sampler(), _sampler(1.0, 0.9, seed=5), _sampler(2.0, seed=6)])

    assert mixed[1][0] == alone[0][0]
    assert mixed[0][0] == int(logits[0].argmax())


def test_no_seed_draws_anew_each_time() -> None:
    logits = torch.zeros(1, 10_000)

    assert len({choose_tokens(logits, [_sampler(1.0, seed=None)])[0][0] for _ in range(8)}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_give_a_log_probability_that_is_not_a_number(temperature: float) -> None:
    logits = torch.tensor([[1.0, math.nan, 2.0]])

    assert math.isnan(choose_tokens(logits, [_sampler(temperature)])[0][1])
