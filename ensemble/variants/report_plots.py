"""The plots of a comparison's report, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble.calibration.plot_style import GREY, GRID, INK, SERIES, build_figure, svg_of
from ensemble.calibration.report_plots import draw_matrix
from ensemble.calibration.statistics import Interval
from ensemble.variants.diversity import hyphenate
from ensemble.variants.figures import ComparisonFigures, DiversityFigures, VariantFigures
from ensemble.variants.front import find_front
from ensemble.variants.spread import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIB = 2**20
LOG_RANGE = 8.0
"""Figures that spread by more than this factor are drawn on a logarithmic axis."""
_WIDTH_IN = 9.0
_PLACES = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a name may stand beside its mark: to the right and above first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """A variant in a picture: what it costs to the right, what it loses upwards."""

    variant: VariantFigures
    price: Estimate
    loss: Estimate


def plot_sizes(figures: ComparisonFigures) -> str:
    """Draw quality against the weights' size, on disk and in the engine's memory; nothing where no text was read."""
    prices: dict[str, Callable[[VariantFigures], float | None]] = {
        "weights' files (MiB)": lambda one: one.sizes.file_bytes / MIB,
        "resident beside the cache (MiB)": lambda one: (
            None if one.sizes.resident_bytes is None else one.sizes.resident_bytes / MIB
        ),
    }
    panels = []
    for label, price_of in prices.items():
        marks = [
            _Mark(variant=one, price=_exactly(price), loss=loss)
            for one in figures.variants
            if (price := price_of(one)) is not None and (loss := _loss_of(one, figures)) is not None
        ]
        panels.append((label, marks))
    return _draw_fronts(figures, panels, title="smaller to the left, better below", is_speed=False)


def plot_speeds(figures: ComparisonFigures) -> str:
    """Draw quality against the decoding pace, a panel for each batch; nothing where no speed was measured.

    In one family that is the speed-up, whose spread is free of what else the machine did.
    """
    batches = sorted({speed.batch for one in figures.variants for speed in one.speeds if speed.phase == "decode"})
    has_one_family = len(figures.families) == 1
    panels = []
    for batch in batches:
        marks = [
            _Mark(
                variant=one, price=(speed.speedup or _exactly(1.0)) if has_one_family else speed.tokens_per_s, loss=loss
            )
            for one in figures.variants
            for speed in one.speeds
            if (speed.phase, speed.batch) == ("decode", batch) and (loss := _loss_of(one, figures)) is not None
        ]
        what = "times as fast as the original" if has_one_family else "tokens/s"
        panels.append((f"decoding at batch {batch}, {what}", marks))
    return _draw_fronts(figures, panels, title="faster to the right, better below", is_speed=True)


def plot_agreement(figures: ComparisonFigures) -> str:
    """Draw how far each variant is from its original; nothing where none was read beside one."""
    rows = [(one.name, one.beside) for one in figures.variants if one.beside]
    if not rows:
        return ""
    figure, (left, right) = build_figure(_WIDTH_IN, 1.3 + 0.32 * len(rows), columns=2)
    for place, (_, beside) in enumerate(rows):
        _draw_interval(left, beside.agreement, place)
        _draw_interval(right, beside.kl, place)
    for axis in (left, right):
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", color=GRID)
        axis.set_axisbelow(True)
    right.set_yticks([])
    left.set_xlabel("share of tokens")
    left.set_title("same next token held likeliest", loc="left")
    if _spreads([beside.kl.value for _, beside in rows]):
        right.set_xscale("log")
    right.set_xlabel("nats a token")
    right.set_title("divergence from the original (KL)", loc="left")
    return svg_of(figure)


def plot_diversity(figures: DiversityFigures) -> str:
    """Draw error correlation and disagreement of every two models."""
    size_in = 1.6 + 0.5 * len(figures.names)
    figure, (left, right) = build_figure(_WIDTH_IN, min(size_in, 9.0), columns=2)
    draw_matrix(left, figures.correlation, figures.names, colours="PuOr_r", lowest=-1.0)
    left.set_title(f"correlation of {hyphenate(figures.unit)} errors (phi)", loc="left")
    draw_matrix(right, figures.disagreement, figures.names, colours="Blues", lowest=0.0)
    what = "chose differently" if figures.unit == "item" else "exactly one was right"
    right.set_title(f"share of {figures.unit}s: {what}", loc="left")
    right.set_yticks([])
    return svg_of(figure)


def quality_name(figures: ComparisonFigures) -> str:
    """Name what stands for quality: perplexities of several families' tokens cannot be compared."""
    return "perplexity" if len(figures.families) == 1 else "bits per byte"


def _loss_of(one: VariantFigures, figures: ComparisonFigures) -> Estimate | None:
    if one.text is None:
        return None
    return one.text.perplexity if len(figures.families) == 1 else one.text.bits_per_byte


