"""Shows a comparison in the terminal: how good, how fast and how large, how alike, and what to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ensemble.cli.terminal import plain_table, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ensemble.variants.figures import ComparisonFigures, VariantFigures
    from ensemble.variants.spread import Estimate
    from ensemble.variants.turns import SpeedFigures

MIB = 2**20
NOTHING = "-"


def show_comparison(figures: ComparisonFigures, console: Console, *, kept: tuple[str, ...] = ()) -> None:
    """Show the tables, what is missing and why, what the figures mean for a vote, and where they are kept."""
    console.print(_draw_quality(figures))
    console.print()
    console.print(_draw_sizes(figures))
    if any(one.speeds for one in figures.variants):
        console.print()
        console.print(_draw_speeds(figures))
    _tell([f"{one.name}: {reason}" for one in figures.variants for reason in one.missing], console, style="yellow")
    _tell(figures.remarks, console)
    if figures.panel:
        _tell(figures.panel.sentences or [f"No panel is proposed: {figures.panel.problem}."], console)
    _tell([f"kept with {reference}" for reference in kept], console, style="dim")


def _tell(sentences: tuple[str, ...] | list[str], console: Console, *, style: str = "") -> None:
    if sentences:
        console.print()
    for sentence in sentences:
        console.print(printable(sentence), style=style, markup=False, soft_wrap=True)


def _draw_quality(figures: ComparisonFigures) -> Table:
    numbers = ("perplexity", "of original", "bits/byte", "same token", "KL (nats)", "accuracy", "same choice", "p")
    table = plain_table("how good", numbers=numbers)
    for one in figures.variants:
        beside, items = one.beside, one.items
        table.add_row(
            _name(one),
            _spread(one.text.perplexity, ".2f") if one.text else NOTHING,
            _spread(beside.perplexity_ratio, ".3f") if beside else NOTHING,
            _spread(one.text.bits_per_byte, ".3f") if one.text else NOTHING,
            _spread(beside.agreement, ".3f") if beside else NOTHING,
            _spread(beside.kl, ".4f") if beside else NOTHING,
            _spread(items.accuracy, ".3f") if items else NOTHING,
            f"{items.choice_agreement.value:.3f}" if items and items.choice_agreement else NOTHING,
            f"{items.p_value:.2g}" if items and items.p_value is not None else NOTHING,
        )
    return table


def _draw_sizes(figures: ComparisonFigures) -> Table:
    table = plain_table("how large (MiB)", "family", "made by", numbers=("file", "weights", "resident"))
    for one in figures.variants:
        sizes = one.sizes
        resident = NOTHING if sizes.resident_bytes is None else f"{sizes.resident_bytes / MIB:.0f}"
        made_by = one.made_by or ("the original" if one.is_original else "unknown")
        table.add_row(
            _name(one),
            Text(one.family),
            Text(made_by),
            f"{sizes.file_bytes / MIB:.0f}",
            f"{sizes.weight_bytes / MIB:.0f}",
            resident,
        )
    return table


def _draw_speeds(figures: ComparisonFigures) -> Table:
    tasks = list(dict.fromkeys((speed.phase, speed.batch) for one in figures.variants for speed in one.speeds))
    table = plain_table("tokens/s", numbers=tuple(f"{phase} at {batch}" for phase, batch in tasks))
    for one in figures.variants:
        by_task = {(speed.phase, speed.batch): speed for speed in one.speeds}
        table.add_row(_name(one), *(_speed(by_task.get(task)) for task in tasks))
    return table


def _speed(speed: SpeedFigures | None) -> str:
    if speed is None:
        return NOTHING
    pace = f"{speed.tokens_per_s.value:.0f}"
    if speed.speedup is None or speed.cpu_speedup is None:
        return pace
    return f"{pace} ({_spread(speed.speedup, '.2f')} x, CPU {speed.cpu_speedup.value:.2f} x)"


def _spread(estimate: Estimate, digits: str) -> str:
    low, high = estimate.interval.low, estimate.interval.high
    return f"{estimate.value:{digits}} [{low:{digits}}, {high:{digits}}]"


def _name(one: VariantFigures) -> Text:
    return Text(one.name, style="bold" if one.is_original else "")
