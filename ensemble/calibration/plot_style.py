"""How every plot looks: colours that colour-blind readers can tell apart, light axes, SVG that stands alone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f8790"
"""From the palette of Okabe & Ito (2008), and a grey."""
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9")
_STYLE: Any = {
    "svg.hashsalt": "ensemble",
    "svg.fonttype": "path",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": "#9aa3ab",
    "axes.labelcolor": "#1b1f24",
    "xtick.color": "#57606a",
    "ytick.color": "#1b1f24",
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
