"""Draws a vote: a table that fills while members answer, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ensemble.cli.live_vote import LiveVote, MemberProgress, Shown, describe_decision
from ensemble.cli.terminal import last_line, one_line, printable, seconds
from ensemble.router.request import TextPiece
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote
from ensemble.voting.decision import Decision

BAR_WIDTH = 24
TEXT_WIDTH = 64
REFRESH_PER_S = 12.0


def follow_vote(
    events: Iterable[Shown], vote: LiveVote, console: Console, *, clock: Callable[[], float] = time.monotonic
) -> LiveVote:
    """Show the events of one vote as they come; gives the vote with its decision."""
    started_s = clock()
    if not console.is_terminal:
        for event in events:
            vote = vote.hear(event, elapsed_s=clock() - started_s)
            for line in event_lines(event, vote):
                console.print(Text(line), soft_wrap=True)
        return vote
    with Live(draw_vote(vote), console=console, refresh_per_second=REFRESH_PER_S) as live:
        for event in events:
            vote = vote.hear(event, elapsed_s=clock() - started_s)
            live.update(draw_vote(vote))
    return vote


def draw_vote(vote: LiveVote) -> RenderableType:
    """Draw the members, the tally, and the decision when there is one."""
    parts: list[RenderableType] = [_draw_members(vote)]
    if vote.tally:
        parts.append(_draw_tally(vote))
    if vote.decision is not None:
        parts.append(_draw_decision(vote, vote.decision))
    return Group(*parts)


def event_lines(event: Shown, vote: LiveVote) -> list[str]:
    """Tell one event in plain lines; ``vote`` has heard it. Pieces of text are told with their ballot."""
    if isinstance(event, TextPiece):
        return []
    if isinstance(event, Decision):
        cancelled = f"; cancelled: {', '.join(vote.cancelled)}" if vote.cancelled else ""
        verdict = describe_decision(event, elapsed_s=vote.elapsed_s)
        return [f"{verdict}{cancelled}", f"answer: {printable(event.answer)}"]
    state, _ = describe_vote(event)
    figures = seconds(event.latency_s)
    if isinstance(event, Ballot):
        figures = f"{figures}, {_tokens(event)} tokens"
    return [f"{event.member}: {state} ({figures})"]


def describe_vote(vote: Vote) -> tuple[str, str]:
    """Say what a member's vote is, and in which style to show it."""
    if isinstance(vote, Abstention):
        if vote.reason is AbstentionReason.CANCELLED:
            return "cancelled", "yellow"
        detail = f" ({one_line(vote.detail, width=TEXT_WIDTH)})" if vote.detail else ""
        return f"abstained: {vote.reason}{detail}", "red"
    if vote.choice is not None:
        return f"ballot: {one_line(vote.choice, width=TEXT_WIDTH)}", "green"
    return f"ballot: {printable(vote.text or '').strip()}", "green"


def _draw_members(vote: LiveVote) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("member", style="bold", no_wrap=True)
    table.add_column("family", style="dim", no_wrap=True)
    table.add_column("state", max_width=TEXT_WIDTH)
    table.add_column("latency", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    for member in vote.members:
        table.add_row(member.voter.member, member.voter.family, *_draw_progress(member))
    return table


def _draw_progress(member: MemberProgress) -> tuple[Text, Text, Text]:
    if member.vote is None:
        state = last_line(member.text, width=TEXT_WIDTH - 2) if member.text else "waiting"
        return Text(state, style="" if member.text else "dim", no_wrap=True), Text(), Text()
    state, style = describe_vote(member.vote)
    tokens = _tokens(member.vote) if isinstance(member.vote, Ballot) else ""
    return Text(state, style=style), Text(seconds(member.vote.latency_s)), Text(tokens)


def _draw_tally(vote: LiveVote) -> RenderableType:
    tally = vote.tally
    largest = max((abs(weight) for weight in tally.values()), default=0.0) or 1.0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(max_width=TEXT_WIDTH // 2)
    table.add_column(width=BAR_WIDTH, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for answer, weight in tally.items():
        is_answer = vote.decision is not None and answer == vote.decision.answer
        style = "bold green" if is_answer else ""
        bar = Bar(largest, 0.0, max(0.0, weight), width=BAR_WIDTH, color="green" if is_answer else "blue")
        table.add_row(
            Text(one_line(answer, width=TEXT_WIDTH // 2), style=style), bar, Text(f"{weight:.2f}", style=style)
        )
    return Padding(table, (1, 0, 0, 0))


def _draw_decision(vote: LiveVote, decision: Decision) -> RenderableType:
    lines = Text()
    lines.append(printable(decision.answer).strip(), style="bold green")
    lines.append(
        f"\n{describe_decision(decision, elapsed_s=vote.elapsed_s)}", style="red" if decision.degraded else "dim"
    )
    if vote.cancelled:
        lines.append(f"\ncancelled: {', '.join(vote.cancelled)}", style="yellow")
    return Padding(lines, (1, 0, 0, 0))


def _tokens(ballot: Ballot) -> str:
    return f"{ballot.prompt_tokens}+{ballot.completion_tokens}"
