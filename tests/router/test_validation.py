from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ensemble.errors import InvalidRequestError, UnknownNameError
from ensemble.router.config import MAX_SEED, LimitsConfig
from ensemble.router.request import ParameterOverrides, QuorumOverrides
from ensemble.router.validation import (
    check_choices,
    check_panel,
    check_parameters,
    check_prompt,
    check_quorum,
    pick_ensemble,
)

LIMITS = LimitsConfig(max_prompt_chars=10, max_choices=3, max_choice_chars=5, max_tokens=100)
Check = Callable[[], object]


def prompt(text: str) -> Check:
    return lambda: check_prompt(text, LIMITS)


def choices(*texts: str) -> Check:
    return lambda: check_choices(texts, LIMITS)


def panel(*members: str) -> Check:
    return lambda: check_panel(members, ("a", "b"))


def quorum(*, min_weight: float | None = None, min_families: int | None = None) -> Check:
    return lambda: check_quorum(QuorumOverrides(min_weight=min_weight, min_families=min_families))


def parameters(**fields: object) -> Check:
    return lambda: check_parameters(ParameterOverrides(**fields), LIMITS)  # type: ignore[arg-type]


def ensemble(name: str, *names: str) -> Check:
    return lambda: pick_ensemble(name, dict.fromkeys(names, 1))


# The rows: what is checked, and the field that is to blame.
BAD: list[tuple[Check, str]] = [
    (prompt(""), "prompt"),
    (prompt(" \n\t"), "prompt"),
    (prompt("x" * 11), "prompt"),
    (choices(), "choices"),
    (choices("yes"), "choices"),
    (choices("a", "b", "c", "d"), "choices"),
    (choices("yes", ""), "choices[1]"),
    (choices(" ", "yes"), "choices[0]"),
    (choices("yes", "no", "yes"), "choices[2]"),
    (choices("yes", " yes "), "choices[1]"),
    (choices("yes", "x" * 6), "choices[1]"),
    (panel("a", "a"), "options.panel[1]"),
    (panel("b", "a", "b"), "options.panel[2]"),
    (quorum(min_weight=-0.001), "options.quorum.min_weight"),
    (quorum(min_weight=1.001), "options.quorum.min_weight"),
    (quorum(min_weight=math.nan), "options.quorum.min_weight"),
    (quorum(min_weight=math.inf), "options.quorum.min_weight"),
    (quorum(min_families=0), "options.quorum.min_families"),
    (quorum(min_families=-1), "options.quorum.min_families"),
    (parameters(max_tokens=0), "parameters.max_tokens"),
    (parameters(max_tokens=101), "parameters.max_tokens"),
    (parameters(temperature=-0.1), "parameters.temperature"),
    (parameters(temperature=2.1), "parameters.temperature"),
    (parameters(temperature=math.nan), "parameters.temperature"),
    (parameters(top_p=0.0), "parameters.top_p"),
    (parameters(top_p=1.1), "parameters.top_p"),
    (parameters(top_p=math.nan), "parameters.top_p"),
    (parameters(seed=-1), "parameters.seed"),
    (parameters(seed=MAX_SEED + 1), "parameters.seed"),
    (parameters(stop=("x",) * 9), "parameters.stop"),
    (parameters(stop=("x", "")), "parameters.stop[1]"),
    (ensemble("", "one", "two"), "ensemble"),
]

GOOD: list[Check] = [
    prompt("x" * 10),
    prompt(" x "),
    choices("yes", "no"),
    choices("Yes", "yes", "no"),
    panel(),
    panel("b", "a"),
    quorum(),
    quorum(min_weight=0.0, min_families=1),
    quorum(min_weight=1.0, min_families=2**31 - 1),
    parameters(),
    parameters(max_tokens=1, temperature=0.0, top_p=math.nextafter(0.0, 1.0), seed=0),
    parameters(max_tokens=100, temperature=2.0, top_p=1.0, seed=MAX_SEED, stop=("x",) * 8),
    ensemble("", "only"),
    ensemble("", "default", "other"),
    ensemble("other", "default", "other"),
]


@pytest.mark.parametrize(("check", "field"), BAD)
def test_what_cannot_be_served_names_its_field_the_problem_and_the_remedy(check: Check, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check()

    assert caught.value.field == field
    assert caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize("check", GOOD)
def test_what_lies_within_the_limits_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("check", "remedy"), [(panel("a", "c"), "use one of: a, b"), (ensemble("c", "a", "b"), "use one of: a, b")]
)
def test_an_unknown_name_names_the_known_ones(check: Check, remedy: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        check()

    assert caught.value.remedy == remedy


def test_the_problem_of_a_number_says_the_number_and_the_range() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_parameters(ParameterOverrides(top_p=0.0), LIMITS)

    assert str(caught.value) == "parameters.top_p: it is 0; send a number above 0 to 1"
