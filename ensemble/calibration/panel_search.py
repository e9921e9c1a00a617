"""Which panels to measure: all of them while they are few, else the promising ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

Panel = tuple[str, ...]
Merit = tuple[float, ...]
"""What a panel is worth; the greater is better."""

EXHAUSTIVE_MEMBERS = 6
"""Up to so many members every panel is measured: 63 of them."""
BEAM_WIDTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedPanels:
    """The panels that were measured, with their merits, out of ``num_possible``."""

    merit_by_panel: dict[Panel, Merit]
    num_possible: int

    @property
    def is_exhaustive(self) -> bool:
        """Whether no panel was left out."""
        return len(self.merit_by_panel) == self.num_possible


def search_panels(
    members: Sequence[str],
    merit_of: Callable[[Panel], Merit],
    *,
    exhaustive_members: int = EXHAUSTIVE_MEMBERS,
    beam_width: int = BEAM_WIDTH,
) -> SearchedPanels:
    """Measure panels (subsets of members, in their order), each at most once.

    With more than ``exhaustive_members`` members: a beam. From the best ``beam_width`` panels of each size grow those
    of the next; then every panel that one member more, fewer or another makes of the best ones is tried until none of
    them gets better. That finds a panel that no single change betters, which need not be the best of all.
    """
    merit_by_panel: dict[Panel, Merit] = {}

    def measure(panels: Iterable[Panel]) -> None:
        for panel in panels:
            if panel not in merit_by_panel:
                merit_by_panel[panel] = merit_of(panel)

    if len(members) <= exhaustive_members:
        measure(panel for size in range(1, len(members) + 1) for panel in combinations(members, size))
    else:
        _measure_by_beam(members, measure, merit_by_panel, beam_width=beam_width)
    return SearchedPanels(merit_by_panel=merit_by_panel, num_possible=2 ** len(members) - 1)


def _measure_by_beam(
    members: Sequence[str],
    measure: Callable[[Iterable[Panel]], None],
    merit_by_panel: dict[Panel, Merit],
    *,
    beam_width: int,
) -> None:
    measure((member,) for member in members)
    for size in range(1, len(members)):
        of_size = [panel for panel in merit_by_panel if len(panel) == size]
        for panel in _best(of_size, merit_by_panel, beam_width):
            measure(_grown(panel, members))
    best: list[Panel] = []
    while best != (best := _best(merit_by_panel, merit_by_panel, beam_width)):
        for panel in best:
            measure(_neighbours(panel, members))


def _best(panels: Iterable[Panel], merit_by_panel: dict[Panel, Merit], width: int) -> list[Panel]:
    # Stable: of equals those measured first, which are the smaller ones.
    return sorted(panels, key=merit_by_panel.__getitem__, reverse=True)[:width]


def _grown(panel: Panel, members: Sequence[str]) -> list[Panel]:
    return [_in_order({*panel, member}, members) for member in members if member not in panel]


def _neighbours(panel: Panel, members: Sequence[str]) -> list[Panel]:
    fewer = [tuple(other for other in panel if other != member) for member in panel] if len(panel) > 1 else []
    swapped = [
        _in_order({*panel, newcomer} - {member}, members)
        for member in panel
        for newcomer in members
        if newcomer not in panel
    ]
    return [*fewer, *swapped, *_grown(panel, members)]


def _in_order(chosen: set[str], members: Sequence[str]) -> Panel:
    return tuple(member for member in members if member in chosen)
