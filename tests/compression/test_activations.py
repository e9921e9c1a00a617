"""Watching what goes into layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.checkpoints.progress import ignore_phase
from ensemble.compression.activations import watch_inputs
from tests.checkpoints.tiny_models import HIDDEN, build_llama
from tests.compression.step_contexts import build_windows

if TYPE_CHECKING:
    from torch import Tensor


def test_each_layer_s_inputs_are_handed_on_window_by_window() -> None:
    model: Any = build_llama(num_layers=1)
    layers = [model.model.layers[0].self_attn.q_proj, model.model.layers[0].self_attn.k_proj]
    seen: list[tuple[int, Tensor]] = []

    watch_inputs(model, layers, build_windows(2, 8), lambda *one: seen.append(one), on_phase=ignore_phase)

    assert [index for index, _ in seen] == [0, 1, 0, 1]
    assert {tuple(input_TI.shape) for _, input_TI in seen} == {(8, HIDDEN)}
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][1], seen[2][1])


def test_nothing_watches_any_more_once_the_reading_ends_in_whatever_way() -> None:
    model: Any = build_llama(num_layers=1)
    layer = model.model.layers[0].self_attn.q_proj

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_inputs(model, [layer], build_windows(2, 8), refuse, on_phase=ignore_phase)

    assert not layer._forward_pre_hooks
