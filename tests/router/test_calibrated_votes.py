"""What a calibration changes between a request and its decision: ballots, weights, confidence, an earlier stop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.decision import DecidedBy
from ensemble.voting.record import VoteRecord, recount
from ensemble.voting.strategy import Certificate, Quorum
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, NO, YES, ask_for_text, ask_yes_or_no, closed, hear_all, over

RAW = VoteOptions(ignore_calibration=True, quorum=QuorumOverrides(stop_early=False))
EVERYONE = VoteOptions(quorum=QuorumOverrides(stop_early=False))
AGREED = Certificate(
    backers=frozenset("ab"), others=frozenset(), min_margin=0.9, num_items=300, num_disagreements=0, bound=0.00994
)


def calibrate(**changes: object) -> EnsembleCalibration:
    """Make a calibration of three members, the third of which is trusted most and never sure of itself."""
    fitted = StrategyCalibration(weight_by_member={"a": 1.0, "b": 1.0, "c": 3.0}, kappa=0.5)
    return EnsembleCalibration(
        digest="d",
        by_member={
            "a": MemberCalibration(),
            "b": MemberCalibration(temperature=2.0),
            "c": MemberCalibration(bias_by_label={"yes": 2.0}),
        },
        by_strategy={"weighted_vote": replace(fitted, **changes)},  # type: ignore[arg-type]
    )


def three_members() -> dict[str, FakeMemberClient]:
    """Make members of which the third changes its mind by its bias."""
    return {
        "a": FakeMemberClient(probabilities=NO),
        "b": FakeMemberClient(probabilities=NO),
        "c": FakeMemberClient(probabilities=NO),
    }


async def test_ballots_are_corrected_before_they_count() -> None:
    router = over(three_members(), calibration=calibrate()).build()

    decision = await router.classify(ask_yes_or_no(EVERYONE), timeout_s=LONG_S)

    by_member = {ballot.member: ballot for ballot in decision.ballots}
    assert (by_member["c"].choice, decision.answer) == ("yes", "yes")
    assert by_member["b"].probabilities[1] == pytest.approx(math.sqrt(3) / (1 + math.sqrt(3)))
    assert decision.agreement == pytest.approx(3 / 5)


async def test_a_calibrated_answer_says_how_sure_it_is_and_when_it_is_a_guess() -> None:
    router = over(three_members(), calibration=calibrate(withhold_below=0.9)).build()

    decision = await router.classify(ask_yes_or_no(EVERYONE), timeout_s=LONG_S)

    assert decision.confidence == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert decision.withheld


async def test_ignoring_the_calibration_counts_raw_ballots_with_the_specs_weights() -> None:
    router = over(three_members(), calibration=calibrate(withhold_below=0.9)).build()

    decision = await router.classify(ask_yes_or_no(RAW), timeout_s=LONG_S)

    assert (decision.answer, decision.confidence, decision.withheld) == ("no", None, False)
    assert decision.agreement == 1.0
    assert all(ballot.probabilities == pytest.approx(NO) for ballot in decision.ballots)


async def test_a_strategy_that_was_not_calibrated_has_no_confidence_and_corrected_ballots() -> None:
    router = over(three_members(), calibration=calibrate()).build()
    options = VoteOptions(strategy="majority", quorum=QuorumOverrides(stop_early=False))

    decision = await router.classify(ask_yes_or_no(options), timeout_s=LONG_S)

    assert (decision.answer, decision.confidence) == ("no", None)
    assert [ballot.choice for ballot in decision.ballots] == ["no", "no", "yes"]


async def test_a_certificate_ends_the_vote_and_stops_who_is_still_working() -> None:
    clients = three_members() | {"a": FakeMemberClient(probabilities=YES), "b": FakeMemberClient(probabilities=YES)}
    clients["c"].gate = closed()
    calibration = calibrate(certificates=(AGREED,))

    events = await hear_all(
        over(clients, calibration=calibration, quorum=Quorum(min_weight=0.0))
        .build()
        .stream_classify(ask_yes_or_no(VoteOptions(include_record=True)), timeout_s=LONG_S)
    )

    record, decision = events[-2:]
    assert isinstance(record, VoteRecord)
    assert (record.decision.answer, record.decision.decided_by) == ("yes", DecidedBy.RISK_QUORUM)
    assert [(one.member, one.reason) for one in record.decision.abstentions] == [("c", AbstentionReason.CANCELLED)]
    assert clients["c"].num_cancelled == 1
    assert recount(record) == decision


@pytest.mark.parametrize(
    "options", [EVERYONE, RAW, VoteOptions(panel=("a", "b", "c"), ignore_calibration=True)], ids=repr
)
async def test_no_certificate_ends_a_vote_that_waits_for_all_or_has_no_calibration(options: VoteOptions) -> None:
    clients = {name: FakeMemberClient(probabilities=YES) for name in "abc"}
    calibration = calibrate(certificates=(AGREED,))

    decision = await over(clients, calibration=calibration).build().classify(ask_yes_or_no(options), timeout_s=LONG_S)

    assert decision.decided_by is not DecidedBy.RISK_QUORUM


async def test_the_record_of_a_calibrated_vote_counts_to_the_same_decision() -> None:
    router = over(three_members(), calibration=calibrate(withhold_below=0.9, conformal_threshold=0.7)).build()
    options = replace(EVERYONE, include_record=True)

    events = await hear_all(router.stream_classify(ask_yes_or_no(options), timeout_s=LONG_S))

    record, decision = events[-2:]
    assert isinstance(record, VoteRecord)
    assert recount(record) == decision
    assert (record.request_id, record.ensemble, record.strategy) == ("r", "default", "weighted_vote")
    assert recount(record, strategy="majority").answer == "no"
    assert recount(record, strategy="majority").confidence is None


async def test_a_record_that_nobody_asked_for_is_not_told() -> None:
    events = await hear_all(over(three_members()).build().stream_classify(ask_yes_or_no(), timeout_s=LONG_S))

    assert not any(isinstance(event, VoteRecord) for event in events)


async def test_the_record_of_short_answers_has_the_whole_texts_and_the_unreadable_ones() -> None:
    texts = {"a": "The answer is 4.", "b": "4", "c": " "}
    clients = {name: FakeMemberClient(text=text) for name, text in texts.items()}
    options = replace(EVERYONE, include_record=True)

    events = await hear_all(over(clients).build().stream_generate(ask_for_text(options), timeout_s=LONG_S, mode=None))

    record, decision = events[-2:]
    assert isinstance(record, VoteRecord)
    assert [getattr(vote, "text", None) for vote in record.votes] == list(texts.values())
    assert recount(record) == decision
