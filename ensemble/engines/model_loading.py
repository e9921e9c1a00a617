"""From a checkpoint to a model that the batch loop can run, checked before it serves."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.batch_loop import LoadedModel
from ensemble.engines.forward_passes import ForwardPasses
from ensemble.engines.limits import Limits
from ensemble.engines.model_preparation import Precision, prepare_model
from ensemble.engines.scoring_rule import ScoringRule
from ensemble.engines.token_encoder import TokenEncoder
from ensemble.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ensemble.engines.config import EmbeddedEngineConfig
    from ensemble.engines.prompt_format import PromptFormat

_log = logging.getLogger(__name__)


def load_model(
    config: EmbeddedEngineConfig,
    *,
    checkpoint: str,
    member: str,
    prompt_format: PromptFormat,
    cache_dir: Path,
    on_phase: OnPhase = ignore_phase,
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
    precision = Precision.choose(config.dtype, device)
    loaded = load_checkpoint(checkpoint, dtype=precision.dtype, device=device, cache_dir=cache_dir, on_phase=on_phase)
    if loaded.is_classifier:
        raise CheckpointError(checkpoint, "it is a text classifier", "set engine.type to classifier")
    text_config = loaded.model.config.get_text_config()
    limits = Limits.from_config(
        config,
        model_context=getattr(text_config, "max_position_embeddings", None),
        logits_per_output=text_config.vocab_size,
    )
    rows = cast("nn.Embedding", loaded.model.get_input_embeddings()).weight.shape[0]
    encoder = TokenEncoder(loaded.tokenizer, prompt_format, add_bos=config.add_bos, vocab_size=rows, member=member)
    on_phase("warm up", 0.0)
    bytes_per_token = prepare_model(loaded.model, checkpoint, precision)
    limits = limits.with_cache(config.kv_cache_gib, bytes_per_token=bytes_per_token)
    cache_gib = limits.cache_tokens * bytes_per_token / 2**30
    what = (member, checkpoint, device, config.dtype, cache_gib, limits.cache_tokens)
    _log.info("member %s: loaded %s on %s as %s; its cache takes %.3f GiB, %d tokens", *what)
    return LoadedModel(
        member=member,
        passes=ForwardPasses(loaded.model),
        encoder=encoder,
        rule=ScoringRule(prompt_format, encoder, member=member),
        eos_tokens=find_eos_tokens(loaded.model, loaded.tokenizer),
        limits=replace(limits, prefix_caching=config.prefix_caching),
    )


def choose_device(wanted: str) -> str:
    """Give the device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise ConfigError(
            "engine.device", "cuda is asked for and torch sees no GPU", "give its process one, or take auto or cpu"
        )
    if wanted == "auto":
        return "cuda" if has_cuda else "cpu"
    return wanted


def find_eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Give the tokens that end a completion, as the checkpoint or its tokenizer says."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos_tokens = set(configured) if isinstance(configured, list) else {configured}
    return frozenset(eos_tokens | {tokenizer.eos_token_id}) - {None}
