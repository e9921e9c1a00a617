"""Labelled items and the votes that members gave on them."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.voting.ballot import Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledItem:
    """A question whose right answer is known: ``answer`` indexes ``choices``, or ``reference`` is the right text.

    Exactly one of the two kinds: an item with choices has an answer, one without has a reference.
    """

    item_id: str
    prompt: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemVotes:
    """An item and one vote a member, as the members gave them: nothing calibrated, nobody stopped early."""

    item: LabelledItem
    votes: tuple[Vote, ...]
