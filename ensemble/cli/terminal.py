"""What goes to the terminal, and what may not: a model's text is data, never markup or an escape sequence."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

FILE_WIDTH = 240


def printable(text: str) -> str:
    """Replace control characters, which could move the cursor or colour the screen; line ends and tabs stay."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def one_line(text: str, *, width: int) -> str:
    """Shorten a text to one line of at most ``width`` characters, keeping its beginning."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else f"{line[: max(0, width - 1)]}…"


def last_line(text: str, *, width: int) -> str:
    """Shorten a text to one line of at most ``width`` characters, keeping its end: where it is being written."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else f"…{line[len(line) - max(0, width - 1) :]}"


def seconds(duration_s: float) -> str:
    """Write a duration so that three figures matter."""
    return f"{duration_s * 1_000:.0f} ms" if duration_s < 1 else f"{duration_s:.2f} s"


def plain_table(*texts: str, numbers: tuple[str, ...] = (), style: str = "") -> Table:
    """Make a table without lines: columns of text, which fold and may have a ``style``, then those of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in texts:
        table.add_column(column, style=style, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def stdout_console() -> Console:
    """Make the console that results go to; without a terminal, lines may be as long as tables need."""
    # Bound now: Ray's own prints may be sent elsewhere later.
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=FILE_WIDTH)


def stderr_console() -> Console:
    """Make the console that progress goes to."""
    return Console(stderr=True, highlight=False)
