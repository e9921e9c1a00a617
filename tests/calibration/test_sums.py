"""The arrays say what the real tallies say."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.sums import HARD_STRATEGIES, SOFT_STRATEGIES, add_up, counted_weights, reach_of, shares_of
from ensemble.calibration.vote_arrays import build_arrays
from ensemble.voting.asking import decide_stage
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.calibrated import MemberCalibration, calibrate_ballot
from ensemble.voting.registry import get_strategy
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Question, Quorum, VoteCalibration
from tests.calibration.simulated import soft_ballot, softmax

WEIGHTS = (1.3, 0.7, 0.45)
VOTERS = tuple(Voter(member=f"m{n}", family=f"f{n}", weight=weight) for n, weight in enumerate(WEIGHTS))
CALIBRATION = VoteCalibration(kappa=1.0)


def _items(seed: int, *, labels: bool) -> list[ItemVotes]:
    generator = random.Random(seed)
    items = []
    for number in range(40):
        choices = ["x", "y", "z"] if labels else [f"c{number}-{n}" for n in range(generator.randint(2, 4))]
        generator.shuffle(choices)
        votes: list[Vote] = []
        for voter in VOTERS:
            if generator.random() < 0.15:
                votes.append(Abstention(member=voter.member, reason=AbstentionReason.ERROR))
            else:
                logits = [generator.choice([0.0, 0.0, 1.0, -9.0, generator.gauss(0, 3)]) for _ in choices]
                votes.append(soft_ballot(voter.member, softmax(logits)))
        item = LabelledItem(item_id=str(number), prompt="?", choices=tuple(choices), answer=0)
        items.append(ItemVotes(item=item, votes=tuple(votes)))
    return items


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("strategy", [*HARD_STRATEGIES, *SOFT_STRATEGIES])
def test_sums_and_margins_are_those_of_the_tally(strategy: str, labels: bool) -> None:  # noqa: FBT001
    items = _items(3, labels=labels)
    arrays = build_arrays(items, VOTERS, answer_rule=AnswerRule())
    weights = counted_weights(strategy, np.array(WEIGHTS))

    sums = add_up(shares_of(strategy, arrays), weights)

    cast = np.where(arrays.has_ballot_NM, weights, 0.0).sum(axis=1)
    for row, item in enumerate(items):
        question = Question(panel=VOTERS, quorum=Quorum(), choices=item.item.choices, calibration=CALIBRATION)
        decision = decide_stage(question, get_strategy(strategy), item.votes)
        if decision is None:
            continue
        names = arrays.labels or item.item.choices
        weight_by_answer = {candidate.answer: candidate.weight for candidate in decision.candidates}
        own = dict(zip(names, sums[row], strict=False))
        assert own == pytest.approx({name: weight_by_answer.get(name, 0.0) for name in names}, abs=1e-9)
        second, first = sorted(own.values())[-2:]
        margin = (first - second) / (cast[row] * reach_of(strategy, arrays)[row])
        assert min(margin, 1.0) == pytest.approx(decision.margin, abs=1e-9)


@pytest.mark.parametrize("labels", [True, False])
def test_corrected_arrays_are_corrected_ballots(labels: bool) -> None:  # noqa: FBT001
    items = _items(5, labels=labels)
    corrections = [
        MemberCalibration(temperature=0.5 + place, bias_by_label={"x": 0.3, "y": -0.2, "z": 0.1} if labels else {})
        for place in range(len(VOTERS))
    ]

    corrected = build_arrays(items, VOTERS, answer_rule=AnswerRule()).correct(corrections)

    for row, item in enumerate(items):
        names = corrected.labels or item.item.choices
        for place, (vote, correction) in enumerate(zip(item.votes, corrections, strict=True)):
            if isinstance(vote, Ballot):
                ballot = calibrate_ballot(vote, item.item.choices, correction)
                probability = dict(zip(item.item.choices, ballot.probabilities, strict=True))
                found = np.exp(corrected.log_probability_NMK[row, place, : len(names)])
                assert found.tolist() == pytest.approx([probability[name] for name in names], abs=1e-9)


def test_short_answers_meet_by_their_normalised_form_and_the_last_candidate_is_unseen() -> None:
    item = LabelledItem(item_id="1", prompt="?", reference="Lake Victoria")
    texts = ("The answer is: lake victoria.", "Answer: Lake Chad", "I cannot answer that.")
    votes = tuple(Ballot(member=f"m{n}", text=text) for n, text in enumerate(texts))

    arrays = build_arrays([ItemVotes(item=item, votes=votes)], VOTERS, answer_rule=AnswerRule())

    assert arrays.choice_NM.tolist() == [[1, 0, -1]]
    assert arrays.answer_N.tolist() == [1]
    assert arrays.is_candidate_NK.tolist() == [[True, True, True]]


def test_a_reference_that_nobody_gave_is_the_unseen_candidate() -> None:
    item = LabelledItem(item_id="1", prompt="?", reference="Lake Victoria")
    votes = tuple(Ballot(member=f"m{n}", text="Answer: Lake Chad") for n in range(3))

    arrays = build_arrays([ItemVotes(item=item, votes=votes)], VOTERS, answer_rule=AnswerRule())

    assert arrays.answer_N.tolist() == [1]
