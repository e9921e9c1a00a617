"""What can be known to fail before weights are read: outputs, calibration, and steps on a model without weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ensemble.compression.calibration_options import WINDOW_TOKENS
from ensemble.compression.record import RECORD_NAME
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ensemble.compression.calibration_options import CalibrationOptions
    from ensemble.compression.recipe import Recipe
    from ensemble.compression.source import Source


def check_places(folders: Iterable[Path]) -> None:
    """See that folders which are not there can be made.

    Raises:
        ConfigError: a file is in the way, or the place takes nothing.
    """
    for folder in folders:
        if _exists(folder) and folder.is_dir():
            continue
        place = next(place for place in folder.absolute().parents if _exists(place))
        if not place.is_dir():
            raise ConfigError(str(folder), f"{place} is a file", "choose another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(str(folder), f"nothing can be written into {place}", "choose another folder")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def check_outputs(outputs: Sequence[Path]) -> None:
    """See that every output can be written, or may be what an earlier run has made.

    Raises:
        ConfigError: one is something else, stands twice, or cannot be made.
    """
    check_places(outputs)
    for output in outputs:
        if output.exists() and not (output / RECORD_NAME).is_file():
            raise ConfigError(str(output), "it exists already", "choose another folder, or remove it")
        if list(outputs).count(output) > 1:
            raise ConfigError(str(output), "two recipes would write it", "give their files different names")


def fit_calibration(source: Source, options: CalibrationOptions) -> CalibrationOptions:
    """See that the source's model can read and write such windows; gives shorter ones where none were asked for.

    Raises:
        ConfigError: they are longer than its context, or it is to write text and is a classifier.
    """
    if options.own_tokens and source.is_classifier:
        raise ConfigError("calibration.own_tokens", "a classifier writes no text", "leave own_tokens out")
    if source.context is None or options.window_tokens <= source.context:
        return options
    # A variant's record says the default, too, where nothing was asked for.
    if options.window_tokens != WINDOW_TOKENS:
        raise ConfigError(
            "calibration.window_tokens",
            f"windows of {options.window_tokens} tokens are longer than the model's context of {source.context}",
            "take shorter ones",
        )
    return options.model_copy(update={"window_tokens": source.context})


def check_steps(source: Source, recipe: Recipe) -> tuple[int, ...]:
    """See that each step can be taken after those before it; gives how many weights are left after each.

    Raises:
        ConfigError: one cannot.
    """
    empty = source.build_empty()
    num_weights = []
    for step in recipe.steps:
        step.check(empty)
        num_weights.append(sum(parameter.numel() for parameter in empty.parameters()))
    return tuple(num_weights)
