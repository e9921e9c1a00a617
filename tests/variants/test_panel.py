"""The proposed panel is what the search behind ``ensemble select`` finds, and one variant alone may be it."""

from __future__ import annotations

from dataclasses import replace

from ensemble.calibration.items import LabelledItem
from ensemble.variants.figures import ClonePair
from ensemble.variants.panel import propose_panel
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote
from tests.calibration.simulated import Population, simulate

FAMILIES = {"m0": "x", "m1": "y", "m2": "z"}


def votes_of(
    skills: tuple[float, ...], *, num_items: int = 300, shared_noise: float = 0.3
) -> tuple[dict[str, tuple[Vote, ...]], tuple[LabelledItem, ...]]:
    population = Population(
        skills=skills, families=tuple(FAMILIES.values()), shared_noise=shared_noise, family_noise=1.0
    )
    simulated = simulate(population, num_items, seed=4)
    votes = {
        name: tuple(_with_choice(one.votes[place], one.item) for one in simulated)
        for place, name in enumerate(FAMILIES)
    }
    return votes, tuple(one.item for one in simulated)


def _with_choice(vote: Vote, item: LabelledItem) -> Vote:
    assert isinstance(vote, Ballot)
    best = max(range(len(item.choices)), key=vote.probabilities.__getitem__)
    return replace(vote, choice=item.choices[best], latency_s=0.1)


def test_members_that_err_apart_make_a_panel_that_beats_each_of_them() -> None:
    votes, items = votes_of((1.5, 1.5, 1.5))

    proposal = propose_panel(votes, items, family_by_name=FAMILIES, clones=())

    assert proposal.selection is not None
    assert len(proposal.selection.chosen.lineup.members) > 1
    assert any("It beats the best single member" in sentence for sentence in proposal.sentences)
    # Costs are the seconds that were measured.
    assert proposal.selection.cost_unit == "member-seconds"


def test_one_that_knows_all_that_the_others_know_is_proposed_alone_or_said_to_do_as_well() -> None:
    votes, items = votes_of((4.0, 0.2, 0.2))

    proposal = propose_panel(votes, items, family_by_name=FAMILIES, clones=())

    assert proposal.selection is not None
    assert not any("It beats" in sentence for sentence in proposal.sentences)
    assert proposal.selection.best_single.measured.lineup.members == ("m0",)


def test_near_clones_on_the_panel_are_pointed_out() -> None:
    votes, items = votes_of((1.5, 1.5, 1.5))
    clones = (ClonePair(first="m0", second="m1", unit="item", correlation=0.9),)

    proposal = propose_panel(votes, items, family_by_name=FAMILIES, clones=clones)

    assert proposal.selection is not None
    are_both_chosen = {"m0", "m1"} <= set(proposal.selection.chosen.lineup.members)
    assert are_both_chosen
    assert any("near-clones: take one of them away" in sentence for sentence in proposal.sentences)


def test_too_few_items_and_silent_models_are_no_ground_for_a_proposal() -> None:
    votes, items = votes_of((1.5, 1.5, 1.5), num_items=19)
    silence = (Abstention(member="m1", reason=AbstentionReason.ERROR),) * len(items)

    few = propose_panel(votes, items, family_by_name=FAMILIES, clones=())
    alone = propose_panel({"m0": votes["m0"], "m1": silence}, items, family_by_name=FAMILIES, clones=())

    assert (few.selection, alone.selection) == (None, None)
    assert "19 items are too few" in few.problem
    assert "fewer than two" in alone.problem
