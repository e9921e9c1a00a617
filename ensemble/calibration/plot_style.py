"""How every plot looks: colours that colour-blind readers can tell apart, light axes, SVG that stands alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f8790"
"""From the palette of Okabe & Ito (2008), and a grey."""
INK, GRID = "#1b1f24", "#e4e8ec"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9")
PNG_DOTS_PER_IN = 150
_STYLE: Any = {
    "svg.hashsalt": "ensemble",
    "svg.fonttype": "path",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": "#9aa3ab",
    "axes.labelcolor": INK,
    "xtick.color": "#57606a",
    "ytick.color": INK,
}


def build_figure(width_in: float, height_in: float, *, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure with axes side by side, without matplotlib's global state."""
    import matplotlib as mpl  # noqa: PLC0415 - heavy
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_of(figure: Figure) -> str:
    """Draw a figure as an SVG element, the same for the same figures."""
    import matplotlib as mpl  # noqa: PLC0415 - heavy

    stream = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def png_of(figure: Figure) -> bytes:
    """Draw a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DOTS_PER_IN, metadata={"Software": None})
    return stream.getvalue()


def draw_pareto(axis: Axes, prices: Sequence[float], qualities: Sequence[float]) -> None:
    """Draw a front, from its first point on."""
    axis.step(prices, qualities, where="post", color=BLUE, linewidth=1.4, alpha=0.8)
    axis.scatter(prices, qualities, s=26, color=BLUE, zorder=3, label="Pareto front")


def draw_references(axis: Axes, prices: Sequence[float], qualities: Sequence[float], *, label: str) -> None:
    """Draw what the others are compared with, as open diamonds."""
    axis.scatter(
        prices,
        qualities,
        marker="D",
        s=44,
        facecolors="white",
        edgecolors=ORANGE,
        linewidths=1.6,
        zorder=4,
        label=label,
    )


def draw_choice(axis: Axes, price: float, quality: float, *, label: str) -> None:
    """Draw what was chosen, as a star."""
    axis.scatter([price], [quality], marker="*", s=190, color=GREEN, zorder=5, label=label)


def draw_worth(axis: Axes, price: float, quality: float, *, low: float, high: float, label: str) -> None:
    """Draw what a choice is worth, with its interval."""
    axis.errorbar(
        price,
        quality,
        yerr=[[max(0.0, quality - low)], [max(0.0, high - quality)]],
        fmt="_",
        color=GREEN,
        capsize=4,
        linewidth=1.6,
        markersize=12,
        zorder=5,
        label=label,
    )


def draw_limit(axis: Axes, *, price: float | None = None, quality: float | None = None) -> None:
    """Draw a limit of the price, or of the quality."""
    style: Any = {"color": INK, "linestyle": "--", "linewidth": 1.0, "label": "limit"}
    if price is not None:
        axis.axvline(price, **style)
    if quality is not None:
        axis.axhline(quality, **style)


def draw_frame(axis: Axes, *, title: str, legend: Literal["best", "lower right"]) -> None:
    """Draw the grid below all else, the title, and the legend in one of matplotlib's places."""
    axis.grid(color=GRID)
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left")
    axis.legend(frameon=True, framealpha=0.9, edgecolor="none", loc=legend, fontsize=9)
