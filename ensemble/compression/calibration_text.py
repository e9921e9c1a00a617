"""Text to measure a model on: one part to calibrate with, another, never seen by a step, to judge by.

Axes: W windows, T tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

WINDOW_TOKENS = 256
HELD_OUT_SHARE = 0.25
MIN_WINDOWS = 4
MAX_WINDOWS = 128
"""More text than this changes the order of the layers no further, and only takes time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """Windows of equal length, each with its BOS token where the tokenizer puts one."""

    calibrate_WT: Tensor
    held_out_WT: Tensor
    digest: str
    """SHA-256 of the text."""


def load_calibration_text(paths: Sequence[Path]) -> str:
    """Join the files' text; without files, give the short English text that comes with the package.

    Raises:
        ConfigError: a file cannot be read as UTF-8.
    """
    if not paths:
        return files("ensemble.compression").joinpath("calibration.txt").read_text("utf-8")
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(str(path), f"the calibration text cannot be read ({error})", "give UTF-8 text") from error
    return "\n\n".join(texts)


def split_calibration_text(text: str, tokenizer: PreTrainedTokenizerFast) -> CalibrationText:
    """Cut a text into windows of tokens; the last quarter of them is held out.

    Raises:
        ConfigError: there is too little text.
    """
    bos = _find_bos(tokenizer)
    step = WINDOW_TOKENS - len(bos)
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    num_windows = min(len(tokens) // step, MAX_WINDOWS)
    if num_windows < MIN_WINDOWS:
        raise ConfigError(
            "calibration text",
            f"it has {len(tokens)} tokens, and at least {MIN_WINDOWS * step} are needed",
            "give more text, or none to use the text that comes with the package",
        )
    windows_WT = torch.tensor([bos + tokens[start * step : (start + 1) * step] for start in range(num_windows)])
    num_held_out = max(1, int(num_windows * HELD_OUT_SHARE))
    return CalibrationText(
        calibrate_WT=windows_WT[:-num_held_out],
        held_out_WT=windows_WT[-num_held_out:],
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _find_bos(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Give the BOS token where the tokenizer itself puts one first, as the model was trained then."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []
