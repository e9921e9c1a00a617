"""What long work on a checkpoint is doing: a bar in a terminal, a line a phase elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

OnPhase = Callable[[str, float], None]


@contextmanager
def show_phases(console: Console, *, what: str) -> Iterator[OnPhase]:
    """Show what long work on a checkpoint is doing; yields what must hear its phases."""
    if not console.is_terminal:
        yield _PhaseLines(console, what=what).hear
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=1.0)

        def show(phase: str, share: float) -> None:
            # Phases without steps in between tell only their beginning: a pulsing bar says that work goes on.
            progress.update(task, description=f"{what}: {phase}", completed=share, total=1.0 if share else None)

        yield show


class _PhaseLines:
    """Tells each phase once, where no bar can be drawn."""

    def __init__(self, console: Console, *, what: str) -> None:
        self._console = console
        self._what = what
        self._phase = ""

    def hear(self, phase: str, share: float) -> None:
        """Take in where the work is."""
        del share
        if phase != self._phase:
            self._phase = phase
            self._console.print(Text(f"{self._what}: {phase}"))
