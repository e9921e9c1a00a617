"""What the fuser wrote is the answer, and the numbers do not pretend that anybody voted for it."""

from __future__ import annotations

from dataclasses import replace

from ensemble.voting import Candidate, DecidedBy, Decision
from ensemble.voting.strategy import Evidence, VoteCalibration
from tests.voting.panels import build_question, decide, silent, text


def fuse(fused: str, calibration: VoteCalibration | None = None) -> Decision:
    evidence = Evidence(texts=("ant", "bee"), source="scribe", fused=fused)
    question = replace(build_question([1.0, 2.0, 1.0, 9.0], ()), evidence=evidence, calibration=calibration)
    return decide("fuse", question, [text(0, "ant"), text(1, "bee"), text(2, "ant"), silent(3)])


def test_a_new_text_has_no_backing_and_the_texts_keep_theirs() -> None:
    decision = fuse("ant and bee")

    assert (decision.answer, decision.agreement, decision.margin) == ("ant and bee", 0.0, 0.0)
    assert decision.candidates == (
        Candidate(answer="ant and bee", weight=0.0, members=()),
        Candidate(answer="bee", weight=0.5, members=("m1",)),
        Candidate(answer="ant", weight=0.5, members=("m0", "m2")),
    )
    assert decision.degraded


def test_a_text_that_a_member_gave_has_that_members_backing() -> None:
    decision = fuse(" ant\n")

    assert (decision.answer, decision.agreement, decision.margin) == ("ant", 0.5, 0.0)
    assert [candidate.answer for candidate in decision.candidates] == ["ant", "bee"]


def test_the_margin_is_the_lead_over_the_best_other_text() -> None:
    evidence = Evidence(texts=("ant", "bee"), fused="ant")
    question = replace(build_question([3.0, 1.0], ()), evidence=evidence)

    decision = decide("fuse", question, [text(0, "ant"), text(1, "bee")], DecidedBy.DEADLINE)

    assert (decision.agreement, decision.margin) == (0.75, 0.5)


def test_no_confidence_is_claimed_for_a_text_that_nobody_cast() -> None:
    decision = fuse("ant and bee", VoteCalibration(kappa=1.0, withhold_below=0.99))

    assert (decision.confidence, decision.withheld) == (None, False)
