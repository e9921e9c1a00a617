"""What a calibration adds to sums: priors, confidence, label sets, certificates; and what adding a ballot costs."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError
from ensemble.voting import AbstentionReason, Ballot, DecidedBy, Question, Quorum
from ensemble.voting.linear import LinearTally
from ensemble.voting.strategy import Certificate, VoteCalibration
from tests.voting.panels import build_question, count, decide, hard, silent, soft, text


def certificate(backers: set[str], others: AbstractSet[str] = frozenset(), min_margin: float = 0.0) -> Certificate:
    return Certificate(
        backers=frozenset(backers),
        others=frozenset(others),
        min_margin=min_margin,
        num_items=299,
        num_disagreements=0,
        bound=0.01,
    )


def certified(*certificates: Certificate, weights: tuple[float, ...] = (1.0,) * 5) -> Question:
    return build_question(weights, calibration=VoteCalibration(kappa=1.0, certificates=certificates))


def test_confidence_is_the_tempered_softmax_of_the_sums() -> None:
    question = build_question([2.0, 1.0], calibration=VoteCalibration(kappa=0.5, withhold_below=0.5))

    decision = decide("weighted_vote", question, [hard(0, "red"), hard(1, "blue")])

    odds = [math.exp(0.5 * score) for score in (2.0, 1.0, 0.0)]
    assert decision.confidence == pytest.approx(odds[0] / sum(odds))
    assert not decision.withheld
    assert decision.label_set == ()


def test_a_guess_is_withheld() -> None:
    question = build_question([2.0, 1.0], calibration=VoteCalibration(kappa=0.5, withhold_below=0.51))

    assert decide("weighted_vote", question, [hard(0, "red"), hard(1, "blue")]).withheld


def test_a_short_answer_leaves_room_for_one_that_nobody_gave() -> None:
    question = build_question([2.0, 1.0], (), calibration=VoteCalibration(kappa=1.0, conformal_threshold=0.9))

    decision = decide("weighted_vote", question, [text(0, "Paris"), text(1, "Rome")])

    assert decision.confidence == pytest.approx(math.exp(2) / (math.exp(2) + math.exp(1) + 1))
    assert decision.label_set == ()


@settings(max_examples=1000, deadline=None)
@given(
    votes=st.lists(st.tuples(st.sampled_from(["red", "green", "blue"]), st.floats(0.1, 9.0)), min_size=1, max_size=5)
)
def test_kappa_towards_zero_gives_the_uniform_posterior(votes: list[tuple[str, float]]) -> None:
    weights = [weight for _, weight in votes]
    ballots = [hard(n, choice) for n, (choice, _) in enumerate(votes)]

    nothing, little = (
        decide("weighted_vote", build_question(weights, calibration=VoteCalibration(kappa=kappa)), ballots).confidence
        for kappa in (0.0, 1e-9)
    )

    assert nothing == 1 / 3
    assert little == pytest.approx(1 / 3, abs=1e-7)


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [
        (0.0, ("red",)),  # empty by the rule alone: the answer stays
        (1 - 0.6, ("red",)),
        (1 - 0.3, ("red", "blue")),
        (1 - 0.1, ("red", "blue", "green")),
        (float("inf"), ("red", "blue", "green")),
    ],
)
def test_the_label_set_has_the_choices_that_are_likely_enough(threshold: float, labels: tuple[str, ...]) -> None:
    question = build_question([1.0], calibration=VoteCalibration(kappa=1.0, conformal_threshold=threshold))

    decision = decide("log_pool", question, [soft(0, 0.6, 0.1, 0.3)])

    assert decision.label_set == labels


def test_log_priors_are_part_of_the_sums_and_back_nobody() -> None:
    question = build_question([1.0, 1.0], calibration=VoteCalibration(kappa=1.0, log_priors=(-1.5, 0.0, 0.75)))

    decision = decide("weighted_vote", question, [hard(0, "red"), hard(1, "blue")])

    assert decision.answer == "blue"
    assert {candidate.answer: candidate.weight for candidate in decision.candidates} == {"blue": 1.75, "red": -0.5}
    assert decision.agreement == 0.5
    assert decision.margin == pytest.approx(1.75 / 2)


@pytest.mark.parametrize(
    ("calibration", "field"),
    [
        (VoteCalibration(kappa=float("nan")), "kappa"),
        (VoteCalibration(kappa=-1.0), "kappa"),
        (VoteCalibration(kappa=1.0, log_priors=(0.0,)), "log_priors"),
        (VoteCalibration(kappa=1.0, log_priors=(0.0, 0.0, float("-inf"))), "log_priors"),
    ],
)
def test_a_calibration_that_cannot_be_counted_with_is_refused(calibration: VoteCalibration, field: str) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        count("weighted_vote", build_question([1.0], calibration=calibration), [])


def test_a_certificate_ends_the_vote_of_those_it_names() -> None:
    tally = count("weighted_vote", certified(certificate({"m0", "m2"}, {"m1"})), [hard(0, "red"), hard(1, "blue")])

    third = tally.add(hard(2, "red"))
    decision = third.decide(DecidedBy.RISK_QUORUM)

    assert not tally.is_certified()
    assert third.is_certified()
    assert not third.is_decided()
    assert decision.decided_by is DecidedBy.RISK_QUORUM
    assert [a.reason for a in decision.abstentions] == [AbstentionReason.CANCELLED] * 2


@pytest.mark.parametrize(
    "question",
    [
        certified(certificate({"m0", "m1"}, {"m2"})),
        certified(certificate({"m0", "m1", "m2"}, min_margin=0.5), certificate({"m0", "m2"}, {"m1"}, 0.34)),
        certified(certificate({"m0", "m2"}, {"m1", "m3"})),
        certified(),
        build_question([1.0] * 5),
        replace(certified(certificate({"m0", "m2"}, {"m1"})), quorum=Quorum(stop_early=False)),
        replace(certified(certificate({"m0", "m2"}, {"m1"})), quorum=Quorum(min_weight=0.9)),
    ],
)
def test_a_certificate_for_something_else_ends_nothing(question: Question) -> None:
    tally = count("weighted_vote", question, [hard(0, "red"), hard(1, "blue"), hard(2, "red")])

    assert not tally.is_certified()
    with pytest.raises(InvalidRequestError, match="m3, m4 can still change"):
        tally.decide(DecidedBy.RISK_QUORUM)


def test_a_member_that_abstained_is_on_neither_side() -> None:
    question = certified(certificate({"m0", "m1", "m2"}), certificate({"m0", "m1"}, {"m2"}))

    tally = count("weighted_vote", question, [hard(0, "red"), hard(1, "red"), silent(2)])

    assert not tally.is_certified()


def test_once_a_member_has_abstained_no_certificate_of_the_whole_panel_applies() -> None:
    question = certified(certificate({"m0", "m2"}, {"m1"}))
    ballots = [hard(0, "red"), hard(1, "blue"), hard(2, "red")]

    whole = count("weighted_vote", question, ballots)
    smaller = count("weighted_vote", question, [silent(3, AbstentionReason.ERROR), *ballots])
    stopped = count("weighted_vote", question, [*ballots, silent(3, AbstentionReason.CANCELLED)])

    assert whole.is_certified()
    assert not smaller.is_certified()
    assert stopped.is_certified()


def test_a_certificate_needs_its_margin() -> None:
    question = certified(certificate({"m0"}, min_margin=0.9), weights=(3.0, 1.0, 1.0, 1.0))

    sure = count("soft_vote", question, [soft(0, 1.0, 0.0, 0.0)])
    unsure = count("soft_vote", question, [soft(0, 0.9, 0.1, 0.0)])

    assert sure.is_certified()
    assert not unsure.is_certified()


def test_a_stage_may_always_end_a_vote() -> None:
    tally = count("weighted_vote", build_question([1.0] * 3), [hard(0, "red")])

    decision = tally.decide(DecidedBy.STAGE)

    assert {(a.reason, a.detail) for a in decision.abstentions} == {
        (AbstentionReason.CANCELLED, "the members asked before were agreed or sure enough")
    }


class CountingBallot(Ballot):
    """Says how often anybody looks at it."""

    looks: int = 0

    def __getattribute__(self, name: str) -> object:
        type(self).looks += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("strategy", ["weighted_vote", "soft_vote", "log_pool", "borda"])
def test_adding_a_ballot_looks_at_none_of_those_before(strategy: str) -> None:
    question = build_question([1.0] * 40)
    tally = count(strategy, question, [])
    for n in range(39):
        tally = tally.add(CountingBallot(member=f"m{n}", probabilities=(0.6, 0.3, 0.1)))
    assert CountingBallot.looks > 0
    CountingBallot.looks = 0

    after = tally.add(soft(39, 0.6, 0.3, 0.1))

    assert isinstance(tally, LinearTally)
    assert isinstance(after, LinearTally)
    assert CountingBallot.looks == 0
    assert after.turnout.latest is not None
    assert after.turnout.latest.earlier is tally.turnout.latest  # what was in is shared, not copied
    assert after.turnout.roll is tally.turnout.roll
