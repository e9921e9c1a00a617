"""Which variants are worth serving together, by the search behind ``ensemble select``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ensemble.calibration.call_costs import build_call_costs
from ensemble.calibration.fit import MIN_ITEMS, FitOptions
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.lineup import Limits
from ensemble.calibration.panel_lineups import PanelMeter
from ensemble.calibration.selection import OnPanel, Selection, select_lineup
from ensemble.calibration.selection_verdict import write_verdict
from ensemble.errors import ConfigError
from ensemble.variants.figures import ClonePair, PanelProposal
from ensemble.voting.ballot import Abstention, Vote, Voter
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.strategy import Quorum, Task

EXHAUSTIVE_MEMBERS = 6


def propose_panel(
    votes_by_name: Mapping[str, Sequence[Vote]],
    items: Sequence[LabelledItem],
    *,
    family_by_name: Mapping[str, str],
    clones: Sequence[ClonePair],
    on_panel: OnPanel = lambda _done, _total: None,
) -> PanelProposal:
    """Search for the most accurate panel, a single variant being one like any other; costs are measured seconds."""
    usable = {name: votes for name, votes in votes_by_name.items() if not _has_failed(votes)}
    if len(usable) < 2:
        return PanelProposal(selection=None, sentences=(), problem="fewer than two models gave ballots")
    if len(items) < MIN_ITEMS:
        problem = f"{len(items)} items are too few to choose by; give {MIN_ITEMS} or, better, some hundreds"
        return PanelProposal(selection=None, sentences=(), problem=problem)
    item_votes = [
        ItemVotes(item=item, votes=tuple(votes[place] for votes in usable.values())) for place, item in enumerate(items)
    ]
    meter = PanelMeter(
        items=item_votes,
        voters=tuple(Voter(member=name, family=family_by_name[name]) for name in usable),
        costs=build_call_costs(item_votes, {}),
        options=FitOptions(ensemble="comparison", strategies=_choice_strategies()),
        quorum=Quorum(min_weight=0.0),
    )
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - of the calibration extra

    try:
        # Thousands of fits of a few numbers each: threads of a matrix library would only wait for one another.
        with threadpool_limits(1):
            selection = select_lineup(meter, Limits(), exhaustive_members=EXHAUSTIVE_MEMBERS, on_panel=on_panel)
    except ConfigError as error:
        return PanelProposal(selection=None, sentences=(), problem=str(error))
    return PanelProposal(selection=selection, sentences=(*write_verdict(selection), *_about_clones(selection, clones)))


def _choice_strategies() -> tuple[str, ...]:
    """Name the rules that choose among choices and do not ask models again."""
    return tuple(
        name
        for name in STRATEGY_NAMES
        if Task.CHOICE in get_strategy(name).tasks and get_strategy(name).second_round is None
    )


def _has_failed(votes: Sequence[Vote]) -> bool:
    return sum(isinstance(vote, Abstention) for vote in votes) * 2 >= len(votes)


def _about_clones(selection: Selection, clones: Sequence[ClonePair]) -> tuple[str, ...]:
    members = set(selection.chosen.lineup.members)
    return tuple(
        f"{pair.first} and {pair.second} of this panel are near-clones: take one of them away before you serve it."
        for pair in clones
        if {pair.first, pair.second} <= members
    )
