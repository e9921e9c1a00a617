"""Which layers of a model are laid out anew for a CPU's matrix products, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.int8_linear import Int8Linear
from ensemble.checkpoints.w8a8_linear import W8A8Linear
from ensemble.engines.packed_int4 import PackedInt4Linear, can_pack_int4
from ensemble.engines.packed_int8 import PackedInt8Linear, can_pack_int8
from ensemble.engines.packed_linear import PackedLinear
from ensemble.engines.packed_w8a8 import PackedW8A8Linear, can_pack_w8a8

if TYPE_CHECKING:
    import torch


def pack_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Put packed layers in the place of plain and quantised linear ones; these are let go one by one.

    A layer whose shape a kernel does not take stays as it is. ``dtype`` is that of the floats' products, and of the
    others' with many rows.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            packed: nn.Module | None = None
            if type(child) is nn.Linear:
                packed = PackedLinear(child, dtype)
            elif isinstance(child, Int4Linear) and can_pack_int4(child):
                packed = PackedInt4Linear(child, dtype)
            elif isinstance(child, Int8Linear) and can_pack_int8(child):
                packed = PackedInt8Linear(child, dtype)
            elif isinstance(child, W8A8Linear) and can_pack_w8a8(child):
                packed = PackedW8A8Linear(child)
            if packed is not None:
                setattr(parent, name, packed)
