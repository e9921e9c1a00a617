"""``ensemble compress``: from a checkpoint and a recipe to a smaller checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ensemble.cli.terminal import stderr_console, stdout_console
from ensemble.config import cache_dir

if TYPE_CHECKING:
    from ensemble.compression.record import CompressionReport

MIB = 2**20

OnPhase = Callable[[str, float], None]


def compress(
    source: Annotated[str, typer.Argument(help="A folder, a .gguf file, package:MODULE/FILE.gguf, or org/name.")],
    output: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    *,
    recipe: Annotated[Path, typer.Option(help="The recipe, a YAML file; see deploy/recipes.")],
    calibration: Annotated[
        list[Path] | None, typer.Option(help="UTF-8 text to calibrate and judge by; left out, a short English text.")
    ] = None,
) -> None:
    """Make a smaller checkpoint by a recipe, and say what it cost in perplexity."""
    console = stdout_console()
    with show_phases(stderr_console(), what=output.name) as on_phase:
        report = run_recipe(source, output, recipe=recipe, calibration=calibration or (), on_phase=on_phase)
    console.print(describe_report(report), style="bold", markup=False)
    console.print(f"written to {report.output}", markup=False, soft_wrap=True)


def run_recipe(
    source: str, output: Path, *, recipe: Path, calibration: list[Path] | tuple[()], on_phase: OnPhase
) -> CompressionReport:
    """Read the recipe and compress by it.

    Raises:
        ConfigError: the recipe, the source or the output cannot be used.
    """
    # torch and transformers take seconds to import.
    from ensemble.compression.compress import compress as compress_checkpoint  # noqa: PLC0415
    from ensemble.compression.recipe import load_recipe  # noqa: PLC0415

    return compress_checkpoint(
        source,
        load_recipe(recipe),
        output,
        calibration_texts=calibration,
        cache_dir=cache_dir() / "checkpoints",
        on_progress=on_phase,
    )


def describe_report(report: CompressionReport) -> str:
    """Tell in one line what became smaller and what became worse."""
    smaller = report.output_bytes / report.source_bytes
    sizes = f"{report.source_bytes / MIB:.0f} MiB to {report.output_bytes / MIB:.0f} MiB ({smaller:.2f} of it)"
    if report.perplexity_before is None or report.perplexity_after is None:
        return sizes
    return f"{sizes}; perplexity {report.perplexity_before:.2f} to {report.perplexity_after:.2f} on held-out text"


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
