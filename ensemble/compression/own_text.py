"""Text that the original model writes itself, to calibrate and to distil on where there is little text.

A model's own samples stand in for what it was trained on (Liu et al. 2023, LLM-QAT, arXiv:2305.17888). Each window
goes on from a few tokens of the calibration text, never of the held-out one, and is drawn from the model's whole
distribution.

Axes: W windows, T tokens, P tokens of a prompt.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.quiet import quiet_transformers
from ensemble.files.whole_file import remove_partials, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.checkpoints.progress import OnPhase
    from ensemble.compression.calibration_options import CalibrationOptions
    from ensemble.compression.calibration_text import CalibrationText

PROMPT_TOKENS = 8
PASSES_OF_A_WRITTEN_WINDOW = 2.5
"""What drawing a window costs, in forward passes of one; for the time left alone."""
BATCH_WINDOWS = 32
"""Written at once; what a killed run had of a batch is written again."""


def write_own_text(
    load_model: Callable[[], PreTrainedModel],
    text: CalibrationText,
    options: CalibrationOptions,
    *,
    folder: Path,
    on_phase: OnPhase,
) -> Tensor:
    """Let the model write windows, and keep each batch in the folder, from which a killed run goes on.

    The model is asked for only where a batch is missing; the same model, text and options give the same tokens.

    Raises:
        ConfigError: the disk does not take them.
    """
    prompts_WP = _draw_prompts(text, options)
    batches = []
    for first in range(0, len(prompts_WP), BATCH_WINDOWS):
        batch_WP = prompts_WP[first : first + BATCH_WINDOWS]

        def tell(share: float, *, first: int = first, num_windows: int = len(batch_WP)) -> None:
            on_phase("write own text", (first + share * num_windows) / len(prompts_WP))

        file = folder / f"windows-{first:06}.json"
        if not file.exists():
            remove_partials(file)
            seed = _mix(options.seed, first)
            windows_WT = _sample(load_model(), batch_WP, options.window_tokens, seed, tell)
            write_whole(file, json.dumps(windows_WT.tolist()).encode())
        batches.append(torch.tensor(json.loads(file.read_text("utf-8"))))
    return torch.cat(batches)


def _draw_prompts(text: CalibrationText, options: CalibrationOptions) -> Tensor:
    """Draw what each window goes on from: some tokens of the text, behind the BOS token where there is one."""
    generator = torch.Generator().manual_seed(options.seed)
    num_windows, window_tokens = text.calibrate_WT.shape
    rows = torch.randint(num_windows, (options.num_own_windows,), generator=generator).tolist()
    last = window_tokens - PROMPT_TOKENS
    starts = torch.randint(len(text.bos), last + 1, (options.num_own_windows,), generator=generator).tolist()
    drawn_WP = torch.stack(
        [text.calibrate_WT[row, start : start + PROMPT_TOKENS] for row, start in zip(rows, starts, strict=True)]
    )
    bos_P = torch.tensor(text.bos, dtype=torch.long)
    return torch.cat([bos_P.expand(len(drawn_WP), -1), drawn_WP], dim=1)


def _sample(
    model: PreTrainedModel, prompts_WP: Tensor, window_tokens: int, seed: int, tell: Callable[[float], None]
) -> Tensor:
    """Draw what follows the prompts; ``tell`` hears which share is there."""
    num_new = window_tokens - prompts_WP.shape[1]

    def hear(tokens_WT: Tensor, _scores: Any) -> Tensor:
        tell(min(1.0, tokens_WT.shape[1] / window_tokens))
        return torch.zeros(len(tokens_WT), dtype=torch.bool)

    writer: Any = model  # transformers' wrappers hide the method's types
    with torch.random.fork_rng(devices=[]), torch.inference_mode(), quiet_transformers():
        torch.manual_seed(seed)
        windows_WT: Tensor = writer.generate(
            prompts_WP,
            attention_mask=torch.ones_like(prompts_WP),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            # As many for every window: what ends a text is not drawn before.
            min_new_tokens=num_new,
            max_new_tokens=num_new,
            stopping_criteria=[hear],
        )
    return windows_WT


def _mix(seed: int, first: int) -> int:
    """Make a seed of its own for each batch."""
    return int.from_bytes(hashlib.sha256(f"own text {seed} {first}".encode()).digest()[:7])
