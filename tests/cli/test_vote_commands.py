"""``ask``, ``classify`` and ``status`` against a real endpoint with echo members."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble import __version__
from ensemble.cli.entry import app
from ensemble.cli.status import report_to_dict
from ensemble.engines.engine import EngineStats
from ensemble.router.ports import ReplicaReport
from ensemble.router.replica_start import ReplicaStart
from ensemble.rpc.client_events import EnsembleReport, EnsembleSummary, MemberState, ReplicaState
from ensemble.voting.ballot import Voter
from tests.rpc.systems import NOBODY, build_echo, endpoint_running

MBR = ("--strategy", "mbr")
DECISION_KEYS = {
    "answer",
    "strategy",
    "decided_by",
    "agreement",
    "margin",
    "confidence",
    "withheld",
    "label_set",
    "streamed_member",
    "replaces_stream",
    "degraded",
    "num_asked",
    "families",
    "candidates",
    "ballots",
    "abstentions",
}


async def run(*args: str, stdin: str = "") -> Result:
    """Run the command line in a thread: the endpoint answers from this loop."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(args), input=stdin)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Serve two members that answer at once and one that never does."""
    engines = {"a": build_echo("a", seed=1), "b": build_echo("b", seed=1), "slow": build_echo("slow", delay_s=60.0)}
    async with endpoint_running(engines) as endpoint:
        yield endpoint.address


async def test_a_vote_is_told_line_by_line(address: str) -> None:
    result = await run("classify", "Is the sky blue?", "yes", "no", "--endpoint", address)

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split(":")[0] for line in lines[:2]} == {"a", "b"}
    assert all("ballot: " in line for line in lines[:2])
    assert lines[2].startswith("slow: cancelled")
    assert "decided after 2 of 3 ballots" in lines[3]
    assert "lossless quorum" in lines[3]
    assert lines[4] in {"answer: yes", "answer: no"}


async def test_a_decision_as_json_has_the_documented_keys(address: str) -> None:
    result = await run("classify", "Is the sky blue?", "yes", "no", "--endpoint", address, "--json")

    decision = json.loads(result.stdout)
    assert set(decision) == DECISION_KEYS
    assert [ballot["member"] for ballot in decision["ballots"]] == ["a", "b"]
    assert decision["abstentions"][0] | {"latency_s": 0.0} == {
        "member": "slow",
        "family": decision["abstentions"][0]["family"],
        "reason": "cancelled",
        "detail": "",
        "latency_s": 0.0,
    }
    assert decision["decided_by"] == "lossless_quorum"


async def test_the_help_documents_every_key_of_the_json(address: str) -> None:
    help_text = " ".join((await run("classify", "--help")).stdout.split())
    result = await run("classify", "q", "yes", "no", "--endpoint", address, "--json")

    decision = json.loads(result.stdout)
    keys = {*decision, *decision["ballots"][0], *decision["abstentions"][0], *decision["candidates"][0]}
    assert {key for key in keys if key not in help_text} == set()


async def test_only_the_named_members_are_asked(address: str) -> None:
    result = await run(
        "ask", "Hello there", "--endpoint", address, "--member", "b", "--max-tokens", "1", "--json", *MBR
    )

    decision = json.loads(result.stdout)
    assert decision["num_asked"] == 1
    assert decision["answer"] == "Hello"
    assert decision["ballots"][0]["completion_tokens"] == 1


async def test_waiting_for_everyone_hears_everyone() -> None:
    engines = {"a": build_echo("a"), "b": build_echo("b"), "late": build_echo("late", delay_s=0.3)}
    async with endpoint_running(engines) as endpoint:
        result = await run("classify", "q", "yes", "no", "--endpoint", endpoint.address, "--all", "--json")

    assert len(json.loads(result.stdout)["ballots"]) == 3


async def test_texts_are_shown_with_their_members() -> None:
    async with endpoint_running({"a": build_echo("a"), "b": build_echo("b")}) as endpoint:
        result = await run("ask", "-", "--strategy", "mbr", "--endpoint", endpoint.address, stdin="Hello \x1b[31mthere")

    assert "a: ballot: Hello \N{REPLACEMENT CHARACTER}[31mthere" in result.stdout
    assert "\x1b" not in result.stdout
    assert "decided after 2 of 2 ballots" in result.stdout


async def test_without_a_stream_the_decision_alone_is_told(address: str) -> None:
    result = await run("classify", "q", "yes", "no", "--endpoint", address, "--no-stream")

    assert result.stdout.startswith("decided after 2 of 3 ballots")
    assert "cancelled: slow" in result.stdout


