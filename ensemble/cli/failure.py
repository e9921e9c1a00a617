"""From an error of ours to one line on stderr and an exit code, whatever the command."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from ensemble.errors import ConfigError, EnsembleError, InvalidRequestError

EXIT_WORLD = 1
"""A server, a member or a machine failed."""
EXIT_FAULTY = 2
"""What was typed, or the spec, is at fault; the same code as for an unknown option."""


def exit_code_of(error: EnsembleError) -> int:
    """Say by the exit code whose fault an error is."""
    return EXIT_FAULTY if isinstance(error, InvalidRequestError | ConfigError) else EXIT_WORLD


def failure_line(error: EnsembleError) -> str:
    """Tell an error in one line: what failed, where, and what to do."""
    return f"ensemble: {' '.join(str(error).split())}"


class CommandGroup(TyperGroup):
    """Runs the commands; their errors end here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except EnsembleError as error:
            typer.echo(failure_line(error), err=True)
            raise typer.Exit(exit_code_of(error)) from error
