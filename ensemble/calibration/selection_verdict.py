"""What the search found, in plain sentences."""

from __future__ import annotations

from ensemble.calibration.lineup import MeasuredLineup
from ensemble.calibration.selection import SIGNIFICANCE, Rival, Selection


def write_verdict(selection: Selection) -> tuple[str, ...]:
    """Say what was chosen, what it is worth, and whether a single member or something cheaper would do."""
    sentences = [_about_choice(selection), _about_accuracy(selection), _about_gain(selection), _about_front(selection)]
    if selection.cheapest_as_good:
        sentences.append(_about_rival(selection, selection.cheapest_as_good))
    return (*sentences, _about_search(selection))


def describe_price(measured: MeasuredLineup, cost_unit: str) -> str:
    """Tell the mean cost and latency of a request."""
    return f"{measured.cost:.3g} {cost_unit} and {measured.latency_s * 1_000:.3g} ms a request"


def _about_choice(selection: Selection) -> str:
    lineup = selection.chosen.lineup
    price = describe_price(selection.chosen, selection.cost_unit)
    limits = selection.limits
    bounds = [f"{limits.max_cost:g} {selection.cost_unit}"] if limits.max_cost is not None else []
    if limits.max_latency_s is not None:
        bounds.append(f"{limits.max_latency_s * 1_000:g} ms")
    within = f"Within {' and '.join(bounds)} a request" if bounds else "Without a limit"
    return f"{within}, the choice is {lineup.title} ({lineup.manner}): {price}."


def _about_accuracy(selection: Selection) -> str:
    figures = selection.corrected
    interval = figures.accuracy_interval
    return (
        f"Its accuracy on held-out items is {figures.naive:.3f}; with the optimism of choosing among "
        f"{len(selection.lineups)} lineups taken out it is {figures.accuracy:.3f} "
        f"(95 % interval {interval.low:.3f} to {interval.high:.3f}, {selection.num_items} items)."
    )


def _about_gain(selection: Selection) -> str:
    best, figures = selection.best_single, selection.corrected
    name, accuracy = best.measured.lineup.members[0], best.measured.accuracy
    if selection.chosen.lineup.is_single:
        return "A SINGLE MEMBER IS THE CHOICE: within the limits no panel was more accurate."
    if figures.gain is None or figures.gain_interval is None:
        return f"No single member keeps the limits; the best one, {name}, has {accuracy:.3f} beyond them."
    low, high = figures.gain_interval.low, figures.gain_interval.high
    is_gain = low > 0.0
    claim = "beats" if is_gain else "does NOT measurably beat"
    return (
        f"It {claim} the best single member within the limits: corrected gain {figures.gain:+.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f}). The best member of all, {name}, has {accuracy:.3f}."
    )


def _about_front(selection: Selection) -> str:
    singles = selection.singles_on_front
    if not singles:
        return "No single member is on the Pareto front."
    what = "is a single member" if len(singles) == 1 else "are single members"
    return f"On the Pareto front of {len(selection.front)} lineups {what}: {', '.join(singles)}."


def _about_rival(selection: Selection, rival: Rival) -> str:
    one = rival.measured
    price = describe_price(one, selection.cost_unit)
    return (
        f"Cheaper and not significantly worse (p = {rival.p_value:.2g}, level {SIGNIFICANCE:g}): {one.lineup.title} "
        f"({one.lineup.manner}), accuracy {one.accuracy:.3f}, {price}."
    )


def _about_search(selection: Selection) -> str:
    searched = selection.searched
    if searched.is_exhaustive:
        return f"The search was exhaustive: all {searched.num_possible} panels were measured."
    return (
        f"The search was NOT exhaustive: {len(searched.merit_by_panel)} of {searched.num_possible} panels were "
        "measured (a beam, bettered by single changes until none helped); a better one may exist, and the correction "
        "covers the choice among those measured."
    )
