"""Every step that a recipe can name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ensemble.compression.steps.distill import Distill
from ensemble.compression.steps.llm_compressor import LlmCompressor
from ensemble.compression.steps.prune_heads import PruneHeads
from ensemble.compression.steps.prune_hidden import PruneHidden
from ensemble.compression.steps.prune_layers import PruneLayers
from ensemble.compression.steps.prune_weights import PruneWeights
from ensemble.compression.steps.prune_width import PruneWidth
from ensemble.compression.steps.quantize_fp8 import QuantizeFp8
from ensemble.compression.steps.quantize_int4 import QuantizeInt4
from ensemble.compression.steps.quantize_int8 import QuantizeInt8
from ensemble.compression.steps.quantize_w8a8 import QuantizeW8A8
from ensemble.compression.steps.refit import Refit

AnyStep = Annotated[
    PruneLayers
    | PruneWeights
    | PruneWidth
    | PruneHeads
    | PruneHidden
    | Refit
    | Distill
    | QuantizeInt8
    | QuantizeInt4
    | QuantizeW8A8
    | QuantizeFp8
    | LlmCompressor,
    Field(discriminator="type"),
]
