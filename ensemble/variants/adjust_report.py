"""Writes a search's findings: a picture, a JSON file for programs, a page that stands alone for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ensemble.calibration.plot_style import png_of, svg_of
from ensemble.calibration.report import render_page
from ensemble.files.whole_file import write_whole
from ensemble.variants.adjust import Adjustment
from ensemble.variants.adjust_plot import plot_adjustment
from ensemble.variants.adjust_verdict import write_verdict

PARETO_FILE = "pareto.png"
FIGURES_FILE = "figures.json"
REPORT_FILE = "report.html"


def save_adjustment(adjustment: Adjustment, folder: Path) -> None:
    """Write the three files.

    Raises:
        ConfigError: the folder cannot be written.
    """
    write_whole(folder / PARETO_FILE, png_of(plot_adjustment(adjustment)))
    text = json.dumps(adjustment_to_json(adjustment), ensure_ascii=False, indent=2, allow_nan=False)
    write_whole(folder / FIGURES_FILE, f"{text}\n".encode())
    write_whole(folder / REPORT_FILE, render_adjustment(adjustment).encode())


def render_adjustment(adjustment: Adjustment) -> str:
    """Draw the page: one file, with its picture and without anything from elsewhere."""
    from markupsafe import Markup  # noqa: PLC0415 - it comes with jinja2

    return render_page(
        "adjustment.html.j2",
        package="ensemble.variants",
        title=f"Variants of {adjustment.task.trial.source}",
        adjustment=adjustment,
        verdict=write_verdict(adjustment),
        front=[one.name for one in adjustment.front],
        trials=[
            (one.name, adjustment.figures[one.name])
            for one in sorted(adjustment.measured, key=lambda one: (one.loss, one.name))
        ],
        by_processor=any(one.clock == "processor" for one in adjustment.figures.values()),
        pareto_svg=Markup(svg_of(plot_adjustment(adjustment))),  # noqa: S704 - matplotlib escapes the names it draws
    )


def adjustment_to_json(adjustment: Adjustment) -> dict[str, Any]:
    """Give everything that a program may want to know; losses are shares, sizes bytes."""
    task, point_by_name = adjustment.task, {point.name: point for point in adjustment.task.points}
    confirmed = adjustment.confirmed
    return {
        "version": 1,
        "verdict": write_verdict(adjustment),
        "source": task.trial.source,
        "limit": asdict(task.limit),
        "aim": task.aim,
        "measure": task.measure,
        "conditions": task.choosing.facts(),
        "chosen": adjustment.chosen.name if adjustment.chosen else None,
        "confirmed": confirmed.model_dump(mode="json") if confirmed else None,
        "front": [one.name for one in adjustment.front],
        "trials": {
            name: {
                "recipe": point_by_name[name].recipe.model_dump(mode="json"),
                **adjustment.figures[name].model_dump(mode="json"),
            }
            for name in sorted(adjustment.figures)
        },
    }
