"""Everything in a decoder that is as wide as its residual stream, and leaving channels of the stream out.

Axes: D channels of the stream, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ensemble.compression.cut_linear import keep_inputs, keep_outputs
from ensemble.compression.decoder_parts import HEAD_NORMS, DecoderParts, find_decoder_parts, read_gain, read_head_dim
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class NormedRead:
    """A norm, and the linear layers that read what it gives; none where its output goes to the stream."""

    norm: nn.Module
    readers: tuple[nn.Linear, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParts:
    """The modules that write to a decoder's residual stream or read it."""

    embedding: nn.Embedding
    writers: tuple[nn.Linear, ...]
    reads: tuple[NormedRead, ...]
    """In the model's order; the last one is the head's."""

    @property
    def head(self) -> nn.Linear:
        """Give the last reader."""
        return self.reads[-1].readers[0]


def find_stream_parts(model: PreTrainedModel, step: str) -> StreamParts:
    """Give what a cut of the residual stream has to cut.

    Raises:
        ConfigError: the model is not built as Llama or Gemma are, or has weights elsewhere.
    """
    layers = find_decoder_parts(model, step)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise ConfigError(step, f"a {type(model).__name__} predicts no tokens", "leave this step out")
    parts = StreamParts(
        embedding=model.model.embed_tokens,
        writers=tuple(layer.linear(name) for layer in layers for name in ("o_proj", "down_proj")),
        reads=(
            *(read for layer in layers for read in _list_reads(layer)),
            NormedRead(norm=model.model.norm, readers=(head,)),
        ),
    )
    unknown = _find_unknown(model, parts)
    if unknown:
        raise ConfigError(step, f"a {type(model).__name__} has other weights ({unknown})", "leave this step out")
    return parts


def _list_reads(layer: DecoderParts) -> list[NormedRead]:
    reads = [
        NormedRead(norm=layer.before_attention, readers=tuple(map(layer.linear, ("q_proj", "k_proj", "v_proj")))),
        NormedRead(norm=layer.before_mlp, readers=tuple(map(layer.linear, ("gate_proj", "up_proj")))),
    ]
    return reads + [NormedRead(norm=norm) for norm in (layer.after_attention, layer.after_mlp) if norm is not None]


def _find_unknown(model: PreTrainedModel, parts: StreamParts) -> str:
    """Name a weight that no cut of the stream would reach and that is not one of a single head; empty without any."""
    modules = [parts.embedding, *parts.writers]
    for read in parts.reads:
        modules += [read.norm, *read.readers]
    known = {id(parameter) for module in modules for parameter in module.parameters()}
    head_dim = read_head_dim(model)
    for name, parameter in model.named_parameters():
        if id(parameter) not in known and not (name.endswith(HEAD_NORMS) and parameter.shape == (head_dim,)):
            return name
    return ""


def keep_stream_channels(model: PreTrainedModel, parts: StreamParts, kept_D: Tensor) -> None:
    """Leave out every other channel, in place; the config follows."""
    embedding: Any = parts.embedding
    is_tied = parts.head.weight is embedding.weight
    embedding.weight = nn.Parameter(embedding.weight.detach()[:, kept_D], requires_grad=False)
    embedding.embedding_dim = len(kept_D)
    for writer in parts.writers:
        keep_outputs(writer, kept_D)
    for read in parts.reads:
        norm: Any = read.norm
        norm.weight = nn.Parameter(norm.weight.detach()[kept_D], requires_grad=False)
        for reader in read.readers:
            keep_inputs(reader, kept_D)
    if is_tied:
        parts.head.weight = embedding.weight
    # Where it was left to be the hidden width over the heads, it would be read wrongly now.
    model.config.head_dim = read_head_dim(model)
    model.config.hidden_size = len(kept_D)
    if hasattr(embedding, "embed_scale"):
        # Gemma multiplies embeddings with the root of the width.
        embedding.embed_scale.fill_(len(kept_D) ** 0.5)


@torch.no_grad()
def scale_gain(norm: nn.Module, scale_D: Tensor) -> None:
    """Multiply what a norm multiplies each normalised channel with."""
    weight_D: Any = norm.weight
    gain_D = read_gain(norm, len(weight_D))
    # Gemma keeps the gain less 1.
    offset = (gain_D - weight_D).mean().round()
    weight_D.copy_((weight_D + offset) * scale_D - offset)
