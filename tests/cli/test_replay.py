"""``ensemble replay`` counts a record again by the voting library alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from ensemble.cli.replay import save_record
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote
from ensemble.voting.decision import DecidedBy
from ensemble.voting.record import VoteRecord
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Certificate, Question, Quorum, VoteCalibration
from tests.rpc.systems import build_echo, endpoint_running
from tests.voting.panels import build_question

VOTES: tuple[Vote, ...] = (
    Ballot(member="m0", family="f0", choice="red", probabilities=(0.9, 0.05, 0.05)),
    Ballot(member="m1", family="f1", choice="green", probabilities=(0.0, 0.6, 0.4)),
    Ballot(member="m2", family="f2", choice="green", probabilities=(0.4, 0.6, 0.0)),
)


def record_of(
    strategy: str = "majority",
    *,
    votes: tuple[Vote, ...] = VOTES,
    question: Question | None = None,
    cause: DecidedBy = DecidedBy.ALL,
) -> VoteRecord:
    asked = question or build_question([2.5, 1.0, 1.0])
    tally = get_strategy(strategy).open_tally(asked)
    for vote in votes:
        tally = tally.add(vote)
    decision = tally.decide(cause)
    return VoteRecord(
        request_id="r", ensemble="default", strategy=strategy, question=asked, votes=votes, decision=decision
    )


def replay(folder: Path, record: VoteRecord, *more: str) -> Result:
    save_record(record, folder / "record.json")
    return CliRunner().invoke(app, ["replay", str(folder / "record.json"), *more])


@pytest.mark.parametrize("strategy", ["majority", "weighted_vote", "soft_vote", "log_pool", "borda"])
def test_an_honest_record_gives_the_same_decision(tmp_path: Path, strategy: str) -> None:
    result = replay(tmp_path, record_of(strategy))

    assert result.exit_code == 0, result.output
    assert "the votes give the same decision" in result.stdout


def test_a_certified_decision_is_counted_with_its_certificate(tmp_path: Path) -> None:
    certificate = Certificate(
        backers=frozenset({"m0"}),
        others=frozenset(),
        min_margin=0.5,
        num_items=300,
        num_disagreements=0,
        bound=0.01,
    )
    question = replace(
        build_question([1.0, 1.0, 1.0], quorum=Quorum(min_weight=0.2)),
        calibration=VoteCalibration(kappa=1.5, certificates=(certificate,), conformal_threshold=0.8, digest="x"),
    )
    silent = tuple(Abstention(member=f"m{n}", family=f"f{n}", reason=AbstentionReason.CANCELLED) for n in (1, 2))
    record = record_of("weighted_vote", votes=(VOTES[0], *silent), question=question, cause=DecidedBy.RISK_QUORUM)

    same, other = replay(tmp_path, record), replay(tmp_path, record, "--strategy", "soft_vote")

    assert same.exit_code == 0, same.output
    assert "risk_quorum" in same.stdout
    assert other.exit_code == 0, other.output
    assert "soft_vote: 'red'" in other.stdout
    assert "the same answer, on the 1 ballot in when weighted_vote ended the vote (risk_quorum)" in other.stdout


def test_a_changed_ballot_is_found_and_told(tmp_path: Path) -> None:
    record = record_of()
    flipped = Ballot(member="m1", family="f1", choice="red", probabilities=(0.6, 0.0, 0.4))

    result = replay(tmp_path, replace(record, votes=(VOTES[0], flipped, VOTES[2])))

    assert result.exit_code == 1
    assert "answer: recorded green, counted red" in result.stdout
    assert "ballots:" in result.stdout


def test_a_changed_figure_alone_is_found_and_told(tmp_path: Path) -> None:
    record = record_of()

    result = replay(tmp_path, replace(record, decision=replace(record.decision, agreement=0.9)))

    assert result.exit_code == 1
    assert "agreement: recorded 0.9, counted 0.66" in result.stdout
    assert "answer:" not in result.stdout.split("ANOTHER DECISION")[1]


def test_another_rule_says_what_it_would_have_decided(tmp_path: Path) -> None:
    result = replay(tmp_path, record_of("majority"), "--strategy", "weighted_vote")

    assert result.exit_code == 0
    assert "recorded: 'green' by majority" in result.stdout
    assert "weighted_vote: 'red' by weighted_vote" in result.stdout
    assert result.stdout.endswith("ANOTHER ANSWER\n")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"request_id": "x"}', b'{"vote": {}, "decision": {}}', b"null"]
)
def test_a_file_that_is_no_record_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)

    result = CliRunner().invoke(app, ["replay", str(path)])

    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert str(path) in result.stderr


def test_a_missing_file_and_an_unknown_rule_are_refused(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["replay", str(tmp_path / "none")])
    unknown = replay(tmp_path, record_of(), "--strategy", "dice")

    assert (missing.exit_code, unknown.exit_code) == (2, 2)
    assert "cannot be read" in missing.stderr
    assert "'dice'" in unknown.stderr


@pytest.mark.parametrize("shown", [(), ("--json",), ("--no-stream",)], ids=["live", "json", "whole"])
@pytest.mark.parametrize(
    "asked", [("classify", "Is the sky blue?", "yes", "no"), ("ask", "Say something.", "--strategy", "mbr")]
)
async def test_what_ask_and_classify_record_can_be_replayed(
    tmp_path: Path, asked: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    path = tmp_path / "record.json"
    engines = {name: build_echo(name, seed=1) for name in ("a", "b")}
    async with endpoint_running(engines) as endpoint:
        command = [*asked, "--endpoint", endpoint.address, "--record", str(path), *shown]
        told = await asyncio.to_thread(CliRunner().invoke, app, command)

    result = CliRunner().invoke(app, ["replay", str(path)])

    assert told.exit_code == 0, told.output
    assert result.exit_code == 0, result.output
    assert "the votes give the same decision" in result.stdout
