"""Strategies are found by name and say what they can count."""

from __future__ import annotations

import pytest

from ensemble.errors import UnknownNameError
from ensemble.voting import STRATEGY_NAMES, Task, get_strategy, task_of


def test_every_name_finds_its_strategy() -> None:
    assert STRATEGY_NAMES[:7] == (
        "weighted_vote",
        "majority",
        "soft_vote",
        "log_pool",
        "borda",
        "stacking",
        "field_vote",
    )
    assert [get_strategy(name).name for name in STRATEGY_NAMES] == list(STRATEGY_NAMES)
    assert len(set(STRATEGY_NAMES)) == len(STRATEGY_NAMES)


def test_a_second_round_is_never_light() -> None:
    two_rounds = [get_strategy(name) for name in STRATEGY_NAMES if get_strategy(name).second_round]

    assert all(strategy.is_heavy for strategy in two_rounds)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_strategy("coin_toss")

    assert str(caught.value) == f"strategy: there is no strategy 'coin_toss'; use one of {', '.join(STRATEGY_NAMES)}"


@pytest.mark.parametrize(
    ("name", "for_choices", "for_texts"),
    [
        ("weighted_vote", Task.CHOICE, Task.SHORT_ANSWER),
        ("majority", Task.CHOICE, Task.SHORT_ANSWER),
        ("soft_vote", Task.CHOICE, None),
        ("log_pool", Task.CHOICE, None),
        ("borda", Task.CHOICE, None),
        ("stacking", Task.CHOICE, None),
        ("field_vote", None, Task.SHORT_ANSWER),
        ("mbr", None, Task.FREE_TEXT),
    ],
)
def test_a_strategy_knows_its_task(name: str, for_choices: Task | None, for_texts: Task | None) -> None:
    strategy = get_strategy(name)

    assert task_of(strategy, has_choices=True) == for_choices
    assert task_of(strategy, has_choices=False) == for_texts
