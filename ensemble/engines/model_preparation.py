"""Makes a loaded model fast on its device, and checks that our passes compute what its own do.

Axes: R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from ensemble.checkpoints.w8a8_linear import W8A8Linear
from ensemble.engines.block_pool import BLOCK_TOKENS
from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.grouped_attention import use_grouped_attention
from ensemble.engines.layer_packing import pack_layers
from ensemble.engines.packed_int4 import PackedInt4Linear
from ensemble.engines.packed_int8 import PackedInt8Linear
from ensemble.engines.packed_linear import can_pack, has_bfloat16_products
from ensemble.engines.packed_w8a8 import PackedW8A8Linear
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NUM_CHECK_TOKENS = 6
# Largest difference of logits, as a share of the largest logit, that rounding explains.
_ROUNDING_FLOAT32 = 0.02
_ROUNDING_16_BIT = 0.1
_ROUNDING_INPUTS = 0.25
"""Of layers that round their inputs to 8 bits: a last digit makes another code of some, and layers add to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """``dtype`` is what a checkpoint is loaded as; ``products`` what its matrix products are packed for, if at all."""

    dtype: str
    products: torch.dtype | None = None

    @classmethod
    def choose(cls, wanted: str, device: str) -> Self:
        """Give what ``auto`` or a dtype means on a device.

        A CPU that multiplies bfloat16 natively does so for the products alone: that is where the time goes, and
        everything else, done in bfloat16, is slower and less exact.
        """
        if device != "cpu":
            return cls(dtype="bfloat16" if wanted == "auto" else wanted)
        if wanted == "auto":
            wanted = "bfloat16" if has_bfloat16_products() else "float32"
        if not can_pack() or wanted == "float16" or (wanted == "bfloat16" and not has_bfloat16_products()):
            return cls(dtype=wanted)
        return cls(dtype="float32", products=torch.bfloat16 if wanted == "bfloat16" else torch.float32)


@torch.inference_mode()
def prepare_model(model: PreTrainedModel, checkpoint: str, precision: Precision) -> int:
    """Make a model fast, and compare batched passes with its own plain one as it was before.

    Returns:
        The bytes that a token takes in its cache.

    Raises:
        CheckpointError: the passes do not fit the model, or its logits are not numbers.
    """
    if model.config.is_encoder_decoder:
        raise CheckpointError(checkpoint, "it is an encoder-decoder", "take a decoder-only model")
    vocab_size = model.config.get_text_config().vocab_size
    tokens = [(7 * i + 3) % vocab_size for i in range(_NUM_CHECK_TOKENS + 1)]
    reference_V = model(torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].float()
    if not bool(reference_V.isfinite().all()):
        raise CheckpointError(checkpoint, "it gives logits that are not numbers", "take an undamaged one")
    use_grouped_attention(model)
    if precision.products is not None:
        pack_layers(model, precision.products)
    try:
        logits_V, bytes_per_token = _run_passes(ForwardPasses(model), tokens)
    except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            checkpoint, f"{type(model).__name__} cannot be batched ({error})", "take one with plain attention"
        ) from error
    difference = (logits_V - reference_V).abs().max()
    if not bool(difference <= _bound_rounding(model, precision) * reference_V.abs().max()):
        raise CheckpointError(
            checkpoint, f"{type(model).__name__} computes something else when batched", "take one with plain attention"
        )
    return bytes_per_token


def _bound_rounding(model: PreTrainedModel, precision: Precision) -> float:
    if any(isinstance(layer, (W8A8Linear, PackedW8A8Linear)) for layer in model.modules()):
        return _ROUNDING_INPUTS
    # Layers of few bits round what goes in and comes out to bfloat16, whatever the rest is multiplied as.
    has_few_bits = any(isinstance(layer, (PackedInt4Linear, PackedInt8Linear)) for layer in model.modules())
    is_float32 = model.dtype == torch.float32 and precision.products in {None, torch.float32} and not has_few_bits
    return _ROUNDING_FLOAT32 if is_float32 else _ROUNDING_16_BIT


def _run_passes(passes: ForwardPasses, tokens: list[int]) -> tuple[torch.Tensor, int]:
    """Read a prompt in two pieces, the first beside another prompt, then a token more.

    Returns:
        The last logits, and the bytes that a token takes in the cache.
    """
    cache = passes.new_cache(num_tokens=2 * BLOCK_TOKENS)
    rows = [row for row in (cache.open_row((), capacity=len(tokens)) for _ in range(2)) if row is not None]
    short, long = tokens[:-2], tokens[:-1]
    passes.read([Segment.of_prompt(short), Segment.of_prompt(long[:2])], cache, rows)
    passes.read([Segment.of_prompt(long[2:], 2)], cache, rows[1:])
    logits_RV = passes.step(tokens[-2:], rows, cache)
    return logits_RV[1], cache.num_bytes // cache.num_tokens
