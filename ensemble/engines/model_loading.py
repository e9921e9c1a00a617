"""From a checkpoint to a model that the batch loop can run, checked before it serves.

Axes: R rows, V vocabulary.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ensemble.engines.batch_loop import LoadedModel
from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.limits import Limits
from ensemble.engines.scoring_rule import ScoringRule
from ensemble.engines.token_encoder import TokenEncoder
from ensemble.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ensemble.engines.config import EmbeddedEngineConfig
    from ensemble.engines.prompt_format import PromptFormat

_log = logging.getLogger(__name__)

_NUM_CHECK_TOKENS = 6
# Largest difference of logits, as a share of the largest logit, that rounding explains (an int8 model's included).
_ROUNDING_FLOAT32 = 0.02
_ROUNDING_16_BIT = 0.1


def load_model(
    config: EmbeddedEngineConfig, *, checkpoint: str, member: str, prompt_format: PromptFormat, cache_dir: Path
) -> LoadedModel:
    """Load, check and warm up a checkpoint.

    Raises:
        CheckpointError: it is missing, cut short or unsupported.
        ConfigError: the machine or the checkpoint lacks what the config asks for.
    """
    # Checkpoints pull in converters and hubs: only when one is loaded.
    from ensemble.checkpoints import load_checkpoint  # noqa: PLC0415

    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    loaded = load_checkpoint(checkpoint, dtype=config.dtype, device=device, cache_dir=cache_dir)
    if loaded.is_classifier:
        raise CheckpointError(checkpoint, "it is a text classifier", "set engine.type to classifier")
    text_config = loaded.model.config.get_text_config()
    limits = Limits.from_config(
        config,
        model_context=getattr(text_config, "max_position_embeddings", None),
        vocab_size=text_config.vocab_size,
    )
    encoder = TokenEncoder(
        loaded.tokenizer,
        prompt_format,
        add_bos=config.add_bos,
        vocab_size=cast("nn.Embedding", loaded.model.get_input_embeddings()).weight.shape[0],
        member=member,
    )
    passes = _check_passes(loaded.model, checkpoint, limits)
    _log.info("member %s: loaded %s on %s as %s", member, checkpoint, device, config.dtype)
    prior_prompt = encoder.encode_pmi_prompt() if prompt_format.scoring == "pmi" else ()
    return LoadedModel(
        member=member,
        passes=passes,
        encoder=encoder,
        rule=ScoringRule(prompt_format.scoring, prior_prompt=prior_prompt, member=member),
        eos_tokens=_eos_tokens(loaded.model, loaded.tokenizer),
        limits=limits,
    )


def choose_device(wanted: str) -> str:
    """Give the device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise ConfigError(
            "engine.device", "cuda is asked for and torch sees no GPU", "give the replica one, or take auto"
        )
    if wanted == "auto":
        return "cuda" if has_cuda else "cpu"
    return wanted


def _eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos_tokens = set(configured) if isinstance(configured, list) else {configured}
    return frozenset(eos_tokens | {tokenizer.eos_token_id}) - {None}


@torch.inference_mode()
def _check_passes(model: PreTrainedModel, checkpoint: str, limits: Limits) -> ForwardPasses:
    """Compare our batched passes with the model's own plain one, so that a model they do not fit is refused."""
    if model.config.is_encoder_decoder:
        raise CheckpointError(checkpoint, "it is an encoder-decoder", "take a decoder-only model")
    passes = ForwardPasses(model)
    cache = passes.new_cache(max_rows=2, max_tokens=limits.max_context)
    vocab_size = model.config.get_text_config().vocab_size
    tokens = [(7 * i + 3) % vocab_size for i in range(_NUM_CHECK_TOKENS + 1)]
    reference_V = model(torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].float()
    try:
        passes.read([Segment.of_prompt(tokens[:-2]), Segment.of_prompt(tokens[:-1])], cache, rows=[0, 1])
        logits_RV = passes.step(tokens[-2:], [len(tokens) - 2, len(tokens) - 1], cache)
    except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            checkpoint, f"{type(model).__name__} cannot be batched ({error})", "take one with plain attention"
        ) from error
    rounding = _ROUNDING_FLOAT32 if model.dtype == torch.float32 else _ROUNDING_16_BIT
    difference = (logits_RV[1] - reference_V).abs().max()
    if not bool(difference <= rounding * reference_V.abs().max()):
        raise CheckpointError(
            checkpoint, f"{type(model).__name__} computes something else when batched", "take one with plain attention"
        )
    row_bytes = cache.max_bytes // 2
    _log.info("the cache of %s can grow to %.2f GiB", checkpoint, row_bytes * limits.max_batch / 2**30)
    return passes
