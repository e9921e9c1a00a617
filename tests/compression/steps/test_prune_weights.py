"""Pruning single weights as a step: what every score leaves, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from ensemble.checkpoints import load_checkpoint
from ensemble.compression.compress import compress
from ensemble.compression.movement import RECORD_FILE, find_weights
from ensemble.compression.recipe import Recipe
from ensemble.compression.steps.prune_weights import PruneWeights
from ensemble.compression.steps.quantize_int8 import QuantizeInt8
from ensemble.compression.zero_choice import choose_in_layer, choose_in_rows
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama, save
from tests.compression.step_contexts import build_context
from tests.compression.test_layer_walk import gram_plainly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

CONTEXT = build_context()
MOVEMENT = {"score": "movement", "train_tokens": 64}
EVERY_SCORE = pytest.mark.parametrize(
    "options",
    [{"score": score} for score in ("magnitude", "channel", "wanda", "sparsegpt")] + [MOVEMENT],
    ids=lambda options: options["score"],
)
UP = "model.layers.0.mlp.up_proj"


def take(model: PreTrainedModel, **options: Any) -> dict[str, Any]:
    step = PruneWeights.model_validate({"score": "magnitude", **options})
    step.check(model)
    return step.take(model, CONTEXT).findings


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    return {
        name: layer.weight.detach().clone()
        for name, layer in model.model.named_modules()
        if isinstance(layer, nn.Linear)
    }


@torch.no_grad()
def lost(model: PreTrainedModel, original: PreTrainedModel) -> float:
    before, after = (one(CONTEXT.calibrate_WT).logits for one in (original, model))
    return float((after - before).norm() / before.norm())


def write_record(model: PreTrainedModel, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    scores = {name: torch.randn(weight.shape, generator=draw) for name, weight in find_weights(model).items()}
    folder.mkdir()
    save_file({f"{name}.movement": score for name, score in scores.items()}, folder / RECORD_FILE)
    return folder, scores


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
@EVERY_SCORE
def test_half_of_each_layer_becomes_zero_by_every_score(
    build: Callable[[], PreTrainedModel], options: dict[str, Any]
) -> None:
    model = build()
    before = weights_of(model)

    findings = take(model, **options)

    assert (findings["num_layers"], findings["zero_share"]) == (28, 0.5)
    assert findings["storage"].startswith("dense: zeros")
    for name, weight_OI in weights_of(model).items():
        assert int((weight_OI == 0).sum()) == weight_OI.numel() // 2, name
        if options["score"] != "sparsegpt":
            assert torch.equal(weight_OI[weight_OI != 0], before[name][weight_OI != 0])


@pytest.mark.parametrize("options", [{"score": "magnitude"}, {"score": "wanda"}, {"score": "sparsegpt"}, MOVEMENT])
def test_a_pattern_leaves_two_of_every_four_neighbours(options: dict[str, Any]) -> None:
    model = build_llama()

    take(model, **options, pattern="2:4")

    for name, weight_OI in weights_of(model).items():
        assert ((weight_OI.reshape(-1, 4) == 0).sum(dim=1) == 2).all(), name


@EVERY_SCORE
def test_the_same_model_gives_the_same_bits(options: dict[str, Any]) -> None:
    first, second = build_llama(), build_llama()

    take(first, **options)
    take(second, **options)

    assert all(torch.equal(one, weights_of(second)[name]) for name, one in weights_of(first).items())


def test_whole_channels_go_by_their_largest_magnitude() -> None:
    model = build_llama()
    before = weights_of(model)

    take(model, score="channel", sparsity=0.25)

    for name, weight_OI in weights_of(model).items():
        largest_O = before[name].abs().amax(dim=1)
        gone_O = (weight_OI == 0).all(dim=1)
        assert int(gone_O.sum()) == len(gone_O) // 4, name
        assert largest_O[gone_O].max() <= largest_O[~gone_O].min()
        assert torch.equal(weight_OI[~gone_O], before[name][~gone_O])


def test_wanda_weighs_magnitudes_by_the_norms_of_their_inputs() -> None:
    model, original = build_llama(), build_llama()

    take(model, score="wanda")

    # The first layer's inputs are those of the original.
    for name in ("self_attn.q_proj", "self_attn.o_proj"):
        full_name = f"model.layers.0.{name}"
        weight_OI = weights_of(original)[full_name.removeprefix("model.")]
        score_OI = weight_OI.abs() * gram_plainly(original, full_name).diagonal().sqrt()
        expected_OI = weight_OI.masked_fill(choose_in_rows(score_OI, 0.5), 0.0)
        assert torch.equal(weights_of(model)[full_name.removeprefix("model.")], expected_OI)


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_what_stays_makes_up_for_what_goes_in_sparsegpt_alone(pattern: str | None) -> None:
    original = build_llama()
    lost_by_score = {}
    for score in ("magnitude", "wanda", "sparsegpt"):
        model = build_llama()
        take(model, score=score, pattern=pattern)
        lost_by_score[score] = lost(model, original)

    assert lost_by_score["sparsegpt"] < 0.8 * min(lost_by_score["magnitude"], lost_by_score["wanda"])


def test_a_record_s_lowest_scores_go_whatever_their_weights(tmp_path: Path) -> None:
    model = build_llama()
    before = weights_of(model)
    folder, scores = write_record(model, tmp_path / "record")

    findings = take(model, score="movement", record=folder, sparsity=0.3)

    assert findings["record_digest"].startswith("sha256:")
    for name, weight_OI in weights_of(model).items():
        gone_OI = choose_in_layer(scores[f"model.{name}.weight"], 0.3)
        assert torch.equal(weight_OI, before[name].masked_fill(gone_OI, 0.0)), name


def test_another_record_in_the_same_folder_is_another_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(build_llama(), tmp_path / "source")
    folder, scores = write_record(build_llama(), tmp_path / "record")
    prune = {"type": "prune_weights", "score": "movement", "record": str(folder)}
    recipe = Recipe.model_validate({"steps": [prune, {"type": "quantize_int8"}]})

    def end(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(QuantizeInt8, "take", end)
        with pytest.raises(KeyboardInterrupt):
            compress(source, recipe, tmp_path / "out", cache_dir=tmp_path / "cache")
    save_file({f"{name}.movement": -score for name, score in scores.items()}, folder / RECORD_FILE)
    compress(source, recipe, tmp_path / "out", cache_dir=tmp_path / "cache")

    # Where the first record's lowest scores were the second has its highest.
    model = load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu").model
    up_OI: Any = model.get_submodule(UP).weight
    assert not ((up_OI != 0) & choose_in_layer(-scores[f"{UP}.weight"], 0.5)).any()
    save_file({f"{name}.movement": score for name, score in scores.items()}, folder / RECORD_FILE)
    with pytest.raises(ConfigError, match="made of another source, recipe or text"):
        compress(source, recipe, tmp_path / "out", cache_dir=tmp_path / "cache")


def test_a_step_that_trains_prunes_the_model_as_it_was() -> None:
    model = build_llama()
    before = weights_of(model)

    take(model, **MOVEMENT, learning_rate=0.5)

    weight_OI = weights_of(model)[UP.removeprefix("model.")]
    assert torch.equal(weight_OI[weight_OI != 0], before[UP.removeprefix("model.")][weight_OI != 0])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sparsity": 0.0}, "greater than 0"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"score": "channel", "sparsity": 0.01}, "0 of the 32 channels of model.layers.0.self_attn.q_proj would go"),
        ({"score": "channel", "sparsity": 0.99}, "32 of the 32 channels"),
        ({"score": "movement"}, "movement needs one of record and train_tokens"),
        ({**MOVEMENT, "record": "x"}, "movement needs one of record and train_tokens"),
        ({"train_tokens": 5}, "train_tokens go with score: movement alone"),
        ({"pattern": "2:4", "sparsity": 0.25}, "a pattern is a sparsity of 0.5"),
        ({"score": "channel", "pattern": "2:4"}, "channel takes no pattern"),
        ({"pattern": "3:4"}, "2:4"),
        ({"score": "wanda", "targets": ["Linear", "Embedding"]}, "wanda prunes linear layers alone"),
        ({"score": "movement", "record": "/nowhere"}, "cannot be read"),
        ({"ignore": ["re:.*"]}, "no layer is left to prune"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=problem):
        take(build_llama(), **options)


def test_a_layer_that_a_pattern_does_not_divide_is_refused_by_its_name() -> None:
    model = build_llama()
    model.model.layers[1].mlp.down_proj = nn.Linear(30, 32)

    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.down_proj has 30 input features, which cannot be 2:4"):
        take(model, pattern="2:4")


def test_a_record_of_another_model_is_refused(tmp_path: Path) -> None:
    folder, _ = write_record(build_llama(num_layers=5), tmp_path / "deeper")
    shallower, _ = write_record(build_llama(num_layers=3), tmp_path / "shallower")

    with pytest.raises(ConfigError, match=r"it is of another model, which has model\.layers\.4"):
        take(build_llama(), score="movement", record=folder)
    with pytest.raises(ConfigError, match=r"it has no model\.layers\.3\.self_attn\.q_proj\.weight of shape \(32, 32\)"):
        take(build_llama(), score="movement", record=shallower)
