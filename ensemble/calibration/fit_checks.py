"""What labelled votes must be like for a calibration; every refusal has its count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ensemble.calibration.items import ItemVotes
from ensemble.calibration.vote_arrays import VoteArrays
from ensemble.errors import ConfigError
from ensemble.voting.ballot import Voter

_NUM_NAMED = 5


def check_items(items: Sequence[ItemVotes], *, least: int) -> None:
    """Refuse items that are too few, not labelled, there twice, or of two kinds.

    Raises:
        ConfigError: with the count of what is wrong.
    """
    unlabelled = [item.item.item_id for item in items if not _is_labelled(item)]
    if unlabelled:
        raise ConfigError("items", f"{len(unlabelled)} have no answer ({_named(unlabelled)})", "label or remove them")
    if len(items) < least:
        raise ConfigError("items", f"{len(items)} labelled items are too few", f"label at least {least}")
    counts = Counter(item.item.item_id for item in items)
    if twice := [item_id for item_id, count in counts.items() if count > 1]:
        raise ConfigError("items", f"{len(twice)} ids are there twice ({_named(twice)})", "give each item its own id")
    num_choices = sum(bool(item.item.choices) for item in items)
    if 0 < num_choices < len(items):
        problem = f"{num_choices} items have choices and {len(items) - num_choices} have a reference"
        raise ConfigError("items", problem, "calibrate on one kind at a time")


def check_voters(voters: Sequence[Voter]) -> None:
    """Refuse a panel without members, or with one twice.

    Raises:
        ConfigError: so it is.
    """
    if not voters or len({voter.member for voter in voters}) < len(voters):
        raise ConfigError("members", "none are given, or one is given twice", "name each member of the ensemble once")


def check_turnout(arrays: VoteArrays) -> None:
    """Refuse members that gave no ballot on half of the items or more.

    Raises:
        ConfigError: with each one's count.
    """
    num_items = len(arrays.answer_N)
    counts = dict(zip(arrays.members, (~arrays.has_ballot_NM).sum(axis=0).tolist(), strict=True))
    if silent := [f"{member} on {count} of {num_items}" for member, count in counts.items() if 2 * count >= num_items]:
        problem = f"these members abstained on half of the items or more: {', '.join(silent)}"
        raise ConfigError("members", problem, "mend them and evaluate again, or leave them out of the ensemble")


def _is_labelled(item: ItemVotes) -> bool:
    labelled = item.item
    if labelled.choices:
        return labelled.answer is not None and 0 <= labelled.answer < len(labelled.choices)
    return bool(labelled.reference and labelled.reference.strip())


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
