"""The search looks at every panel while they are few, and finds the same best one by its beam when they are many."""

from __future__ import annotations

import random

from ensemble.calibration.panel_search import BEAM_WIDTH, Merit, Panel, search_panels

MEMBERS = ("a", "b", "c", "d", "e", "f")


def diminishing_merit(seed: int) -> dict[frozenset[str], float]:
    """Make pairs help or harm one another at random, on top of each member's own worth; large panels cost."""
    generator = random.Random(seed)
    own = {member: generator.uniform(0.0, 1.0) for member in MEMBERS}
    together = {
        frozenset({one, other}): generator.gauss(0.0, 0.3) for one in MEMBERS for other in MEMBERS if one < other
    }
    panels = [
        frozenset(member for place, member in enumerate(MEMBERS) if number >> place & 1) for number in range(1, 64)
    ]
    return {
        panel: sum(own[member] for member in panel)
        + sum(value for pair, value in together.items() if pair <= panel)
        - 0.1 * len(panel) ** 2
        for panel in panels
    }


def test_every_panel_of_few_members_is_measured_once() -> None:
    measured: list[Panel] = []

    def merit_of(panel: Panel) -> Merit:
        measured.append(panel)
        return (0.0,)

    searched = search_panels(MEMBERS[:4], merit_of)

    assert len(measured) == len(set(measured)) == 15
    assert searched.is_exhaustive
    assert all(list(panel) == sorted(panel) for panel in measured)


def num_missed(*, beam_width: int) -> int:
    """Count the cases of 100 in which the beam's best panel is not the best of all."""
    missed = 0
    for seed in range(100):
        merit_by_panel = diminishing_merit(seed)
        searched = search_panels(
            MEMBERS,
            lambda panel, merits=merit_by_panel: (merits[frozenset(panel)],),  # type: ignore[misc]
            exhaustive_members=1,
            beam_width=beam_width,
        )
        found = max(searched.merit_by_panel, key=searched.merit_by_panel.__getitem__)
        missed += merit_by_panel[frozenset(found)] < max(merit_by_panel.values())
    return missed


def test_the_beam_finds_the_best_panel_that_an_exhaustive_search_finds() -> None:
    assert num_missed(beam_width=BEAM_WIDTH) == 0


def test_a_narrow_beam_is_mended_by_single_changes_in_most_cases() -> None:
    # Growing alone misses 9 of these.
    assert num_missed(beam_width=2) <= 2


def test_a_beam_that_left_panels_out_says_so() -> None:
    merit_by_panel = diminishing_merit(0)

    searched = search_panels(
        MEMBERS, lambda panel: (merit_by_panel[frozenset(panel)],), exhaustive_members=1, beam_width=1
    )

    assert not searched.is_exhaustive
    assert len(searched.merit_by_panel) < searched.num_possible == 63


def test_the_beam_measures_no_panel_twice() -> None:
    measured: list[Panel] = []

    def merit_of(panel: Panel) -> Merit:
        measured.append(panel)
        return (float(len(panel)),)

    search_panels(MEMBERS, merit_of, exhaustive_members=1, beam_width=2)

    assert len(measured) == len(set(measured))
    assert MEMBERS in measured
