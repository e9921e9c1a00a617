"""From a group of checkpoints to a model that the batch loop can run, checked before it serves."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from ensemble.checkpoints.folder import check_folder
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.batch import Batch
from ensemble.engines.batch_loop import LoadedModel
from ensemble.engines.fused_draws import MixSampleBatch
from ensemble.engines.fused_mixture import Mixture
from ensemble.engines.fused_passes import FusedPasses
from ensemble.engines.fused_speculation import SpeculativeBatch
from ensemble.engines.fused_tokens import check_head, check_same_tokens
from ensemble.engines.limits import Limits
from ensemble.engines.model_loading import choose_device, find_eos_tokens
from ensemble.engines.model_preparation import Precision, prepare_model
from ensemble.engines.scoring_rule import ScoringRule
from ensemble.engines.token_encoder import TokenEncoder
from ensemble.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from ensemble.checkpoints import LoadedCheckpoint
    from ensemble.engines.config import FusedEngineConfig
    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.paged_cache import PagedCache
    from ensemble.engines.prompt_format import PromptFormat

_log = logging.getLogger(__name__)

# What is in memory for each output, in rows of float32 logits: the mixture so far and the log-probabilities that were
# added to it last, while the next checkpoint's are made of its logits.
_ROWS_MIXING = 4
# Speculation keeps a proposal's log-probabilities, stacks them to mix them, and keeps its probabilities in float64.
_ROWS_KEPT = 4


def load_fused(
    config: FusedEngineConfig,
    *,
    checkpoint: str,
    member: str,
    prompt_format: PromptFormat,
    cache_dir: Path,
    on_phase: OnPhase = ignore_phase,
) -> LoadedModel:
    """Load the checkpoints, one that is named twice once; check that they fit each other, and warm up.

    Raises:
        CheckpointError: one is missing, cut short, unsupported, or has other tokens than the first.
        ConfigError: the machine or the group lacks what the config asks for.
    """
    # Checkpoints pull in converters and hubs: only when one is loaded.
    from ensemble.checkpoints import load_checkpoint  # noqa: PLC0415

    references = (checkpoint, *config.others)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    precision = Precision.choose(config.dtype, device)
    # Before the weights, which take long to load and serve nobody where these differ.
    tokenizers = _load_tokenizers(references, cache_dir=cache_dir, on_phase=on_phase)
    load = partial(load_checkpoint, dtype=precision.dtype, device=device, cache_dir=cache_dir, on_phase=on_phase)
    loaded = {reference: load(reference, tokenizer=tokenizer) for reference, tokenizer in tokenizers.items()}
    vocab_size = _check_heads(loaded)
    on_phase("warm up", 0.0)
    bytes_by_reference = {
        reference: prepare_model(one.model, reference, precision) for reference, one in loaded.items()
    }
    limits = _find_limits(config, loaded, _count_logits(config.method, len(references)) * vocab_size).with_cache(
        config.kv_cache_gib, bytes_per_token=sum(bytes_by_reference[reference] for reference in references)
    )
    _log.info("member %s: loaded %s on %s as %s", member, ", ".join(loaded), device, config.dtype)
    return _assemble(
        config,
        [(reference, loaded[reference]) for reference in references],
        member=member,
        prompt_format=prompt_format,
        limits=limits,
        vocab_size=vocab_size,
    )


def _load_tokenizers(
    references: Sequence[str], *, cache_dir: Path, on_phase: OnPhase
) -> dict[str, PreTrainedTokenizerFast]:
    """Load each checkpoint's tokenizer, and compare their tokens."""
    from ensemble.checkpoints import resolve_checkpoint  # noqa: PLC0415 - as above
    from ensemble.checkpoints.load import names_classifier  # noqa: PLC0415
    from ensemble.checkpoints.tokenizer import load_tokenizer  # noqa: PLC0415

    tokenizers = {}
    for reference in dict.fromkeys(references):
        folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
        if names_classifier(check_folder(folder)):
            raise CheckpointError(reference, "it is a text classifier", "fuse models that continue texts")
        tokenizers[reference] = load_tokenizer(folder)
    (first_name, first), *others = tokenizers.items()
    for name, other in others:
        check_same_tokens(first, other, names=(first_name, name))
    return tokenizers


def _check_heads(loaded: dict[str, LoadedCheckpoint]) -> int:
    """Give the number of tokens that every head has."""
    first = next(iter(loaded.values()))
    rows_by_name = {name: _count_head_rows(one) for name, one in loaded.items()}
    fewest = min(rows_by_name.values())
    if len(set(rows_by_name.values())) > 1:
        # All tokens having a row in every head, rows beyond are padding.
        for name, num_rows in rows_by_name.items():
            check_head(first.tokenizer, num_rows, name=name)
        _log.info("heads differ in padding (%s rows): %d tokens are mixed", rows_by_name, fewest)
    return fewest


def _count_head_rows(loaded: LoadedCheckpoint) -> int:
    head: nn.Linear = loaded.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head.weight.shape[0]


def _count_logits(method: str, num_parts: int) -> int:
    """Count the rows of logits that one output takes."""
    match method:
        case "speculative":
            return _ROWS_MIXING + _ROWS_KEPT
        case "mix_sample":
            # Each checkpoint's own are kept; the mixture and one checkpoint's logits come to them.
            return num_parts + 2
        case _:
            return _ROWS_MIXING


def _find_limits(config: FusedEngineConfig, loaded: dict[str, LoadedCheckpoint], logits_per_output: int) -> Limits:
    text_configs = [one.model.config.get_text_config() for one in loaded.values()]
    contexts = [getattr(text_config, "max_position_embeddings", None) for text_config in text_configs]
    limits = Limits.from_config(
        config,
        model_context=min((context for context in contexts if context), default=None),
        logits_per_output=logits_per_output,
    )
    return replace(limits, prefix_caching=config.prefix_caching)


def _assemble(
    config: FusedEngineConfig,
    group: Sequence[tuple[str, LoadedCheckpoint]],
    *,
    member: str,
    prompt_format: PromptFormat,
    limits: Limits,
    vocab_size: int,
) -> LoadedModel:
    models = [(name, one.model) for name, one in group]
    encoder = TokenEncoder(
        group[0][1].tokenizer,
        prompt_format,
        add_bos=config.add_bos,
        vocab_size=min(cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0] for _, model in models),
        member=member,
    )
    passes = FusedPasses(
        models,
        _choose_mixture(config, len(group)),
        vocab_size=vocab_size,
        keeps_parts=config.method == "mix_sample",
    )
    return LoadedModel(
        member=member,
        passes=passes,
        encoder=encoder,
        rule=ScoringRule(prompt_format, encoder, member=member),
        eos_tokens=frozenset().union(*(find_eos_tokens(one.model, one.tokenizer) for _, one in group)),
        limits=limits,
        new_batch=_choose_batch(config, len(group)),
    )


def _choose_mixture(config: FusedEngineConfig, count: int) -> Mixture:
    if config.weights_from is not None:
        raise ConfigError("engine.weights_from", "it is followed where a spec is read", "give weights")
    return Mixture.from_weights(config.weights or (1.0,) * count, config.pooling)


def _choose_batch(config: FusedEngineConfig, count: int) -> Callable[[ForwardPasses, PagedCache, Limits], Batch]:
    if config.method == "speculative":
        return partial(SpeculativeBatch, drafter=config.drafter % count, max_draft=config.max_draft)
    return MixSampleBatch if config.method == "mix_sample" else Batch
