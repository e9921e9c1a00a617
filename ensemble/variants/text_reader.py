"""A checkpoint that reads texts by the embedded engine's own passes, quantised layers and all.

Axes: T tokens, V vocabulary.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, cast

import torch

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.tokenizer import find_bos
from ensemble.engines.block_pool import BLOCK_TOKENS
from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.model_loading import choose_device
from ensemble.engines.model_preparation import Precision, prepare_model
from ensemble.errors import CheckpointError
from ensemble.variants.engine_setup import EngineSetup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from ensemble.checkpoints import LoadedCheckpoint

KEPT_BYTES = 2 * 2**30
"""Of an original's distributions so much is kept for its next variant; what does not fit is worked out again."""

PIECE_TOKENS = 8
"""As many rows as a small batch decodes."""


class TextReader:
    """Gives the next token's distribution after each token of a text."""

    def __init__(self, loaded: LoadedCheckpoint, reference: str, *, add_bos: bool = False, keep_bytes: int = 0) -> None:
        """Take a model that ``prepare_model`` has prepared; ``keep_bytes`` bounds what is kept of what it gave."""
        self.reference = reference
        self.tokenizer = loaded.tokenizer
        self.num_tokens = cast("nn.Embedding", loaded.model.get_input_embeddings()).weight.shape[0]
        text_config = loaded.model.config.get_text_config()
        self.max_context: int = getattr(text_config, "max_position_embeddings", None) or 2**20
        self.bos: tuple[int, ...] = (self.tokenizer.bos_token_id,) if add_bos else find_bos(self.tokenizer)
        """What texts begin with."""
        self._passes = ForwardPasses(loaded.model)
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}
        self._num_free_bytes = keep_bytes

    @classmethod
    def load(
        cls,
        reference: str,
        setup: EngineSetup,
        *,
        keep_bytes: int = 0,
        on_phase: OnPhase = ignore_phase,
    ) -> Self:
        """Load a checkpoint as the embedded engine does, whichever engine the setup names; see ``reading_threads``.

        Raises:
            CheckpointError: it is missing, damaged, a classifier, or of a kind that the embedded engine cannot run.
            ConfigError: the machine lacks the device.
        """
        device = choose_device(setup.device)
        precision = Precision.choose(setup.dtype, device)
        loaded = load_checkpoint(
            reference, dtype=precision.dtype, device=device, cache_dir=setup.cache_dir, on_phase=on_phase
        )
        if loaded.is_classifier:
            raise CheckpointError(reference, "a classifier continues no text", "give a causal model")
        prepare_model(loaded.model, reference, precision)
        return cls(loaded, reference, add_bos=bool(setup.add_bos), keep_bytes=keep_bytes)

    @torch.inference_mode()
    def read(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """Give logprobs_TV: after each token, the natural logarithms of the next one's probabilities, in float32.

        Raises:
            CheckpointError: they are not numbers.
        """
        if tokens in self._kept:
            return self._kept[tokens]
        logprobs_TV = self._passes.read([Segment.of_text(tokens)]).log_softmax(dim=-1)
        if not bool(logprobs_TV.isfinite().all()):
            raise CheckpointError(self.reference, self._passes.fault, "give a sound checkpoint")
        num_bytes = logprobs_TV.numel() * logprobs_TV.element_size()
        if num_bytes <= self._num_free_bytes:
            self._num_free_bytes -= num_bytes
            self._kept[tokens] = logprobs_TV
        return logprobs_TV

    @torch.inference_mode()
    def read_in_pieces(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """Give logprobs_TV as ``read`` does, reading a few tokens at a time after what the cache has of the others.

        So many rows go through a layer when the engine decodes; quantised layers may multiply them by another kernel.
        """
        cache = self._passes.new_cache(num_tokens=len(tokens) + BLOCK_TOKENS, reuses_prefixes=False)
        row = cache.open_row((), capacity=len(tokens))
        pieces = [
            self._passes.read([Segment.of_text(tokens[start : start + PIECE_TOKENS], start)], cache, [row])
            for start in range(0, len(tokens), PIECE_TOKENS)
        ]
        return torch.cat(pieces).log_softmax(dim=-1)


@contextmanager
def reading_threads(setup: EngineSetup) -> Iterator[None]:
    """Let torch have the setup's threads here, and as many as before afterwards: a compression's bytes hang on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(setup.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
