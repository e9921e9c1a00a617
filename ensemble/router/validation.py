"""Checks a request against an ensemble and the limits, once; everything behind this trusts it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ensemble.errors import InvalidRequestError, UnknownNameError
from ensemble.router.config import MAX_SEED, MAX_STOPS, LimitsConfig
from ensemble.router.request import ParameterOverrides, QuorumOverrides

_TOO_LONG = 2**63
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

EnsembleT = TypeVar("EnsembleT")


def check_known(field: str, name: str, known: Iterable[str]) -> None:
    """Raise UnknownNameError unless ``name`` is one of ``known``."""
    names = tuple(known)
    if name not in names:
        raise UnknownNameError(field, f"there is no {name!r}", f"use one of: {', '.join(names)}")


def is_request_id(text: str) -> bool:
    """Say whether a request may have this name."""
    return _REQUEST_ID.fullmatch(text) is not None


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequestError for a name that cannot stand in logs."""
    if not is_request_id(request_id):
        problem = f"it has {len(request_id)} characters, or some that are not allowed"
        remedy = "send 1 to 128 letters, digits, dots, dashes and underscores, or leave it empty"
        raise InvalidRequestError("request_id", problem, remedy)


def check_prompt(prompt: str, limits: LimitsConfig) -> None:
    """Raise InvalidRequestError for a prompt that is blank or too long."""
    if not prompt.strip():
        raise InvalidRequestError("prompt", "it is empty", "send a prompt with text")
    if len(prompt) > limits.max_prompt_chars:
        raise InvalidRequestError(
            "prompt", f"it has {len(prompt)} characters", f"send at most {limits.max_prompt_chars}"
        )


def check_choices(choices: Sequence[str], limits: LimitsConfig) -> None:
    """Raise InvalidRequestError for too few, too many, blank, long or equal choices."""
    if len(choices) < 2:
        raise InvalidRequestError("choices", f"there are {len(choices)}", "send 2 or more")
    if len(choices) > limits.max_choices:
        raise InvalidRequestError("choices", f"there are {len(choices)}", f"send at most {limits.max_choices}")
    first_by_choice: dict[str, int] = {}
    for index, choice in enumerate(choices):
        field = f"choices[{index}]"
        if not choice.strip():
            raise InvalidRequestError(field, "it is empty", "send a choice with text")
        if len(choice) > limits.max_choice_chars:
            raise InvalidRequestError(
                field, f"it has {len(choice)} characters", f"send at most {limits.max_choice_chars}"
            )
        first = first_by_choice.setdefault(choice.strip(), index)
        if first != index:
            raise InvalidRequestError(field, f"it equals choices[{first}]", "send each choice once")


def check_panel(panel: Sequence[str], members: Sequence[str]) -> None:
    """Raise for a panel with strangers or duplicates."""
    for index, member in enumerate(panel):
        check_known(f"options.panel[{index}]", member, members)
        if panel.index(member) != index:
            raise InvalidRequestError(f"options.panel[{index}]", f"{member!r} is named twice", "name each member once")


def check_quorum(quorum: QuorumOverrides) -> None:
    """Raise InvalidRequestError for a share outside [0, 1] or fewer than one family."""
    check_range("options.quorum.min_weight", quorum.min_weight, 0.0, 1.0)
    check_range("options.quorum.min_families", quorum.min_families, 1, 2**31 - 1)


def check_parameters(parameters: ParameterOverrides, limits: LimitsConfig) -> None:
    """Raise InvalidRequestError for a parameter outside its range."""
    check_range("parameters.max_tokens", parameters.max_tokens, 1, limits.max_tokens)
    check_range("parameters.temperature", parameters.temperature, 0.0, 2.0)
    check_range("parameters.top_p", parameters.top_p, math.nextafter(0.0, 1.0), 1.0)
    check_range("parameters.seed", parameters.seed, 0, MAX_SEED)
    if len(parameters.stop) > MAX_STOPS:
        raise InvalidRequestError("parameters.stop", f"there are {len(parameters.stop)}", f"send at most {MAX_STOPS}")
    for index, stop in enumerate(parameters.stop):
        if not stop:
            raise InvalidRequestError(f"parameters.stop[{index}]", "it is empty", "send a stop string with text")


def check_range(field: str, value: float | None, lowest: float, highest: float) -> None:
    """Raise InvalidRequestError unless ``value`` is None or a number from ``lowest`` to ``highest``; NaN is none."""
    if value is not None and not lowest <= value <= highest:
        low = "above 0" if 0.0 < lowest < 1e-300 else f"from {lowest:g}"
        raise InvalidRequestError(field, f"it is {_told(value)}", f"send a number {low} to {highest:g}")


def _told(value: float) -> str:
    if isinstance(value, int) and abs(value) >= _TOO_LONG:
        return f"an integer of {value.bit_length()} bits"  # more may be no float, nor be written in digits
    return f"{value:g}"


def default_ensemble(names: Sequence[str]) -> str:
    """Name the ensemble that a request without a name means.

    Raises:
        InvalidRequestError: there are several and none is named ``default``.
    """
    if len(names) == 1:
        return names[0]
    if "default" in names:
        return "default"
    raise InvalidRequestError("ensemble", "it is empty and there are several", f"use one of: {', '.join(names)}")


def pick_ensemble(name: str, ensemble_by_name: Mapping[str, EnsembleT]) -> EnsembleT:
    """Find an ensemble; an empty name means the default one."""
    wanted = name or default_ensemble(tuple(ensemble_by_name))
    check_known("ensemble", wanted, ensemble_by_name)
    return ensemble_by_name[wanted]
