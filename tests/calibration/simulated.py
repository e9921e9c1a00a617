"""Labelled votes of simulated members that err together: items differ in difficulty, families share their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.voting.ballot import Ballot, Voter

LETTERS = "abcdefgh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """How simulated members think of an item's choices: logits of signal, shared difficulty, family and own noise.

    ``overconfidence`` multiplies the logits that a member reports.
    """

    skills: tuple[float, ...]
    families: tuple[str, ...]
    num_choices: int = 4
    shared_noise: float = 1.0
    family_noise: float = 0.5
    own_noise: float = 0.8
    overconfidence: float = 2.0


def voters_of(population: Population) -> tuple[Voter, ...]:
    return tuple(Voter(member=f"m{n}", family=family) for n, family in enumerate(population.families))


def simulate(population: Population, num_items: int, *, seed: int) -> list[ItemVotes]:
    generator = np.random.default_rng(seed)
    size = population.num_choices
    items = []
    for number in range(num_items):
        answer = int(generator.integers(size))
        shared = population.shared_noise * generator.normal(size=size)
        noise_by_family = {
            family: population.family_noise * generator.normal(size=size)
            for family in dict.fromkeys(population.families)
        }
        votes = []
        for place, (skill, family) in enumerate(zip(population.skills, population.families, strict=True)):
            logits = shared + noise_by_family[family] + population.own_noise * generator.normal(size=size)
            logits[answer] += skill
            votes.append(soft_ballot(f"m{place}", softmax(population.overconfidence * logits)))
        choices = tuple(f"{letter}{number}" for letter in LETTERS[:size])
        item = LabelledItem(item_id=f"item-{number}", prompt="?", choices=choices, answer=answer)
        items.append(ItemVotes(item=item, votes=tuple(votes)))
    return items


def soft_ballot(member: str, probabilities: Sequence[float]) -> Ballot:
    return Ballot(member=member, probabilities=tuple(float(probability) for probability in probabilities))


def softmax(logits: ArrayLike) -> list[float]:
    powers = np.exp(np.asarray(logits) - np.max(logits))
    shares: list[float] = (powers / powers.sum()).tolist()
    return shares
