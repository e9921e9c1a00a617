"""Labelled items with choices, from one or several files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.cli.terminal import stderr_console
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from ensemble.calibration.items import LabelledItem


def read_choice_items(paths: Sequence[Path], *, leave_out: bool) -> tuple[LabelledItem, ...]:
    """Read the items; ``leave_out`` leaves out lines that are wrong, and tells how many.

    Raises:
        ConfigError: a file cannot be read, a line is wrong, or items have no choices.
    """
    from ensemble.calibration.item_file import check_item_files, read_item_file, without_problems  # noqa: PLC0415

    files = [read_item_file(path) for path in paths]
    if leave_out:
        num_bad = sum(len(file.problems) for file in files)
        stderr_console().print(f"{num_bad} lines are left out", style="bold yellow" if num_bad else "dim")
        files = [without_problems(file) for file in files]
    sets = check_item_files(files)
    for one in sets:
        if not one.items[0].choices:
            raise ConfigError("--items", f"{one.name} has no choices to choose among", "give items with choices")
    if len(sets) == 1:
        return sets[0].items
    # Ids are unique within a file alone.
    return tuple(replace(item, item_id=f"{one.name}/{item.item_id}") for one in sets for item in one.items)