@pytest.mark.parametrize(
    ("args", "exit_code", "facts"),
    [
        (("classify", "q", "yes"), 2, ("choices", "send 2 or more")),
        (("classify", "q", "yes", "yes"), 2, ("choices",)),
        (("classify", "", "yes", "no"), 2, ("prompt",)),
        (("ask", "q", "--ensemble", "nix"), 2, ("ensemble", "nix")),
        (("ask", "q", "--member", "nobody"), 2, ("panel", "nobody")),
        (("ask", "q", "--strategy", "plurality"), 2, ("strategy", "plurality")),
        (("ask", "q", "--temperature", "9"), 2, ("temperature",)),
        (("ask", "q", "--max-tokens", "0"), 2, ("max_tokens",)),
        (("ask", "q", "--member", "slow", "--timeout", "0.3"), 1, ()),
    ],
)
async def test_a_bad_request_is_explained_in_one_line(
    args: tuple[str, ...], exit_code: int, facts: tuple[str, ...], address: str
) -> None:
    result = await run(*args, "--endpoint", address)

    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1
    assert [fact for fact in facts if fact not in result.stderr] == []


@pytest.mark.parametrize("command", [("ask", "q"), ("classify", "q", "yes", "no"), ("status",)])
async def test_an_endpoint_that_is_away_is_the_worlds_fault(command: tuple[str, ...]) -> None:
    result = await run(*command, "--endpoint", NOBODY, "--timeout", "10")

    assert result.exit_code == 1
    assert result.stderr.startswith(f"ensemble: {NOBODY}")
    assert len(result.stderr.splitlines()) == 1


async def test_status_tells_which_members_have_no_replica(address: str) -> None:
    shown = await run("status", "--endpoint", address)
    told = await run("status", "--endpoint", address, "--json")

    assert shown.stdout.count("away: no replica") == 3
    members = json.loads(told.stdout)["ensembles"][0]["members"]
    assert [(member["member"], member["replicas"]) for member in members] == [("a", []), ("b", []), ("slow", [])]


async def test_status_tells_what_engines_have_done_and_where_starts_are() -> None:
    stats = EngineStats(
        started_requests=4,
        queue_s=2.0,
        finished_requests=3,
        aborted_requests=1,
        steps=10,
        prompt_tokens=200,
        cached_prompt_tokens=50,
        completion_tokens=120,
        aborted_tokens=37,
        batched_requests=25,
        max_batch=4,
        cache_share=0.75,
    )
    start = ReplicaStart(replica_id="r2", phase="download 500 MB", share=0.4, phase_s=12.0)
    reports = (
        ReplicaReport(replica_id="r1", stats=stats),
        ReplicaReport(replica_id="r2", stats=EngineStats(), start=start),
    )
    async with endpoint_running({"a": build_echo()}, reports=reports) as endpoint:
        shown = await run("status", "--endpoint", endpoint.address)
        told = await run("status", "--endpoint", endpoint.address, "--json")

    row = next(line for line in shown.stdout.splitlines() if "r1" in line)
    assert row.split()[2:] == ["r1", *["0", "0", "500", "ms", "3", "1", "200", "25%", "120", "37", "10", "2.5", "75%"]]
    assert "r2: download 500 MB 40% for 12 s" in shown.stdout
    (member,) = json.loads(told.stdout)["ensembles"][0]["members"]
    assert member["replicas"] == [{"replica_id": "r1", "stats": asdict(stats)}]
    assert member["starts"] == [asdict(start)]


async def test_status_of_an_unknown_ensemble_is_refused(address: str) -> None:
    result = await run("status", "--endpoint", address, "--ensemble", "nix")

    assert result.exit_code == 2
    assert "nix" in result.stderr


def test_a_report_is_written_with_every_counter() -> None:
    stats = EngineStats(finished_requests=3, aborted_requests=1, steps=9)
    summary = EnsembleSummary(
        name="default",
        members=(Voter(member="a", family="x", weight=0.5),),
        classify_strategy="weighted_vote",
        generate_strategy="mbr",
    )
    replica = ReplicaState(replica_id="r1", stats=stats)
    start = ReplicaStart(replica_id="r2", phase="load", share=0.5, phase_s=3.0)
    member = MemberState(member="a", checkpoint="c", replicas=(replica,), problem="", starts=(start,))

    document = report_to_dict(EnsembleReport(ensemble=summary, members=(member,)))

    assert document["members"] == [
        {
            "member": "a",
            "family": "x",
            "weight": 0.5,
            "checkpoint": "c",
            "problem": "",
            "replicas": [{"replica_id": "r1", "stats": asdict(stats)}],
            "starts": [asdict(start)],
        }
    ]


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"{__version__}\n"


def test_a_recipe_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compress", "nowhere", str(tmp_path / "out"), "--recipe", "absent.yaml"])

    assert result.exit_code == 2
    assert "absent.yaml" in result.stderr
    assert "Traceback" not in result.output
