"""How far a compression is, and about how long it will take: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from ensemble.compression.record import CompressionReport
    from ensemble.compression.standing import OnStanding, Standing

LINE_PERIOD_S = 10.0
"""Where no bar can be drawn, a part that goes on tells this often how far it is."""
MIB = 2**20


def describe_report(report: CompressionReport) -> str:
    """Tell in one line what became smaller and what became worse."""
    smaller = report.output_bytes / report.source_bytes
    sizes = f"{report.source_bytes / MIB:.0f} MiB to {report.output_bytes / MIB:.0f} MiB ({smaller:.2f} of it)"
    if report.perplexity_before is None or report.perplexity_after is None:
        return sizes
    return f"{sizes}; perplexity {report.perplexity_before:.2f} to {report.perplexity_after:.2f} on held-out text"


def describe_place(standing: Standing) -> str:
    """Tell in one line what is being done."""
    place = ": ".join(filter(None, (standing.variant, standing.part)))
    return place if standing.phase == "begin" else f"{place}: {standing.phase}"


def describe_left(left_s: float | None) -> str:
    """Tell about how long the whole will still take; nothing while that is not known."""
    if left_s is None:
        return ""
    if left_s < 60:
        return f"about {max(1, round(left_s))} s left"
    minutes = round(left_s / 60)
    return f"about {minutes} min left" if minutes < 120 else f"about {minutes / 60:.0f} h left"


@contextmanager
def show_standing(console: Console) -> Iterator[OnStanding]:
    """Show where a compression is; yields what must hear it."""
    if not console.is_terminal:
        yield _StandingLines(console).hear
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("source", total=1.0, left="")

        def show(standing: Standing) -> None:
            progress.update(
                task,
                description=describe_place(standing),
                completed=standing.share,
                # Phases without steps in between tell only their beginning: a pulsing bar says that work goes on.
                total=1.0 if standing.share else None,
                left=describe_left(standing.left_s),
            )

        yield show


class _StandingLines:
    """Tells each phase once, and now and then how far it is, where no bar can be drawn."""

    def __init__(self, console: Console, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now_s = now_s
        self._place = ""
        self._told_s = 0.0

    def hear(self, standing: Standing) -> None:
        """Take in where the work is."""
        place, now_s = describe_place(standing), self._now_s()
        if place == self._place and now_s - self._told_s < LINE_PERIOD_S:
            return
        share = f"{standing.share:.0%}" if standing.share else ""
        told = ", ".join(filter(None, (place, share, describe_left(standing.left_s))))
        self._place, self._told_s = place, now_s
        self._console.print(Text(told))
