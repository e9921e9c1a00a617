from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.outcomes import VoteSetup, question_of, votes_of
from ensemble.calibration.parameters import build_panel_sums
from ensemble.calibration.partial_votes import list_patterns
from ensemble.calibration.vote_arrays import build_arrays
from ensemble.voting.ballot import Abstention, AbstentionReason
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.registry import get_strategy
from ensemble.voting.short_answer import AnswerRule
from tests.calibration.simulated import Population, simulate, voters_of

LABELS = ("red", "green", "blue")
PRIORS = np.array([0.3, 0.0, -0.2])
WEIGHTS = (2.5, 1.5, 1.0, 0.4)
POPULATION = Population(skills=(2.0, 1.5, 1.0, 0.5), families=tuple("abcd"), num_choices=3)
VOTERS = voters_of(POPULATION)


def _items(num_items: int, *, seed: int) -> list[ItemVotes]:
    """Make items of the same labels, on which every tenth ballot is missing."""
    generator = np.random.default_rng(seed)
    items = []
    for item in simulate(POPULATION, num_items, seed=seed):
        votes = tuple(
            Abstention(member=vote.member, reason=AbstentionReason.ERROR) if generator.uniform() < 0.1 else vote
            for vote in item.votes
        )
        labelled = LabelledItem(item_id=item.item.item_id, prompt="?", choices=LABELS, answer=item.item.answer)
        items.append(replace(item, item=labelled, votes=votes))
    return items


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("majority", (1.0, 1.0, 1.0, 1.0)),
        ("weighted_vote", WEIGHTS),
        ("soft_vote", WEIGHTS),
        ("log_pool", WEIGHTS),
        ("borda", WEIGHTS),
        ("stacking", (2.5, 1.5, 1.0, -0.4)),
    ],
)
def test_patterns_are_what_the_tally_sees_where_a_certificate_may_be_asked(
    strategy: str, weights: tuple[float, ...]
) -> None:
    items = _items(60, seed=3)
    setup = _setup(strategy, weights)
    arrays = build_arrays(items, VOTERS, answer_rule=AnswerRule())

    patterns = list(list_patterns(build_panel_sums(strategy, arrays, np.array(weights), PRIORS)))

    seen = {
        (int(row), pattern.voted): (pattern.backers, round(float(pattern.margin_N[row]), 9))
        for pattern in patterns
        for row in np.flatnonzero(pattern.is_item_N)
    }
    asked = {
        (row, frozenset(subset)): (frozenset(decision.candidates[0].members), round(decision.margin, 9))
        for row, item in enumerate(items)
        for subset in _subsets()
        if (decision := _decide_open(setup, item, subset)) is not None
    }
    assert len(asked) > 100
    assert seen == asked


def _setup(strategy: str, weights: Sequence[float]) -> VoteSetup:
    members = [voter.member for voter in VOTERS]
    fitted = StrategyCalibration(
        weight_by_member=dict(zip(members, weights, strict=True)),
        kappa=1.0,
        log_prior_by_label=dict(zip(LABELS, PRIORS.tolist(), strict=True)),
    )
    calibration = EnsembleCalibration(
        digest="x",
        by_member=dict.fromkeys(members, MemberCalibration()),
        by_strategy={strategy: fitted},
        labels=LABELS,
    )
    return VoteSetup(strategy=strategy, panel=VOTERS, calibration=calibration)


def _subsets() -> list[tuple[str, ...]]:
    members = [voter.member for voter in VOTERS]
    return [subset for size in range(1, len(members)) for subset in itertools.combinations(members, size)]


def _decide_open(setup: VoteSetup, item: ItemVotes, subset: Sequence[str]) -> Decision | None:
    """Decide with these votes, unless somebody abstained, there is a tie, or the vote is decided without loss."""
    votes = votes_of(setup, item)
    tally = get_strategy(setup.strategy).open_tally(question_of(setup, item.item))
    for member in subset:
        tally = tally.add(votes[member])
    if tally.num_cast < len(subset) or tally.is_decided():
        return None
    decision = tally.decide(DecidedBy.DEADLINE)
    return decision if decision.margin > 1e-6 else None
