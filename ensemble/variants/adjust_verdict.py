"""What a search for a variant found, in sentences."""

from __future__ import annotations

from ensemble.variants.adjust import Adjustment
from ensemble.variants.adjust_search import Limit
from ensemble.variants.trial_figures import Measure, Spread, TrialFigures

_BEST = {"speed": "the fastest", "size": "the smallest"}


def write_verdict(adjustment: Adjustment) -> tuple[str, ...]:
    """Tell the choice, what it is worth on what did not choose it, and what speaks against it."""
    task, num_trials = adjustment.task, len(adjustment.figures)
    wanted = describe_limit(task.limit, task.measure)
    if adjustment.chosen is None:
        return (f"None of {num_trials} variants that were tried {wanted}; {_tell_nearest(adjustment)}.",)
    name = adjustment.chosen.name
    figures = adjustment.figures[name]
    best = "the one of least loss" if task.limit.max_loss is None else _BEST[task.aim]
    sentences = [f"{name} is {best} among those of {num_trials} variants that {wanted}."]
    if adjustment.confirmed is not None:
        sentences += _judge(adjustment.confirmed, task.limit, task.measure)
    share = figures.file_bytes / figures.original_bytes
    return (*sentences, f"Its weights take {share:.2f} of the original's {figures.original_bytes / 2**20:.1f} MiB.")


def describe_limit(limit: Limit, measure: Measure) -> str:
    """Say what keeping the limit means, as what variants do."""
    if limit.max_loss is None:
        return f"decode at least {limit.min_speedup:g} times as fast as the original"
    if measure == "perplexity":
        return f"keep perplexity within {1 + limit.max_loss:.6g} times the original's"
    return f"lose at most {limit.max_loss:g} of accuracy"


def describe_loss(loss: Spread, measure: Measure) -> str:
    """Say by how much a variant is worse."""
    if measure == "accuracy":
        return f"accuracy is lower by {loss}"
    ratio = Spread(value=1 + loss.value, low=1 + loss.low, high=1 + loss.high)
    return f"perplexity is {ratio} times the original's"


def _tell_nearest(adjustment: Adjustment) -> str:
    nearest = adjustment.nearest
    loss = adjustment.figures[nearest.name].loss(adjustment.task.measure) if nearest else None
    if nearest is None or loss is None:
        return "none of them could be measured"
    timed = f", and it decodes {nearest.speedup:.2f} times as fast" if adjustment.task.trial.speed else ""
    return f"of the nearest, {nearest.name}, {describe_loss(loss, adjustment.task.measure)}{timed}"


def _judge(confirmed: TrialFigures, limit: Limit, measure: Measure) -> list[str]:
    """Tell the figures on what had no part in the choice, and whether they still keep the limit."""
    loss, speedup = confirmed.loss(measure), confirmed.decode_speedup
    if confirmed.problem or loss is None:
        return [f"It could not be measured again: {confirmed.problem}."]
    told = [f"On the half that did not choose it, {describe_loss(loss, measure)}."]
    if limit.max_loss is not None and loss.value > limit.max_loss:
        told.append("That is more loss than was allowed: the choice was lucky.")
    if speedup is None:
        return told
    told.append(f"Timed again, it decodes {speedup.value:.2f} times ({speedup.low:.2f} to {speedup.high:.2f}) as fast.")
    if limit.min_speedup is not None and speedup.value < limit.min_speedup:
        told.append("That is slower than was wanted: the choice was lucky.")
    if speedup.high < 1.0:
        told.append("It is slower than the original.")
    return told
