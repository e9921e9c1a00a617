"""A batch's figures in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ensemble.batch.report import NUM_BINS

_BAR_WIDTH = 30


def show_batch_report(report: dict[str, Any], console: Console) -> None:
    """Show what came out, how the members agreed, and what each of them did."""
    console.print()
    console.print(
        f"{report['num_answered']} of {report['num_items']} items answered, {report['num_rejects']} lines rejected",
        style="bold",
    )
    for key, story in (
        ("num_unanswered", "without an answer; their abstentions say why"),
        ("num_withheld", "withheld, since their confidence is too low"),
        ("num_degraded", "with too little of the panel behind them"),
    ):
        if report[key]:
            console.print(f"{story}: {report[key]}", style="yellow")
    console.print()
    console.print(_draw_agreement(report["agreement"]))
    console.print()
    console.print(_draw_members(report["members"]))
    console.print(f"\n{_describe_cost(report)}", highlight=False)
    run = report["this_run"]
    console.print(
        f"{run['num_asked']} items asked in {run['duration_s']:.1f} s, {run['items_per_s']:.2f} items/s", style="dim"
    )


def _describe_cost(report: dict[str, Any]) -> str:
    tokens, num_items = report["tokens"], max(1, report["num_items"])
    told = f"cost: {tokens['prompt']:,} tokens read, {tokens['completion']:,} written"
    if report["gflop"] is None:
        return told
    return f"{told}; some {report['gflop']:,.0f} GFLOP, {report['gflop'] / num_items:,.3g} an item"


def _draw_agreement(agreement: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("agreement")
    table.add_column(f"items (mean {agreement['mean']:.3f})", justify="right")
    table.add_column("")
    most = max(1, *agreement["num_by_tenth"])
    for tenth, num_items in enumerate(agreement["num_by_tenth"]):
        if num_items:
            end = "1" if tenth == NUM_BINS - 1 else f"{(tenth + 1) / NUM_BINS:g}"
            bar = "█" * max(1, round(_BAR_WIDTH * num_items / most))
            table.add_row(f"{tenth / NUM_BINS:g} to {end}", str(num_items), Text(bar, style="cyan"))
    return table


def _draw_members(members: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("member", overflow="fold")
    for column in ("ballots", "abstentions", "prompt tokens", "completion tokens"):
        table.add_column(column, justify="right")
    for name, one in members.items():
        abstentions = ", ".join(f"{reason} {n}" for reason, n in one["abstentions"].items())
        table.add_row(
            Text(name), str(one["num_ballots"]), abstentions, str(one["prompt_tokens"]), str(one["completion_tokens"])
        )
    return table
