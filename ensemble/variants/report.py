"""Writes a comparison: JSON for programs, a page that stands alone for people."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ensemble.calibration.plot_style import svg_of
from ensemble.calibration.report import render_page
from ensemble.calibration.selection_plot import plot_selection
from ensemble.calibration.selection_report import selection_figures
from ensemble.checkpoints.reference import STORE_PREFIX, parse_stored
from ensemble.checkpoints.store import CheckpointStore
from ensemble.checkpoints.store_listing import EVALUATION_RECORD
from ensemble.files.whole_file import write_whole
from ensemble.variants.figures import ComparisonFigures

VERSION = 1


def comparison_to_json(figures: ComparisonFigures) -> dict[str, Any]:
    """Give everything that a program may want to know; sizes are bytes, shares lie in [0, 1]."""
    panel = figures.panel
    document = {"version": VERSION, **asdict(replace(figures, panel=None))}
    if panel is not None:
        selection = selection_figures(panel.selection) if panel.selection else None
        document["panel"] = {"sentences": panel.sentences, "problem": panel.problem, "selection": selection}
    return document


def evaluation_of(figures: ComparisonFigures, name: str) -> dict[str, Any]:
    """Give what a comparison says of one checkpoint, its original's own figures and the conditions beside it."""
    by_name = {one.name: one for one in figures.variants}
    variant = by_name[name]
    return {
        "version": VERSION,
        "conditions": figures.conditions,
        "variant": asdict(variant),
        "original": None if variant.is_original else asdict(figures.of_family(variant.family)[0]),
    }


def save_figures(figures: ComparisonFigures, file: Path) -> None:
    """Write the JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = json.dumps(comparison_to_json(figures), ensure_ascii=False, indent=2, allow_nan=False)
    write_whole(file, f"{text}\n".encode())


def keep_evaluations(figures: ComparisonFigures) -> tuple[str, ...]:
    """Write beside each variant that lies in a store what the comparison says of it; gives their references.

    Raises:
        ConfigError: the store does not take it.
    """
    kept = []
    for one in figures.variants:
        if one.reference.startswith(STORE_PREFIX) and not one.is_original:
            reference = parse_stored(one.reference)
            text = json.dumps(evaluation_of(figures, one.name), ensure_ascii=False, indent=2, allow_nan=False)
            place = CheckpointStore.at(reference.url).find(reference)
            place.attach(EVALUATION_RECORD, f"{text}\n".encode())
            kept.append(one.reference)
    return tuple(kept)


def save_report(figures: ComparisonFigures, file: Path) -> None:
    """Write the page.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_whole(file, render_report(figures).encode())


def render_report(figures: ComparisonFigures) -> str:
    """Draw the page: one file, with its plots and without anything from elsewhere."""
    # matplotlib escapes the names that it draws.
    from markupsafe import Markup  # noqa: PLC0415 - it comes with jinja2

    from ensemble.variants.report_plots import (  # noqa: PLC0415 - heavy
        plot_agreement,
        plot_diversity,
        plot_sizes,
        plot_speeds,
    )

    selection = figures.panel.selection if figures.panel else None
    return render_page(
        "comparison.html.j2",
        package="ensemble.variants",
        title=f"Variants of {' and '.join(figures.families)}",
        figures=figures,
        has_items=any(one.items for one in figures.variants),
        has_speeds=any(one.speeds for one in figures.variants),
        missing=[(one.name, reason) for one in figures.variants for reason in one.missing],
        sizes_svg=Markup(plot_sizes(figures)),  # noqa: S704
        speeds_svg=Markup(plot_speeds(figures)),  # noqa: S704
        agreement_svg=Markup(plot_agreement(figures)),  # noqa: S704
        diversity=[(Markup(plot_diversity(one)), one) for one in figures.diversity],  # noqa: S704
        panel_svg=Markup(svg_of(plot_selection(selection))) if selection else "",  # noqa: S704
    )
