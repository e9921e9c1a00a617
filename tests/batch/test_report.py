"""What a batch came to is counted by answer and by member."""

from __future__ import annotations

from ensemble.batch.answers import answer_from_decision, no_answer
from ensemble.batch.report import BatchReport, Effort
from ensemble.calibration.manifest import MemberFacts
from ensemble.voting.ballot import AbstentionReason
from tests.batch.batches import build_decision

EFFORT = Effort(num_asked=3, duration_s=1.5)


def facts(name: str, *, num_parameters: int = 0) -> MemberFacts:
    return MemberFacts(name=name, family=name, fingerprint="f", num_parameters=num_parameters)


def test_answers_agreement_abstentions_and_cost_are_counted() -> None:
    report = BatchReport(num_rejects=2)
    report.add(answer_from_decision("q0", build_decision()))
    report.add(answer_from_decision("q1", build_decision(silent=[("b", AbstentionReason.REFUSAL)])))
    report.add(no_answer("q2", {"a": "refusal", "b": "unparseable"}))

    figures = report.to_dict(EFFORT, [facts("a", num_parameters=10**9), facts("b", num_parameters=5 * 10**8)])

    assert (figures["num_items"], figures["num_answered"], figures["num_unanswered"]) == (3, 2, 1)
    assert figures["agreement"] == {"mean": 1.0, "num_by_tenth": [0] * 9 + [2]}
    # A ballot has read 3 tokens and written 1.
    assert figures["members"] == {
        "a": {
            "num_ballots": 2,
            "abstentions": {"refusal": 1},
            "prompt_tokens": 6,
            "completion_tokens": 2,
            "gflop": 16.0,
        },
        "b": {
            "num_ballots": 1,
            "abstentions": {"refusal": 1, "unparseable": 1},
            "prompt_tokens": 3,
            "completion_tokens": 1,
            "gflop": 4.0,
        },
    }
    assert figures["tokens"] == {"prompt": 9, "completion": 3}
    assert figures["gflop"] == 20.0
    assert figures["this_run"] == {"num_asked": 3, "duration_s": 1.5, "items_per_s": 2.0}


def test_a_cost_that_nobody_can_know_is_not_told() -> None:
    report = BatchReport(num_rejects=0)
    report.add(answer_from_decision("q0", build_decision()))

    figures = report.to_dict(EFFORT, [facts("a", num_parameters=10**9), facts("b")])

    assert figures["gflop"] is None
    assert (figures["members"]["a"]["gflop"], figures["members"]["b"]["gflop"]) == (8.0, None)
