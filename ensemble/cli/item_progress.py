"""How far a command with many items is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_PERIOD_S = 10.0
"""Where no bar can be drawn, a line tells this often how far it is."""


@contextmanager
def show_progress(console: Console, *, num_items: int, num_done: int) -> Iterator[Callable[[], None]]:
    """Show how many items are answered, how fast, and the time left; yields what must hear of each."""
    if not console.is_terminal:
        yield _ProgressLines(console, num_items=num_items, num_done=num_done).advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Throughput(),
        TimeRemainingColumn(),
        TextColumn("left", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("items", total=num_items, completed=num_done)
        yield lambda: progress.advance(task)


class _Throughput(TextColumn):
    """Items a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Draw it once it is known."""
        return Text(f"{task.speed:.2f} items/s" if task.speed else "", style="cyan")


class _ProgressLines:
    """Tells now and then how far it is, where no bar can be drawn."""

    def __init__(self, console: Console, *, num_items: int, num_done: int) -> None:
        self._console = console
        self._num_items = num_items
        self._num_before = self._num_done = num_done
        self._started_s = self._told_s = time.monotonic()

    def advance(self) -> None:
        """Count one item."""
        self._num_done += 1
        now_s = time.monotonic()
        if now_s - self._told_s >= LINE_PERIOD_S or self._num_done == self._num_items:
            self._told_s = now_s
            rate = (self._num_done - self._num_before) / max(now_s - self._started_s, 1e-9)
            left_s = (self._num_items - self._num_done) / rate
            self._console.print(
                f"{self._num_done} of {self._num_items} items, {rate:.2f} items/s, {left_s:.0f} s left", markup=False
            )
