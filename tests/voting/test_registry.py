"""Strategies are found by name and say what they can count."""

from __future__ import annotations

import pytest

from ensemble.errors import UnknownNameError
from ensemble.voting import STRATEGY_NAMES, Task, get_strategy, task_of


def test_every_name_finds_its_strategy() -> None:
    assert STRATEGY_NAMES == ("weighted_vote", "majority", "soft_vote", "mbr")
    assert [get_strategy(name).name for name in STRATEGY_NAMES] == list(STRATEGY_NAMES)
    assert [name for name in STRATEGY_NAMES if get_strategy(name).is_heavy] == ["mbr"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_strategy("coin_toss")

    assert str(caught.value) == (
        "strategy: there is no strategy 'coin_toss'; use one of weighted_vote, majority, soft_vote, mbr"
    )


@pytest.mark.parametrize(
    ("name", "for_choices", "for_texts"),
    [
        ("weighted_vote", Task.CHOICE, Task.SHORT_ANSWER),
        ("majority", Task.CHOICE, Task.SHORT_ANSWER),
        ("soft_vote", Task.CHOICE, None),
        ("mbr", None, Task.FREE_TEXT),
    ],
)
def test_a_strategy_knows_its_task(name: str, for_choices: Task | None, for_texts: Task | None) -> None:
    strategy = get_strategy(name)

    assert task_of(strategy, has_choices=True) == for_choices
    assert task_of(strategy, has_choices=False) == for_texts
