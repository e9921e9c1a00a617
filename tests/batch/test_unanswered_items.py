"""What an ensemble will never answer, or never with everyone, holds no batch up, and its row says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from ensemble.batch.run_batch import ATTEMPTS_BEFORE_MISSING
from ensemble.errors import (
    EndpointError,
    EnsembleError,
    InvalidRequestError,
    MemberRefusedError,
    MemberTimeoutError,
    MessageTooLargeError,
    QuorumError,
    UnknownNameError,
)
from ensemble.rpc.status import status_from_error
from ensemble.voting.ballot import AbstentionReason
from tests.batch.askers import FAULT, FakeAsker, rows, run
from tests.batch.batches import build_decision, build_manifest, build_store


@pytest.mark.parametrize("reason", [AbstentionReason.REFUSAL, AbstentionReason.UNPARSEABLE])
async def test_a_silence_that_would_come_again_counts(tmp_path: Path, reason: AbstentionReason) -> None:
    asker = FakeAsker({"q2": [build_decision("blue", silent=[("b", reason)])]})
    store = build_store(tmp_path, build_manifest(5))

    await run(store, asker)

    assert asker.asked["q2"] == 1
    assert rows(store)["q2"]["abstentions"] == [{"member": "b", "reason": reason.value}]


@pytest.mark.parametrize(
    "failure",
    [QuorumError("default", 0, 2, "a: refusal, b: unparseable"), MemberRefusedError("judge", "the prompt is too long")],
)
async def test_an_item_that_everybody_declines_has_no_answer_and_holds_nothing_up(
    tmp_path: Path, failure: EnsembleError
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [failure]})

    await run(store, asker)

    assert asker.asked["q2"] == 1
    assert rows(store)["q2"]["answer"] is None


@pytest.mark.parametrize(("first", "num_asked"), [("refusal", 1), ("error", 2)])
async def test_reasons_that_lost_their_middle_on_the_way_are_understood(
    tmp_path: Path, first: str, num_asked: int
) -> None:
    told = ", ".join(f"member-{n}: {'refusal' if n else first}" for n in range(60))
    answer = status_from_error(QuorumError("default", 0, 60, told))
    (info,) = (detail for detail in answer.details if detail.Is(ErrorInfo.DESCRIPTOR))
    facts = ErrorInfo.FromString(info.value).metadata
    assert len(facts["reasons"]) < len(told)
    store = build_store(tmp_path, build_manifest(5))
    asker = FakeAsker({"q2": [QuorumError("default", 0, 60, facts["reasons"])]})

    await run(store, asker)

    assert asker.asked["q2"] == num_asked
    row = rows(store)["q2"]
    assert row["answer"] == (None if num_asked == 1 else "red")
    if num_asked == 1:
        assert row["abstentions"][0] == {"member": "member-0", "reason": "refusal"}
        assert {one["member"] for one in row["abstentions"]} < {f"member-{n}" for n in range(60)}


@pytest.mark.parametrize(
    "refusal",
    [
        InvalidRequestError("choices", "there are 9", "send at most 8"),
        InvalidRequestError("options.panel", "27 different texts are more than 26", "ask fewer members"),
        MessageTooLargeError("request", "it is too large", "send less"),
    ],
)
async def test_an_item_that_the_ensemble_refuses_has_no_answer_and_the_reason(
    tmp_path: Path, refusal: InvalidRequestError
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [refusal]})

    await run(store, asker)

    assert asker.asked["q2"] == 1
    (row,) = [row for item_id, row in rows(store).items() if item_id == "q2"]
    assert (row["answer"], row["abstentions"]) == (None, [{"member": "", "reason": str(refusal)}])


async def test_an_error_that_asking_again_cannot_mend_ends_the_batch_at_once(tmp_path: Path) -> None:
    asker = FakeAsker({"q2": [UnknownNameError("ensemble", "there is no 'x'", "use another")]})

    with pytest.raises(UnknownNameError, match="there is no 'x'"):
        await run(build_store(tmp_path, build_manifest(5)), asker)

    assert asker.asked["q2"] == 1


async def test_missing_votes_are_accepted_after_some_tries_where_that_is_wanted(tmp_path: Path) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [FAULT] * 100})

    await run(store, asker, accept_missing=True)

    assert asker.asked["q2"] == ATTEMPTS_BEFORE_MISSING
    assert rows(store)["q2"]["answer"] == "blue"


@pytest.mark.parametrize(
    "failure",
    [
        QuorumError("default", 0, 2, "a: error, b: refusal"),
        MemberTimeoutError("judge", "it took too long"),
    ],
)
async def test_an_item_that_nobody_can_answer_is_left_out_after_the_patience_where_that_is_wanted(
    tmp_path: Path, failure: EnsembleError
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [failure] * 1_000})

    await run(store, asker, accept_missing=True)

    found = rows(store)
    assert [row["answer"] for row in found.values()] == ["red", "red", None, "red", "red"]
    assert found["q2"]["abstentions"] == (
        [{"member": "a", "reason": "error"}, {"member": "b", "reason": "refusal"}]
        if isinstance(failure, QuorumError)
        else [{"member": "judge", "reason": "deadline"}]
    )


async def test_an_endpoint_that_is_gone_ends_the_batch_whatever_may_be_missing(tmp_path: Path) -> None:
    asker = FakeAsker({"q2": [EndpointError("here:1", "UNAVAILABLE", "gone")] * 1_000})

    with pytest.raises(EndpointError, match="gone"):
        await run(build_store(tmp_path, build_manifest(5)), asker, accept_missing=True)
