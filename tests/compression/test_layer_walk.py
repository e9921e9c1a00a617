"""A walk through a decoder, against whole forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import nn

from ensemble.checkpoints.progress import ignore_phase
from ensemble.compression.layer_walk import walk_layers
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama
from tests.compression.step_contexts import build_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

WINDOWS_WT = build_windows()


def names_in(model: PreTrainedModel) -> list[str]:
    return [name for name, layer in model.model.named_modules(prefix="model") if isinstance(layer, nn.Linear)]


def gram_plainly(model: PreTrainedModel, name: str) -> Tensor:
    rows: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: rows.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for tokens_T in WINDOWS_WT:
            model(tokens_T[None])
    hook.remove()
    rows_RI = torch.cat(rows)
    return rows_RI.T @ rows_RI


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_a_layer_gets_what_the_changed_layers_before_it_give(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    measured: dict[str, Tensor] = {}

    for layer in walk_layers(model, WINDOWS_WT, step="test", on_phase=ignore_phase):
        for one in layer.measure_inputs(names_in(model)):
            measured |= dict.fromkeys(one.names, one.gram_II)
        for linear in layer.pick(names_in(model)).values():
            linear.weight.data.mul_(0.5)

    assert sorted(measured) == sorted(names_in(model))
    for name, gram_II in measured.items():
        # Inside a layer the inputs are those from before it was changed itself.
        index = int(name.split(".")[2])
        for linear in (m for m in model.model.layers[index].modules() if isinstance(m, nn.Linear)):
            linear.weight.data.mul_(2.0)
        assert torch.allclose(gram_II, gram_plainly(model, name), rtol=1e-4, atol=1e-3), name
        for linear in (m for m in model.model.layers[index].modules() if isinstance(m, nn.Linear)):
            linear.weight.data.mul_(0.5)


def test_layers_with_one_input_share_its_measure() -> None:
    model = build_llama()

    first = next(iter(walk_layers(model, WINDOWS_WT, step="test", on_phase=ignore_phase)))

    measured = first.measure_inputs(names_in(model))
    assert sorted(sorted(name.split(".")[-1] for name in one.names) for one in measured) == [
        ["down_proj"],
        ["gate_proj", "up_proj"],
        ["k_proj", "q_proj", "v_proj"],
        ["o_proj"],
    ]


def test_inputs_that_are_not_finite_are_refused_by_the_layer_s_name() -> None:
    model = build_llama()
    cast("Any", model.model.layers[1].post_attention_layernorm).weight.data[0] = float("inf")

    walk = walk_layers(model, WINDOWS_WT, step="test", on_phase=ignore_phase)
    next(walk).measure_inputs(names_in(model))
    second = next(walk)

    with pytest.raises(ConfigError, match=r"model\.layers\.1\.mlp\.\w+: its inputs on the calibration text are not"):
        second.measure_inputs(names_in(model))
