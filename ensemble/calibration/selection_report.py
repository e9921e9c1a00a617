"""Writes a search's findings: a picture, a JSON file for programs, a page that stands alone for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ensemble.calibration.lineup import MeasuredLineup
from ensemble.calibration.plot_style import png_of, svg_of
from ensemble.calibration.report import render_page
from ensemble.calibration.selection import Rival, Selection
from ensemble.calibration.selection_plot import plot_selection
from ensemble.calibration.selection_verdict import write_verdict
from ensemble.files.whole_file import write_whole

PARETO_FILE = "pareto.png"
FIGURES_FILE = "figures.json"
REPORT_FILE = "report.html"


def save_selection(selection: Selection, folder: Path, *, ensemble: str, remarks: tuple[str, ...] = ()) -> None:
    """Write the three files; ``remarks`` are what a reader must know first.

    Raises:
        ConfigError: the folder cannot be written.
    """
    figure = plot_selection(selection)
    write_whole(folder / PARETO_FILE, png_of(figure))
    document = {"version": 1, "ensemble": ensemble, "remarks": remarks, **selection_figures(selection)}
    text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)
    write_whole(folder / FIGURES_FILE, f"{text}\n".encode())
    write_whole(folder / REPORT_FILE, render_selection(selection, ensemble=ensemble, remarks=remarks).encode())


def render_selection(selection: Selection, *, ensemble: str, remarks: tuple[str, ...] = ()) -> str:
    """Draw the page: one file, with its picture and without anything from elsewhere."""
    from markupsafe import Markup  # noqa: PLC0415 - it comes with jinja2

    return render_page(
        "selection.html.j2",
        title=f"The panel that pays off: ensemble {ensemble}",
        selection=selection,
        remarks=remarks,
        verdict=write_verdict(selection),
        singles=[one for one in selection.lineups if one.lineup.is_single],
        best_of_panels=best_of_panels(selection),
        pareto_svg=Markup(svg_of(plot_selection(selection))),  # noqa: S704 - matplotlib escapes the names it draws
    )


def best_of_panels(selection: Selection) -> list[MeasuredLineup]:
    """Keep each panel's most accurate lineup within the limits, the most accurate panel first."""
    best: dict[tuple[str, ...], MeasuredLineup] = {}
    for one in selection.lineups:
        members = one.lineup.members
        if selection.limits.allow(one) and (members not in best or one.accuracy > best[members].accuracy):
            best[members] = one
    return sorted(best.values(), key=lambda one: one.accuracy, reverse=True)


def selection_figures(selection: Selection) -> dict[str, Any]:
    """Give everything that a program may want to know; accuracies are shares, latencies seconds."""
    corrected = selection.corrected
    return {
        "verdict": write_verdict(selection),
        "num_items": selection.num_items,
        "cost_unit": selection.cost_unit,
        "axis": selection.axis,
        "limits": asdict(selection.limits),
        "is_exhaustive": selection.searched.is_exhaustive,
        "num_panels": len(selection.searched.merit_by_panel),
        "num_possible_panels": selection.searched.num_possible,
        "chosen": _figures_of(selection.chosen),
        "corrected": {**asdict(corrected), "optimism": corrected.optimism},
        "front": [_figures_of(one) for one in selection.front],
        "singles_on_front": selection.singles_on_front,
        "best_single": _rival_figures(selection.best_single),
        "cheapest_as_good": _rival_figures(selection.cheapest_as_good),
        "lineups": [_figures_of(one) for one in selection.lineups],
    }


def _figures_of(measured: MeasuredLineup) -> dict[str, Any]:
    return {
        **asdict(measured.lineup),
        "accuracy": measured.accuracy,
        "cost": measured.cost,
        "latency_s": measured.latency_s,
    }


def _rival_figures(rival: Rival | None) -> dict[str, Any] | None:
    return {**_figures_of(rival.measured), "p_value": rival.p_value} if rival else None
