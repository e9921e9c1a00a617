"""The commands, put together. Every command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble import __version__
from ensemble.cli.adjust import adjust
from ensemble.cli.ask import ask
from ensemble.cli.batch import batch
from ensemble.cli.calibrate import calibrate
from ensemble.cli.classify import classify
from ensemble.cli.compare import compare
from ensemble.cli.compress import compress
from ensemble.cli.digest import digest
from ensemble.cli.evaluate import evaluate
from ensemble.cli.failure import CommandGroup
from ensemble.cli.health import health
from ensemble.cli.models import models
from ensemble.cli.options import TLS_HELP
from ensemble.cli.plan import plan
from ensemble.cli.render import render
from ensemble.cli.replay import replay
from ensemble.cli.select import select
from ensemble.cli.serve import serve
from ensemble.cli.status import status
from ensemble.cli.validate import schema, validate
from ensemble.cli.weigh import weigh

app = typer.Typer(
    name="ensemble",
    help="Serve several small language models as one, and ask them.",
    epilog=TLS_HELP,
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for command in (
    serve,
    classify,
    ask,
    status,
    health,
    validate,
    plan,
    schema,
    digest,
    compress,
    compare,
    adjust,
    evaluate,
    calibrate,
    weigh,
    select,
    replay,
    batch,
):
    app.command()(command)
app.add_typer(render)
app.add_typer(models)


def _print_version(*, is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda value: _print_version(is_wanted=value),
            help="Print the version.",
        ),
    ] = False,
) -> None:
    del version  # Its callback has ended the program.


def main() -> None:
    """Run the command line."""
    app()
