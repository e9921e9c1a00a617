"""A calibrated ensemble that asks in stages and learns from feedback, in real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.app import build_application
from ensemble.errors import ConfigError
from ensemble.router.request import VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.serving.feedback_store import list_keepers
from ensemble.voting.decision import DecidedBy
from ensemble.voting.record import recount
from tests.calibrations import write_calibration
from tests.serving.systems import GENEROUS_S, POLL_S, RunningSystem, build_spec, echo_member, remove, run

pytestmark = pytest.mark.ray

YES_NO = ("yes", "no")
NAME = "calibrated"
MEMBERS = [echo_member("a"), echo_member("b"), echo_member("c", seed=1)]
"""On the question asked here the first two say no and the third says yes."""
ASKED = "Is it so?"


@pytest.fixture(scope="module")
def calibrated(
    cluster: None,  # noqa: ARG001 - it must run
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningSystem]:
    """Run three ensembles of three members."""
    folder = tmp_path_factory.mktemp("calibrated")
    spec = build_spec(NAME, MEMBERS)
    write_calibration(folder / "c.json", spec.members, weights=(1.0, 1.0, 3.0))
    shared = {"members": ["a", "b", "c"]}
    system = run(
        build_spec(
            NAME,
            MEMBERS,
            router={"port": spec.router.port},
            ensembles=[
                {"name": "default", **shared, "calibration": str(folder / "c.json"), "abstain_below": 1.0},
                {"name": "staged", **shared, "asking": {"policy": "cascade", "stages": [["a", "b"], ["c"]]}},
                {
                    "name": "learning",
                    **shared,
                    "feedback": {"state_dir": str(folder), "audit_share": 1.0, "learning_rate": 1.0},
                },
            ],
        )
    )
    yield system
    remove(NAME)


async def test_the_servers_answers_are_calibrated_and_can_be_asked_for_raw(calibrated: RunningSystem) -> None:
    async with AsyncEnsembleClient(calibrated.address) as client:
        record = await client.classify_with_record(ASKED, YES_NO)
        raw = await client.classify(ASKED, YES_NO, options=VoteOptions(ignore_calibration=True))

    assert (record.decision.answer, raw.answer) == ("yes", "no")
    assert record.decision.confidence is not None
    assert record.decision.withheld
    assert [voter.weight for voter in record.question.panel] == [1.0, 1.0, 3.0]
    assert recount(record) == record.decision
    assert raw.confidence is None


async def test_members_of_a_later_stage_are_not_asked_where_the_first_one_decides(calibrated: RunningSystem) -> None:
    async with AsyncEnsembleClient(calibrated.address) as client:
        decision = await client.classify(ASKED, YES_NO, ensemble="staged")

    assert (decision.answer, decision.decided_by, decision.num_asked) == ("no", DecidedBy.LOSSLESS_QUORUM, 2)


async def test_feedback_moves_the_weights_of_later_requests(calibrated: RunningSystem) -> None:
    async with AsyncEnsembleClient(calibrated.address) as client:
        first = await client.classify(ASKED, YES_NO, ensemble="learning", request_id="one")
        outcome = await client.feedback("one", "yes", ensemble="learning")
        weights = {"c": 1.0}
        async with asyncio.timeout(GENEROUS_S):
            while weights["c"] == 1.0:
                record = await client.classify_with_record(ASKED, YES_NO, ensemble="learning")
                weights = {voter.member: voter.weight for voter in record.question.panel}
                await asyncio.sleep(POLL_S)

    assert (first.decided_by, outcome.accepted) == (DecidedBy.ALL, True)
    assert weights["c"] > 1.0 > weights["a"] == weights["b"]


def test_an_application_that_takes_no_feedback_any_more_has_no_keeper_of_it(calibrated: RunningSystem) -> None:
    before = list_keepers(NAME)

    run(build_spec(NAME, MEMBERS, router={"port": calibrated.spec.router.port}))

    assert len(before) == 1
    assert list_keepers(NAME) == ()


def test_a_calibration_for_other_members_is_refused_before_anything_starts(tmp_path: Path) -> None:
    other = build_spec(NAME, [echo_member("a", seed=1), echo_member("b")])
    write_calibration(tmp_path / "c.json", other.members)
    ensembles = [{"name": "default", "members": ["a", "b"], "calibration": str(tmp_path / "c.json")}]
    spec = build_spec(NAME, [echo_member("a"), echo_member("b")], ensembles=ensembles)

    with pytest.raises(ConfigError, match="a has changed"):
        build_application(spec, "secret")
