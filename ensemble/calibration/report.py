"""Writes an evaluation's figures: a JSON file for programs, a page that stands alone for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ensemble.calibration.figures import EvaluationFigures, SavingFigures, SetFigures
from ensemble.files.whole_file import write_whole

FIGURES_FILE = "figures.json"
REPORT_FILE = "report.html"


def save_figures(figures: EvaluationFigures, folder: Path) -> Path:
    """Write the figures as JSON; gives the path."""
    path = folder / FIGURES_FILE
    text = json.dumps({"version": 1, **asdict(figures)}, ensure_ascii=False, indent=2, allow_nan=False)
    write_whole(path, f"{text}\n".encode())
    return path


def save_report(figures: EvaluationFigures, folder: Path) -> Path:
    """Write the page; gives the path."""
    path = folder / REPORT_FILE
    write_whole(path, render_report(figures).encode())
    return path


def render_report(figures: EvaluationFigures) -> str:
    """Draw the page: one file, with its plots and without anything from elsewhere."""
    return render_page(
        "evaluation.html.j2",
        title=f"Evaluation of ensemble {figures.ensemble}",
        figures=figures,
        sets=[_draw_set(one) for one in figures.sets],
    )


def render_page(template: str, *, package: str = "ensemble.calibration", **content: Any) -> str:
    """Fill a template of this package, or of another one that extends this one's; what is not safe is escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - heavy

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("ensemble.calibration")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def worth_telling(savings: Sequence[SavingFigures]) -> tuple[SavingFigures, ...]:
    """Keep of each staged plan the threshold that saves most without being refused, else the most accurate one."""
    kept: dict[tuple[str, ...], SavingFigures] = {}
    for one in savings:
        plan = (one.way, one.strategy, one.detail.partition(" unless confidence")[0])
        if plan not in kept or _rank(one) > _rank(kept[plan]):
            kept[plan] = one
    return tuple(kept.values())


def _rank(saving: SavingFigures) -> tuple[bool, float]:
    return not saving.is_refused, saving.accuracy if saving.is_refused else saving.saving


def _draw_set(figures: SetFigures) -> dict[str, Any]:
    from markupsafe import Markup  # noqa: PLC0415 - it comes with jinja2

    from ensemble.calibration.report_plots import (  # noqa: PLC0415 - heavy
        plot_accuracy,
        plot_diversity,
        plot_reliability,
        plot_savings,
    )

    # matplotlib escapes the names that it draws.
    return {
        "figures": figures,
        "best_titles": [
            one.title
            for one in figures.strategies
            for verdict in figures.verdicts
            if (one.strategy, one.is_fitted, one.is_served, one.score.measure)
            == (verdict.strategy, verdict.is_fitted, verdict.is_served, verdict.measure)
        ],
        "savings": worth_telling(figures.savings),
        "sure": [one for one in figures.strategies if one.sure],
        "accuracy_svg": Markup(plot_accuracy(figures)),  # noqa: S704
        "diversity_svg": Markup(plot_diversity(figures)),  # noqa: S704
        "reliability_svg": Markup(plot_reliability(figures)),  # noqa: S704
        "savings_svg": Markup(plot_savings(figures.savings)),  # noqa: S704
    }