def _draw_fronts(
    figures: ComparisonFigures, panels: Sequence[tuple[str, Sequence[_Mark]]], *, title: str, is_speed: bool
) -> str:
    drawn = [(label, marks) for label, marks in panels if marks]
    if not drawn:
        return ""
    figure, axes = build_figure(_WIDTH_IN, 4.2, columns=len(drawn))
    for place, (axis, (label, marks)) in enumerate(zip(axes, drawn, strict=True)):
        _draw_front(axis, marks, is_speed=is_speed)
        for family, colour in zip(figures.families, SERIES, strict=False):
            _draw_marks(axis, [mark for mark in marks if mark.variant.family == family], colour, family)
        _draw_scales(axis, marks)
        axis.set_xlabel(label)
        axis.set_ylabel(f"{quality_name(figures)} on held-out text" if place == 0 else "")
    axes[0].set_title(title, loc="left")
    # Names are placed by dots, which are known once everything else has its room.
    figure.draw_without_rendering()
    for axis, (_, marks) in zip(axes, drawn, strict=True):
        _draw_names(axis, marks)
    axes[-1].legend(frameon=True, framealpha=0.9, edgecolor="none", loc="upper right", fontsize=9)
    return svg_of(figure)


def _draw_front(axis: Axes, marks: Sequence[_Mark], *, is_speed: bool) -> None:
    front = find_front(
        marks,
        cost=lambda mark: 1.0 / mark.price.value if is_speed else mark.price.value,
        loss=lambda mark: mark.loss.value,
    )
    prices, losses = [mark.price.value for mark in front], [mark.loss.value for mark in front]
    # From each point the front goes away from what is cheap, which is to the left for a pace.
    axis.step(prices, losses, where="post", color=GREY, linewidth=1.2, label="Pareto front")


def _draw_marks(axis: Axes, marks: Sequence[_Mark], colour: str, family: str) -> None:
    for number, mark in enumerate(marks):
        axis.errorbar(
            mark.price.value,
            mark.loss.value,
            xerr=_arms(mark.price),
            yerr=_arms(mark.loss),
            fmt="*" if mark.variant.is_original else "o",
            markersize=12 if mark.variant.is_original else 6,
            color=colour,
            elinewidth=0.9,
            capsize=2,
            label=family if number == 0 else None,
        )


def _draw_names(axis: Axes, marks: Sequence[_Mark]) -> None:
    """Write each name beside its mark, where no other name and no mark is, if there is such a place."""
    spots = [tuple(axis.transData.transform((mark.price.value, mark.loss.value))) for mark in marks]
    taken = [_Box.around(spot) for spot in spots]
    for mark, spot in zip(marks, spots, strict=True):
        boxes = [_Box.beside(spot, place, len(mark.variant.name)) for place in _PLACES]
        free = [number for number, box in enumerate(boxes) if not any(box.meets(other) for other in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        right, up = _PLACES[chosen]
        axis.annotate(
            mark.variant.name,
            (mark.price.value, mark.loss.value),
            xytext=(7 * right, 7 * up),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            va="bottom" if up > 0 else "top",
            fontsize=9,
            color=INK,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """Room in a picture, in dots."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, spot: Sequence[float]) -> _Box:
        return cls(left=spot[0] - 6, bottom=spot[1] - 6, right=spot[0] + 6, top=spot[1] + 6)

    @classmethod
    def beside(cls, spot: Sequence[float], place: tuple[int, int], num_characters: int) -> _Box:
        across, up = (spot[0] + 10 * place[0], spot[1] + 10 * place[1])
        far, high = across + 9.0 * num_characters * place[0], up + 14.0 * place[1]
        return cls(left=min(across, far), bottom=min(up, high), right=max(across, far), top=max(up, high))

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


def _draw_scales(axis: Axes, marks: Sequence[_Mark]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - heavy

    for scale, values, set_scale in (
        (axis.xaxis, [mark.price.value for mark in marks], axis.set_xscale),
        (axis.yaxis, [mark.loss.value for mark in marks], axis.set_yscale),
    ):
        if _spreads(values):
            set_scale("log")
            scale.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            scale.set_minor_formatter(NullFormatter())
        scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.margins(0.18)
    axis.grid(color=GRID)
    axis.set_axisbelow(True)


def _draw_interval(axis: Axes, estimate: Estimate, place: int) -> None:
    axis.errorbar(
        estimate.value, place, xerr=_arms(estimate), fmt="o", color=SERIES[0], capsize=3, markersize=5, linewidth=1.4
    )


def _arms(estimate: Estimate) -> list[list[float]]:
    low, high = estimate.interval.low, estimate.interval.high
    return [[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]]


def _spreads(values: Sequence[float]) -> bool:
    return min(values) > 0.0 and max(values) > LOG_RANGE * min(values)


def _exactly(value: float) -> Estimate:
    return Estimate(value=value, interval=Interval(low=value, high=value))
