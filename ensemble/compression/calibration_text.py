"""Windows of tokens to measure a model on: some to calibrate with, others, never seen by a step, to judge by.

Axes: W windows, T tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.tokenizer import find_bos
from ensemble.compression.calibration_options import WINDOW_TOKENS, CalibrationOptions
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from ensemble.compression.calibration_sources import CalibrationSource

HELD_OUT_SHARE = 0.25
MIN_WINDOWS = 4
MAX_HELD_OUT_WINDOWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """Windows of equal length, each with its BOS token where the tokenizer puts one."""

    calibrate_WT: Tensor
    held_out_WT: Tensor
    """Of ``WINDOW_TOKENS``; the same for all options, so that figures of several recipes can be compared."""
    bos: tuple[int, ...]
    """What each window begins with: the BOS token, or nothing."""
    facts: tuple[dict[str, Any], ...]
    """Of each source: its name, the digest of its text, and how many tokens it has."""

    own_digest: str | None = None
    """SHA-256 of the tokens that the model wrote itself."""

    @property
    def digest(self) -> str:
        """SHA-256 over what windows begin with and the digests of the sources, a line each."""
        lines = [*self.bos, *(fact["digest"] for fact in self.facts)]
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()

    @property
    def held_out_digest(self) -> str:
        """SHA-256 of the tokens that are held out."""
        return _digest_tokens(self.held_out_WT)

    def with_own(self, own_WT: Tensor, *, seed: int) -> Self:
        """Mix what the model wrote into what calibrates; what is held out stays as it is."""
        windows_WT = torch.cat([self.calibrate_WT, own_WT])
        order = torch.randperm(len(windows_WT), generator=torch.Generator().manual_seed(seed))
        return replace(self, calibrate_WT=windows_WT[order], own_digest=_digest_tokens(own_WT))

    def describe(self) -> dict[str, Any]:
        """Say what the windows were made of."""
        return {
            "texts": list(self.facts),
            "num_windows": len(self.calibrate_WT),
            "num_held_out_windows": len(self.held_out_WT),
            "own_text_digest": self.own_digest,
        }


def split_calibration_text(
    sources: Sequence[CalibrationSource],
    tokenizer: PreTrainedTokenizerFast,
    options: CalibrationOptions | None = None,
    *,
    context: int | None = None,
) -> CalibrationText:
    """Cut text into windows of tokens; the last quarter of each source is held out.

    No window is longer than the model's context, if that is told.

    Raises:
        ConfigError: there is too little text.
    """
    options = options or CalibrationOptions()
    bos = list(find_bos(tokenizer))
    judged_tokens = min(WINDOW_TOKENS, context or WINDOW_TOKENS)
    facts, calibrating, held_out = [], list[int](), list[int]()
    for source in sources:
        tokens = tokenizer(source.text, add_special_tokens=False, verbose=False)["input_ids"]
        num_held_out = _count_held_out(len(tokens), judged_tokens - len(bos))
        calibrating += tokens[: len(tokens) - num_held_out]
        held_out += tokens[len(tokens) - num_held_out :]
        facts.append({"name": source.name, "digest": source.digest, "num_tokens": len(tokens)})
    _check_length(
        len(calibrating), len(held_out), calibrated=options.window_tokens - len(bos), judged=judged_tokens - len(bos)
    )
    windows_WT = _cut(calibrating, options.window_tokens, bos)
    order = torch.randperm(len(windows_WT), generator=torch.Generator().manual_seed(options.seed))
    judging_WT = _cut(held_out, judged_tokens, bos)
    # Spread over all of it: what comes last may be of one kind.
    spread = torch.linspace(0, len(judging_WT) - 1, min(len(judging_WT), MAX_HELD_OUT_WINDOWS)).round().long()
    return CalibrationText(
        calibrate_WT=windows_WT[order[: options.num_windows]],
        held_out_WT=judging_WT[spread],
        bos=tuple(bos),
        facts=tuple(facts),
    )


def _digest_tokens(tokens_WT: Tensor) -> str:
    return hashlib.sha256(tokens_WT.numpy().astype("<i8").tobytes()).hexdigest()


def _count_held_out(num_tokens: int, window: int) -> int:
    """Say how many tokens at the end are held out: a quarter, in whole windows where it has one."""
    quarter = int(num_tokens * HELD_OUT_SHARE)
    return quarter // window * window or quarter


def _check_length(num_calibrating: int, num_held_out: int, *, calibrated: int, judged: int) -> None:
    """Refuse less than a window of each kind, of so many tokens of the text."""
    if num_held_out >= judged and num_calibrating >= calibrated:
        return
    num_tokens = num_calibrating + num_held_out
    # With a quarter held out neither part may be shorter than a window.
    needed = next(
        count for count in itertools.count(MIN_WINDOWS * judged) if count - _count_held_out(count, judged) >= calibrated
    )
    raise ConfigError(
        "calibration text",
        f"it has {num_tokens} tokens, and at least {needed} are needed for windows of {calibrated}",
        "give more text, shorter windows (calibration.window_tokens), or no text to use the package's own",
    )


def _cut(tokens: list[int], window_tokens: int, bos: list[int]) -> Tensor:
    step = window_tokens - len(bos)
    return torch.tensor([bos + tokens[start * step : (start + 1) * step] for start in range(len(tokens) // step)])
