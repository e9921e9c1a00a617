"""Four-bit rounding as a step: the two methods, group sizes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.compression.steps.quantize_int4 import QuantizeInt4
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama
from tests.compression.step_contexts import build_context
from tests.engines.tiny_classifiers import bert_config, llama_config, save_classifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

CONTEXT = build_context()


def take(model: PreTrainedModel, **options: Any) -> dict[str, Any]:
    step = QuantizeInt4.model_validate(options)
    step.check(model)
    vocab_size = model.config.vocab_size
    return step.take(model, replace(CONTEXT, calibrate_WT=CONTEXT.calibrate_WT % vocab_size)).findings


@torch.no_grad()
def lost(model: PreTrainedModel, original: PreTrainedModel) -> float:
    before, after = (one(CONTEXT.calibrate_WT).logits for one in (original, model))
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_gptq_is_closer_to_the_original_on_the_calibration_text_than_rounding_to_the_nearest(
    build: Callable[[], PreTrainedModel],
) -> None:
    nearest, gptq, original = build(), build(), build()

    take(nearest)
    findings = take(gptq, method="gptq")

    assert findings["num_layers"] == 4 * 7
    assert lost(gptq, original) < 0.8 * lost(nearest, original)


def test_gptq_gives_the_same_bits_again() -> None:
    first, second = build_llama(), build_llama()

    assert take(first, method="gptq") == take(second, method="gptq")

    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(("group_size", "sizes"), [("auto", {32, 64}), (32, {32}), (64, {64})])
def test_a_layer_that_the_group_size_does_not_divide_stays_float(group_size: str | int, sizes: set[int]) -> None:
    model = build_llama()

    take(model, group_size=group_size)

    layers = [layer for layer in model.modules() if isinstance(layer, Int4Linear)]
    assert {layer.group_size for layer in layers} == sizes
    # Of seven, down_proj alone has 64 input features; the head stays.
    assert len(layers) == (4 if group_size == 64 else 28)
    assert sum(isinstance(layer, nn.Linear) for layer in model.modules()) == (25 if group_size == 64 else 1)


def test_groups_larger_than_every_layer_are_refused() -> None:
    with pytest.raises(ConfigError, match="no linear layer has a number of input features that 128 divides"):
        take(build_llama(), group_size=128)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_decoder_s_classifier_is_rounded_by_both_methods(tmp_path: Path, method: str) -> None:
    model = load_classifier(tmp_path, llama_config())

    findings = take(model, method=method)

    assert findings["num_layers"] == sum(isinstance(layer, Int4Linear) for layer in model.modules()) > 0


def test_gptq_of_an_encoder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    step = QuantizeInt4(method="gptq")

    with pytest.raises(ConfigError, match="no plain stack of decoder layers"):
        step.check(load_classifier(tmp_path, bert_config()))


def load_classifier(folder: Path, config: Any) -> PreTrainedModel:
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - for two tests

    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(save_classifier(folder / "c", config))
    return model
