"""The plots of an evaluation's report, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensemble.calibration.figures import Measure, SavingFigures, Score, SetFigures, StrategyFigures
from ensemble.calibration.plot_style import BLUE, GREEN, GREY, GRID, INK, ORANGE, PURPLE, SERIES, build_figure, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MAX_CURVES = 3
MIN_SPAN = 0.02
"""Shares that lie closer together are not drawn further apart: three digits can tell them."""
_WIDTH_IN = 9.0
_COLOUR_BY_WAY = {"lossless stop": BLUE, "risk stop": ORANGE, "staged": GREEN, "cascade": PURPLE}
_MARKER_BY_WAY = {"lossless stop": "o", "risk stop": "s", "staged": "^", "cascade": "D"}


def plot_accuracy(figures: SetFigures) -> str:
    """Draw members' and strategies' scores with their intervals, one panel a measure."""
    measures: list[Measure] = [score.measure for score in figures.members[0].scores]
    num_rows = len(figures.members) + len(figures.strategies)
    figure, axes = build_figure(_WIDTH_IN, 1.0 + 0.27 * num_rows, columns=len(measures))
    for axis, measure in zip(axes, measures, strict=True):
        _draw_scores(axis, figures, measure)
    return svg_of(figure)


def _draw_scores(axis: Axes, figures: SetFigures, measure: Measure) -> None:
    alone = [(one.member, score, BLUE) for one in figures.members for score in one.scores if score.measure == measure]
    rows: list[tuple[str, Score, str]] = alone
    rows += [
        (one.title, one.score, ORANGE if one.is_fitted else GREY)
        for one in figures.strategies
        if one.score.measure == measure
    ]
    for place, (_, score, colour) in enumerate(rows):
        errors = [[score.value - score.interval.low], [score.interval.high - score.value]]
        axis.errorbar(score.value, place, xerr=errors, fmt="o", color=colour, capsize=3, markersize=5, linewidth=1.4)
    for verdict in figures.verdicts:
        if verdict.measure == measure:
            axis.axvline(verdict.best_member_score, color=BLUE, linestyle="--", linewidth=1.0)
    axis.set_yticks(range(len(rows)), [title for title, _, _ in rows])
    axis.invert_yaxis()
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    axis.set_xlabel(f"{measure} (share of items)" if measure != "chrF" else "mean chrF2 (0 to 1)")
    axis.set_title(f"{measure} with 95 % intervals", loc="left")


def plot_diversity(figures: SetFigures) -> str:
    """Draw error correlation and disagreement of every two members."""
    names = [one.member for one in figures.members]
    size_in = 1.6 + 0.55 * len(names)
    figure, (left, right) = build_figure(_WIDTH_IN, min(size_in, 7.0), columns=2)
    # Brown and green, which colour-blind readers tell apart; 0 is white.
    draw_matrix(left, figures.error_correlation, names, colours="PuOr_r", lowest=-1.0)
    left.set_title("error correlation (phi)", loc="left")
    draw_matrix(right, figures.disagreement, names, colours="Blues", lowest=0.0)
    right.set_title("disagreement (share of items)", loc="left")
    right.set_yticks([])
    return svg_of(figure)


def draw_matrix(
    axis: Axes, matrix: Sequence[Sequence[float]], names: Sequence[str], *, colours: str, lowest: float
) -> None:
    """Draw a matrix of members by members with its figures; ``colours`` is matplotlib's name of a scale up to 1."""
    axis.imshow(matrix, cmap=colours, vmin=lowest, vmax=1.0, aspect="auto")
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            colour = "white" if abs(value) > 0.6 else INK
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def plot_reliability(figures: SetFigures) -> str:
    """Draw the reliability of the most accurate calibrated strategies; nothing when there is none."""
    calibrated = [one for one in figures.strategies if one.reliability]
    if not calibrated:
        return ""
    chosen = sorted(calibrated, key=lambda one: one.score.value, reverse=True)[:MAX_CURVES]
    figure, (axis,) = build_figure(7.4, 4.6)
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.0)
    for one, colour in zip(chosen, SERIES, strict=False):
        _draw_curve(axis, one, colour)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence", ylabel="accuracy (share of items)")
    axis.grid(color=GRID)
    axis.set_aspect("equal")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    which = "" if len(chosen) == len(calibrated) else f"the {len(chosen)} most accurate of "
    axis.set_title(f"reliability on held-out items:\n{which}{len(calibrated)} calibrated strategies", loc="left")
    return svg_of(figure)


def _draw_curve(axis: Axes, one: StrategyFigures, colour: str) -> None:
    confidences = [part.mean_confidence for part in one.reliability]
    accuracies = [part.accuracy for part in one.reliability]
    label = one.strategy if one.ece_after is None else f"{one.strategy}: ECE {one.ece_after:.3f}"
    axis.plot(confidences, accuracies, marker="o", markersize=4, linewidth=1.4, color=colour, label=label)


def plot_savings(savings: Sequence[SavingFigures]) -> str:
    """Draw what each way saves against its accuracy; nothing when there is none."""
    if not savings:
        return ""
    figure, (axis,) = build_figure(_WIDTH_IN, 4.2)
    for way, colour in _COLOUR_BY_WAY.items():
        same = [one for one in savings if one.way == way]
        for is_refused in (False, True):
            drawn = [one for one in same if one.is_refused is is_refused]
            if drawn:
                axis.scatter(
                    [one.saving for one in drawn],
                    [one.accuracy for one in drawn],
                    marker=_MARKER_BY_WAY[way],
                    s=38,
                    edgecolors=colour,
                    facecolors="none" if is_refused else colour,
                    label=f"{way} (refused)" if is_refused else way,
                )
    for (strategy, full), colour in zip(
        dict.fromkeys((one.strategy, one.full_accuracy) for one in savings), (INK, GREY), strict=False
    ):
        axis.axhline(full, color=colour, linestyle="--", linewidth=1.0, label=f"{strategy}, full panel")
    widen(axis.xaxis, [one.saving for one in savings])
    widen(axis.yaxis, [one.accuracy for one in savings] + [one.full_accuracy for one in savings])
    axis.set_xlabel("share saved (stops: of ballots waited for; stages: of cost)")
    axis.set_ylabel("accuracy (share of items)")
    axis.grid(color=GRID)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set_title("what not waiting for all, or not asking all, would have saved", loc="left")
    return svg_of(figure)


def widen(axis: Axis, values: Sequence[float]) -> None:
    """Let an axis show at least MIN_SPAN with the values in its middle, and at most three digits."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 - heavy

    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), (MIN_SPAN - (high - low)) / 2.0)
    axis.set_view_interval(low - margin, high + margin, ignore=True)
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value, 3) + 0.0:g}"))
