"""What must hold for a folder before its weights are trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ensemble.errors import CheckpointError

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_TRAINERS_OWN = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
"""What transformers' Trainer leaves beside the weights; nobody here reads it."""


def check_folder(folder: Path) -> dict[str, Any]:
    """Read every header in a checkpoint's folder and give its config.

    Raises:
        CheckpointError: a file is missing, cut short, or only pickled weights are there.
    """
    config = read_config(folder)
    for path in find_weight_files(folder):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                str(path), f"it is damaged or cut short ({error})", "fetch or write it again"
            ) from error
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` as it stands.

    Raises:
        CheckpointError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(folder), f"config.json cannot be read ({error})", "give a whole checkpoint"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(str(folder), "config.json is not a JSON object", "give a whole checkpoint")
    return config


def find_weight_files(folder: Path) -> list[Path]:
    """List the safetensors files: the ones that the index names, or the only one.

    Raises:
        CheckpointError: there is none, one is missing, or there are pickled ones, even beside safetensors: which of
            them a loader takes would be its own affair.
    """
    _refuse_pickles(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(str(index), f"it is not a weight index ({error!r})", "fetch it again") from error
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise CheckpointError(str(folder), f"the index names absent files: {', '.join(absent)}", "fetch them")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise CheckpointError(str(folder), "there is no model.safetensors", "give a whole checkpoint")


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in _PICKLE_SUFFIXES and not path.name.startswith(_TRAINERS_OWN)
    )
    if pickles:
        raise CheckpointError(
            str(folder),
            f"{', '.join(pickles[:3])}: these weights are pickled, and a pickle can run any code when it is loaded",
            "convert them to safetensors (transformers: save_pretrained) somewhere you can afford to, and remove them",
        )
