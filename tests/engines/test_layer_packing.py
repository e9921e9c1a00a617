"""Which layers are laid out anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ensemble.engines.layer_packing import pack_layers
from ensemble.engines.packed_int4 import PackedInt4Linear
from ensemble.engines.packed_int8 import PackedInt8Linear
from ensemble.engines.packed_linear import PackedLinear, can_pack
from tests.engines.rounded_layers import build_int4, build_int8

pytestmark = pytest.mark.skipif(not can_pack(), reason="this CPU gains nothing by packing")


def _kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules() if not isinstance(module, nn.ModuleDict | nn.Sequential)]


def test_every_plain_linear_layer_is_packed_and_no_other() -> None:
    class OwnLinear(nn.Linear):
        pass

    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.Linear(4, 4), OwnLinear(4, 4))})

    pack_layers(model, torch.float32)

    assert _kinds(model) == [PackedLinear, PackedLinear, OwnLinear]


def test_quantised_layers_are_packed_where_their_kernels_take_their_shape() -> None:
    odd = [build_int4(80, 32, group_size=32), build_int8(64, 40)]
    model = nn.Sequential(build_int4(64, 32, group_size=32), build_int8(64, 32), *odd)

    pack_layers(model, torch.float32)

    assert _kinds(model) == [PackedInt4Linear, PackedInt8Linear, type(odd[0]), type(odd[1])]
