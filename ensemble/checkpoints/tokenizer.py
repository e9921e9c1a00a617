"""The tokenizer of a checkpoint, and the tokens that end its texts, without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ensemble.checkpoints.quiet import quiet_transformers
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer that lies in a checkpoint's folder.

    Raises:
        CheckpointError: there is none, it is damaged, or it has no fast form.
    """
    try:
        with quiet_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            str(folder), f"its tokenizer cannot be loaded ({error})", "give a whole checkpoint"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(str(folder), "its tokenizer has no fast form", "add a tokenizer.json")
    return tokenizer


def find_bos(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Give the BOS token where the tokenizer itself puts one first, as the model was trained then; else nothing."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return tuple(first) if first == [tokenizer.bos_token_id] else ()
