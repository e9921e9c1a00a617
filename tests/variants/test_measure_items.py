"""Items are scored as the engine scores choices, and silence is no right answer."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from scipy import stats

from ensemble.calibration.items import LabelledItem
from ensemble.engines.engine import Engine
from ensemble.errors import MemberRefusedError
from ensemble.generation import ChoiceScores, ScoringRequest
from ensemble.variants.measure_items import ask_items, measure_accuracy
from ensemble.voting.ballot import Abstention, Ballot
from tests.engines.embedded_runs import make_prompt, mean_logprob_plainly, running
from tests.engines.tiny_checkpoints import save_random_llama

ITEMS = tuple(
    LabelledItem(item_id=f"i{number}", prompt=make_prompt(5 + number), choices=("w1", "w2 w3", "w4"), answer=number % 3)
    for number in range(8)
)


async def test_the_choice_is_that_of_the_greatest_mean_log_probability(tmp_path: Path) -> None:
    checkpoint = save_random_llama(tmp_path)

    async with running(checkpoint) as engine:
        votes = await ask_items(engine, "m", ITEMS)

    expected = [
        max(
            item.choices,
            key=lambda choice, item=item: mean_logprob_plainly(  # type: ignore[misc]
                checkpoint, f"Question: {item.prompt}\nAnswer:", f" {choice}"
            ),
        )
        for item in ITEMS
    ]
    assert [vote.choice for vote in votes if isinstance(vote, Ballot)] == expected
    num_right = sum(choice == item.choices[item.answer or 0] for choice, item in zip(expected, ITEMS, strict=True))
    exact = stats.binomtest(num_right, len(ITEMS)).proportion_ci(method="exact")
    accuracy = measure_accuracy(votes, ITEMS)
    assert accuracy.value == num_right / len(ITEMS)
    assert (accuracy.interval.low, accuracy.interval.high) == pytest.approx((exact.low, exact.high))


async def test_an_item_that_an_engine_refuses_is_an_abstention_and_counts_as_wrong() -> None:
    class Picky:
        async def score(self, request: ScoringRequest) -> ChoiceScores:
            if request.request_id == "i0":
                raise MemberRefusedError("m", "too long")
            return ChoiceScores(logprobs=(-1.0, -2.0, -3.0), num_tokens=(1, 1, 1), prompt_tokens=4)

    votes = await ask_items(cast("Engine", Picky()), "m", ITEMS)

    assert isinstance(votes[0], Abstention)
    assert votes[0].detail == "too long"
    # Everything else votes for the first choice, which is right on items 3 and 6 (and would be on 0).
    assert measure_accuracy(votes, ITEMS).value == 2 / 8
