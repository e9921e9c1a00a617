"""What makes a model fast on a CPU computes what the model itself does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.int8_linear import Int8Linear
from ensemble.compression.steps.quantize_w8a8 import QuantizeW8A8
from ensemble.engines.config import EmbeddedEngineConfig
from ensemble.engines.footprint import measure_footprint
from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.grouped_attention import use_grouped_attention
from ensemble.engines.model_preparation import Precision, prepare_model
from ensemble.engines.packed_int4 import PackedInt4Linear
from ensemble.engines.packed_int8 import PackedInt8Linear
from ensemble.engines.packed_linear import PackedLinear, can_pack, has_bfloat16_products
from tests.compression.step_contexts import build_context
from tests.engines.embedded_runs import packaged_smollm2
from tests.engines.tiny_checkpoints import save_few_bits_llama

if TYPE_CHECKING:
    from pathlib import Path

NEEDS_PACKING = pytest.mark.skipif(not can_pack(), reason="this CPU gains nothing by packing")


@NEEDS_PACKING
@pytest.mark.parametrize("num_rows", [1, 5, 16, 33, 200])
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
def test_a_packed_layer_gives_the_plain_layer_s_product(num_rows: int, has_bias: bool) -> None:  # noqa: FBT001 a parameter
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=has_bias)
    hidden = torch.randn(2, num_rows, 48)

    with torch.inference_mode():
        expected = linear(hidden)
        exact = PackedLinear(linear, torch.float32)(hidden)
        rounded = PackedLinear(linear, torch.bfloat16)(hidden)

    torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-5)
    assert rounded.dtype == torch.float32
    # Inputs, weights and the product are each off by at most 2**-8 of themselves; sums of 48 products cancel some.
    torch.testing.assert_close(rounded, expected, rtol=0.02, atol=0.02)


@NEEDS_PACKING
def test_a_packed_layer_still_shows_its_weight() -> None:
    linear = nn.Linear(48, 80)

    assert torch.equal(PackedLinear(linear, torch.float32).weight, linear.weight)


def _decode(model: Any) -> torch.Tensor:
    """Read two prompts, of 40 and 3 tokens, and feed each two more; give the last logits."""
    passes = ForwardPasses(model)
    cache = passes.new_cache(num_tokens=128)
    prompts = [[n % 200 for n in range(40)], [5, 6, 7]]
    rows = [row for prompt in prompts if (row := cache.open_row(prompt, capacity=50)) is not None]
    with torch.inference_mode():
        passes.read([Segment.of_prompt(prompt) for prompt in prompts], cache, rows)
        passes.step([8, 9], rows, cache)
        return passes.step([10, 11], rows, cache)


def test_grouped_attention_gives_what_attention_with_copied_heads_gives(checkpoint: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    expected = _decode(model)

    use_grouped_attention(model)
    grouped = _decode(model)

    assert model.config._attn_implementation == "grouped_sdpa"
    torch.testing.assert_close(grouped, expected, rtol=1e-4, atol=1e-4)


def test_a_model_with_attention_of_another_kind_keeps_it(checkpoint: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")

    use_grouped_attention(model)

    assert model.config._attn_implementation == "eager"


@NEEDS_PACKING
def test_a_prepared_model_decodes_as_the_plain_one(checkpoint: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    expected = _decode(model)

    bytes_per_token = prepare_model(model, checkpoint, Precision.choose("float32", "cpu"))

    assert any(isinstance(module, PackedLinear) for module in model.modules())
    torch.testing.assert_close(_decode(model), expected, rtol=1e-4, atol=1e-4)
    assert bytes_per_token == 2 * 2 * 2 * 8 * 4  # Layers, keys and values, heads, head size, bytes.


def test_a_precision_that_the_device_lacks_is_not_packed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.engines.model_preparation.can_pack", lambda: True)
    monkeypatch.setattr("ensemble.engines.model_preparation.has_bfloat16_products", lambda: False)

    assert Precision.choose("auto", "cpu") == Precision(dtype="float32", products=torch.float32)
    assert Precision.choose("bfloat16", "cpu") == Precision(dtype="bfloat16")
    assert Precision.choose("auto", "cuda") == Precision(dtype="bfloat16")


@pytest.mark.skipif(not has_bfloat16_products(), reason="this CPU multiplies no bfloat16")
def test_bfloat16_on_a_cpu_that_has_it_is_for_the_products_alone() -> None:
    assert Precision.choose("auto", "cpu") == Precision(dtype="float32", products=torch.bfloat16)


@NEEDS_PACKING
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_prepared_model_of_few_bits_holds_what_was_measured_and_decodes_as_before(tmp_path: Path, dtype: str) -> None:
    checkpoint = save_few_bits_llama(tmp_path / "few")
    model = load_checkpoint(checkpoint, dtype="float32", device="cpu").model
    expected = _decode(model)

    prepare_model(model, checkpoint, Precision.choose(dtype, "cpu"))

    kinds = {type(module) for module in model.modules()}
    assert {PackedInt4Linear, PackedInt8Linear} < kinds
    assert not {Int4Linear, Int8Linear} & kinds
    assert (_decode(model) - expected).norm() < 0.05 * expected.norm()
    tensors = {
        held.data_ptr(): held.nbytes
        for module in model.modules()
        for held in (*module.parameters(recurse=False), *vars(module).values())
        if isinstance(held, torch.Tensor)
    }
    measured = measure_footprint(
        EmbeddedEngineConfig(dtype=dtype), checkpoint=checkpoint, on_gpu=False, cache_dir=tmp_path
    )
    # The layers' shapes lie on disk alone, and a few ones beside the head's codes here alone.
    assert sum(tensors.values()) == pytest.approx(measured.weight_bytes, rel=0.01)


@NEEDS_PACKING
def test_what_many_layers_of_few_bits_round_is_no_other_computation(tmp_path: Path) -> None:
    checkpoint = save_few_bits_llama(tmp_path / "deep", num_hidden_layers=8)
    model = load_checkpoint(checkpoint, dtype="float32", device="cpu").model

    prepare_model(model, checkpoint, Precision(dtype="float32", products=torch.float32))

    assert any(isinstance(module, PackedInt4Linear) for module in model.modules())


@pytest.mark.slow
def test_a_real_model_whose_layers_round_their_inputs_is_taken_for_what_it_is() -> None:
    model = load_checkpoint(packaged_smollm2(), dtype="float32", device="cpu").model
    QuantizeW8A8().take(model, build_context())

    bytes_per_token = prepare_model(model, "smollm2", Precision(dtype="float32"))

    # Keys and values of 3 heads of 64 in 30 layers.
    assert bytes_per_token == 2 * 3 * 64 * 30 * 4
