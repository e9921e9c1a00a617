"""``ensemble status``: what a running endpoint is made of, and what its engines have done."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from ensemble.cli import options
from ensemble.cli.decision_json import to_json
from ensemble.cli.options import DEFAULT_ENDPOINT
from ensemble.cli.terminal import printable, seconds, stdout_console
from ensemble.engines.engine import EngineStats
from ensemble.rpc.client import EnsembleClient
from ensemble.rpc.client_events import EnsembleReport, MemberState

_COLUMNS = (
    *("running", "waiting", "wait", "finished", "aborted"),
    *("tokens in", "kept", "tokens out", "wasted", "steps", "batch", "cache"),
)


def status(
    *,
    endpoint: options.Endpoint = DEFAULT_ENDPOINT,
    ensemble: options.EnsembleName = "",
    timeout_s: options.Timeout = 10.0,
    as_json: options.AsJson = False,
) -> None:
    """Show ensembles, members, replicas and their engines' counters; all ensembles unless one is named.

    With --json one object is printed: endpoint, and ensembles: [{name, classify_strategy, generate_strategy, members:
    [{member, family, weight, checkpoint, problem, replicas: [{replica_id, stats}], starts: [{replica_id, phase, share,
    phase_s, silent_s, problem}]}]}]; stats are the engine's counters since it started, starts are the replicas that are
    not up, or failed to come up and why. problem is empty unless replicas did not answer.

    In the table, wait is the mean time that a request waited for its place, kept the share of the prompt tokens that a
    kept prefix spared, wasted the tokens of aborted requests, batch the mean number of requests in a step, cache the
    share of the cache that is taken now.
    """
    with EnsembleClient(endpoint, timeout_s=timeout_s, tls=options.endpoint_tls()) as client:
        names = [ensemble] if ensemble else [summary.name for summary in client.list_ensembles()]
        reports = [client.get_ensemble(name) for name in names]
    if as_json:
        typer.echo(to_json({"endpoint": endpoint, "ensembles": [report_to_dict(report) for report in reports]}))
        return
    console = stdout_console()
    for report in reports:
        console.print(_draw(report))


def report_to_dict(report: EnsembleReport) -> dict[str, Any]:
    """Give an ensemble's report as JSON writes it."""
    voter_by_member = {voter.member: voter for voter in report.ensemble.members}
    members = [
        {
            "member": state.member,
            "family": voter_by_member[state.member].family,
            "weight": voter_by_member[state.member].weight,
            "checkpoint": state.checkpoint,
            "problem": state.problem,
            "replicas": [asdict(replica) for replica in state.replicas],
            "starts": [asdict(start) for start in state.starts],
        }
        for state in report.members
    ]
    return {
        "name": report.ensemble.name,
        "classify_strategy": report.ensemble.classify_strategy,
        "generate_strategy": report.ensemble.generate_strategy,
        "members": members,
    }


def _draw(report: EnsembleReport) -> Table:
    summary = report.ensemble
    title = f"ensemble {summary.name}: classify by {summary.classify_strategy}, generate by {summary.generate_strategy}"
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("member", style="bold")
    table.add_column("family", style="dim")
    table.add_column("replica")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    family_by_member = {voter.member: voter.family for voter in summary.members}
    for member in report.members:
        for replica, *counters in _rows(member):
            cells = (member.member, family_by_member[member.member], replica, *counters)
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _rows(member: MemberState) -> list[tuple[str, ...]]:
    rows = [(replica.replica_id, *_counters(replica.stats)) for replica in member.replicas]
    rows += [(printable(f"{start.replica_id}: {start}"),) for start in member.starts]
    if member.problem or not rows:
        rows.append((f"away: {member.problem or 'no replica'}",))
    return rows


def _counters(stats: EngineStats) -> tuple[str, ...]:
    return (
        f"{stats.running_requests:,}",
        f"{stats.waiting_requests:,}",
        seconds(_share(stats.queue_s, stats.started_requests)),
        f"{stats.finished_requests:,}",
        f"{stats.aborted_requests:,}",
        f"{stats.prompt_tokens:,}",
        f"{_share(stats.cached_prompt_tokens, stats.prompt_tokens):.0%}",
        f"{stats.completion_tokens:,}",
        f"{stats.aborted_tokens:,}",
        f"{stats.steps:,}",
        f"{_share(stats.batched_requests, stats.steps):.1f}",
        f"{stats.cache_share:.0%}",
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
