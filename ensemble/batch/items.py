"""One row of a batch, and how it is read from a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from ensemble.files.json_line import SomeText
from ensemble.generation import GenerationParameters
from ensemble.router.config import LimitsConfig
from ensemble.router.request import ParameterOverrides
from ensemble.router.validation import check_choices, check_parameters, check_prompt

_SEED_BITS = 31
_PARAMETERS = tuple(field.name for field in fields(ParameterOverrides))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """A question with choices, or without them a prompt to be completed; ``parameters`` are a prompt's own."""

    item_id: str
    prompt: str
    choices: tuple[str, ...] = ()
    parameters: ParameterOverrides = ParameterOverrides()


class _Row(BaseModel):
    """One row as it stands; keys that are not named here are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: SomeText
    prompt: SomeText
    choices: list[str] = []
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] = []


ROW_KEYS = frozenset(_Row.model_fields)
"""All that a row can say."""


def item_from_row(row: Mapping[str, Any], limits: LimitsConfig) -> BatchItem:
    """Read a row; what is null counts as absent.

    Raises:
        ValueError: a field is missing or of the wrong kind; pydantic's own error is one.
        InvalidRequestError: the ensemble would refuse it.
    """
    read = _Row.model_validate({key: value for key, value in row.items() if value is not None})
    parameters = ParameterOverrides(
        max_tokens=read.max_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        seed=read.seed,
        stop=tuple(read.stop),
    )
    check_prompt(read.prompt, limits)
    if read.choices:
        check_choices(read.choices, limits)
        if parameters != ParameterOverrides():
            raise ValueError("it has choices and generation parameters; parameters are for prompts without choices")
    check_parameters(parameters, limits)
    return BatchItem(item_id=read.id, prompt=read.prompt, choices=tuple(read.choices), parameters=parameters)


def item_to_json(item: BatchItem) -> str:
    """Write an item in the one way that digests are made of."""
    parameters = [getattr(item.parameters, name) for name in _PARAMETERS]
    return json.dumps((item.item_id, item.prompt, item.choices, parameters), ensure_ascii=False, separators=(",", ":"))


def repeatable(item: BatchItem, defaults: GenerationParameters) -> BatchItem:
    """Give a completion that would be drawn at random a seed made of its id, so that asking again draws the same."""
    parameters = item.parameters.applied_to(defaults)
    if item.choices or parameters.temperature == 0.0 or parameters.seed is not None:
        return item
    seed = int.from_bytes(hashlib.sha256(item.item_id.encode()).digest()) >> (256 - _SEED_BITS)
    return replace(item, parameters=replace(item.parameters, seed=seed))
