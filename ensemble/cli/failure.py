"""From an error of ours to one line on stderr and an exit code, whatever the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from ensemble.errors import ConfigError, EnsembleError, InvalidRequestError

EXIT_WORLD = 1
"""A server, a member or a machine failed."""
EXIT_FAULTY = 2
"""What was typed, or the spec, is at fault; the same code as for an unknown option."""

_EXTRA_BY_COMMAND = {
    "adjust": "calibration,embedded",
    "batch": "batch",
    "calibrate": "calibration",
    "compare": "calibration,embedded",
    "evaluate": "calibration",
    "select": "calibration",
}


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
            return _naming_extras(ctx, super().invoke)
        except EnsembleError as error:
            typer.echo(failure_line(error), err=True)
            raise typer.Exit(exit_code_of(error)) from error


def _naming_extras(ctx: Any, invoke: Callable[[Any], Any]) -> Any:
    try:
        return invoke(ctx)
    except ModuleNotFoundError as error:
        command = ctx.invoked_subcommand
        if command not in _EXTRA_BY_COMMAND:
            raise
        remedy = f'pip install "ensemble-serving[{_EXTRA_BY_COMMAND[command]}]"'
        raise ConfigError(f"ensemble {command}", f"it needs the package {error.name}", remedy) from error
