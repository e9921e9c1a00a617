"""What holds for every step: what its check lets pass it can do, and the rest it refuses with a reason."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama
from tests.compression.every_step import CLASSES, FLOAT_NAMES, LAST_NAMES, NAMES, WAYS, build_step
from tests.compression.step_contexts import build_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SIZES: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}


def _build(model_class: Any, config_class: Any, **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(7)
    model: PreTrainedModel = model_class(config_class(**sizes))
    model.train(mode=False)
    return model


def build_gpt2() -> PreTrainedModel:
    """Its layers lie elsewhere, and its linear layers are of another class."""
    return _build(
        GPT2LMHeadModel, GPT2Config, vocab_size=500, n_embd=32, n_layer=4, n_head=2, bos_token_id=1, eos_token_id=2
    )


def build_qwen2() -> PreTrainedModel:
    """Its queries, keys and values have biases."""
    return _build(Qwen2ForCausalLM, Qwen2Config, **_GROUPED)


def build_mixtral() -> PreTrainedModel:
    """Its MLPs are several experts."""
    return _build(MixtralForCausalLM, MixtralConfig, **_GROUPED, num_local_experts=2)


def build_bert() -> PreTrainedModel:
    """It is no decoder, and labels texts."""
    return _build(BertForSequenceClassification, BertConfig, **_SIZES, num_labels=3)


BUILDERS = (build_llama, build_gemma3, build_qwen2, build_gpt2, build_mixtral, build_bert)


def build_empty(model: PreTrainedModel) -> PreTrainedModel:
    with torch.device("meta"):
        return type(model)(deepcopy(model.config))


def weaken(model: PreTrainedModel) -> PreTrainedModel:
    """Take something from every weight, as earlier steps do, so that there is something to repair."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    return model


def shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def is_finite(model: PreTrainedModel) -> bool:
    with torch.inference_mode():
        return bool(model(torch.arange(4, 36)[None]).logits.isfinite().all())


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
@pytest.mark.parametrize(("name", "options"), WAYS, ids=lambda part: part if isinstance(part, str) else "-".join(part))
def test_what_the_check_lets_pass_the_step_does_with_the_sizes_that_it_told(
    name: str, options: dict[str, Any], build: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = weaken(build())
    model.train(mode=False)
    step, empty = build_step(name, **options), build_empty(model)
    try:
        step.check(empty)
    except ConfigError:
        assert build is not build_llama
        return
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    result = step.take(model, build_context(load_original=build, scratch=tmp_path))

    assert is_finite(model)
    if name in FLOAT_NAMES:
        assert shapes(model) == shapes(empty)
        assert shapes(type(model)(model.config)) == shapes(model)
        assert result.quantization is None
    changed = shapes(model) != {key: tuple(tensor.shape) for key, tensor in weights.items()} or any(
        not torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items()
    )
    assert changed, "the step left everything as it was"


@pytest.mark.parametrize(
    ("name", "build", "problem"),
    [
        ("prune_layers", build_gpt2, "a GPT2LMHeadModel has no plain stack of decoder layers"),
        ("prune_layers", build_bert, "a BertForSequenceClassification has no plain stack of decoder layers"),
        ("quantize_int8", build_gpt2, "a GPT2LMHeadModel has no linear layers but its head"),
    ],
)
def test_a_model_of_a_kind_that_a_step_cannot_take_is_refused(
    name: str, build: Callable[[], PreTrainedModel], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        build_step(name).check(build_empty(build()))


@pytest.mark.parametrize("name", LAST_NAMES)
def test_a_quantising_step_tells_how_its_weights_lie_on_disk(name: str, tmp_path: Path) -> None:
    result = build_step(name).take(build_llama(), build_context(scratch=tmp_path))

    assert result.quantization is not None
    assert result.quantization["quant_method"] == "compressed-tensors"


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_no_step_has_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        build_step(name, no_such_option=1)


RATIOS = [
    (str(step.model_fields["type"].default), field)
    for step in CLASSES
    for field in step.model_fields
    if field in {"ratio", "sparsity"}
]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5])
@pytest.mark.parametrize(("name", "field"), RATIOS)
def test_a_ratio_of_nothing_or_of_everything_is_refused(name: str, field: str, value: float) -> None:
    with pytest.raises((ValidationError, ConfigError)):
        build_step(name, **{field: value}).check(build_empty(build_llama()))


@pytest.mark.parametrize("step", CLASSES, ids=NAMES)
def test_a_step_says_in_the_schema_what_it_and_each_of_its_options_do(step: Any) -> None:
    schema = step.model_json_schema()

    assert schema["description"]
    undescribed = [name for name, field in schema["properties"].items() if "description" not in field]
    assert [name for name in undescribed if name != "type" and "enum" not in schema["properties"][name]] == []
