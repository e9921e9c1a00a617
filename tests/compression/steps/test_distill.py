"""What distillation makes of a model, and that it makes the same of it every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from ensemble.compression import distillation
from ensemble.compression.steps.distill import Distill, LoraOptions
from ensemble.compression.steps.prune_layers import PruneLayers
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import HIDDEN, build_gemma3, build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

CALIBRATE_WT, HELD_OUT_WT = build_windows(60, 32, seed=1), build_windows(4, 32, seed=2)
QUICK = Distill(tokens=50 * 32, learning_rate=1e-3)


def build_original() -> PreTrainedModel:
    """Build a model with logits that differ: a random one of small weights says the same of every token."""
    return sharpen(build_llama(tied=False))


def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    return model


@torch.inference_mode()
def measure_divergence(model: PreTrainedModel, original: PreTrainedModel) -> float:
    """Give the mean of sum p log(p / q), on windows that no step has seen."""
    wanted_WTV = original(HELD_OUT_WT).logits.log_softmax(dim=-1)
    given_WTV = model(HELD_OUT_WT).logits.log_softmax(dim=-1)
    return float((wanted_WTV.exp() * (wanted_WTV - given_WTV)).sum(dim=-1).mean())


def cut(original: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    model = original()
    PruneLayers(num_layers=1).take(model, build_context(calibrate_WT=CALIBRATE_WT[:4]))
    return model


def distill(model: PreTrainedModel, step: Distill, progress: Path, original: Callable[[], PreTrainedModel]) -> None:
    context = build_context(
        calibrate_WT=CALIBRATE_WT, load_original=original, original_layers=(0, 2, 3), progress=progress
    )
    step.take(model, context)


def states_equal(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    state = second.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def build_sharp_gemma() -> PreTrainedModel:
    return sharpen(build_gemma3())


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (build_original, {}),
        (build_sharp_gemma, {}),
        (build_original, {"hidden": 1.0, "cross_entropy": 0.01, "temperature": 2.0, "batch_windows": 2}),
        (build_original, {"lora": LoraOptions(rank=8), "learning_rate": 3e-3}),
    ],
    ids=["llama", "gemma", "all losses", "lora"],
)
def test_a_cut_model_says_more_of_what_the_original_says(
    build: Callable[[], PreTrainedModel], options: dict[str, Any], tmp_path: Path
) -> None:
    model = cut(build)
    names = {name: type(module) for name, module in model.named_modules()}
    before = measure_divergence(model, build())

    distill(model, QUICK.model_copy(update=options), tmp_path, build)

    assert measure_divergence(model, build()) < 0.9 * before
    assert {name: type(module) for name, module in model.named_modules()} == names
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=4)])
def test_the_same_inputs_give_the_same_bits_and_another_seed_others(lora: LoraOptions | None, tmp_path: Path) -> None:
    step = Distill(tokens=4 * 32, lora=lora)
    models = [cut(build_original) for _ in range(2)]

    for model in models:
        distill(model, step, tmp_path, build_original)

    assert states_equal(*models)
    assert not states_equal(models[0], cut(build_original))


def test_what_a_killed_run_has_done_is_not_done_again_and_the_bits_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Distill(tokens=10 * 32)
    whole, killed, resumed = (cut(build_original) for _ in range(3))
    distill(whole, step, tmp_path, build_original)
    monkeypatch.setattr(distillation, "SAVE_EVERY_S", 0.0)
    measured: list[Tensor] = []
    measure = distillation.Objective.measure

    def note(objective: distillation.Objective, model: PreTrainedModel, windows_WT: Tensor) -> Tensor:
        measured.append(windows_WT)
        if len(measured) == 7:
            raise KeyboardInterrupt
        return measure(objective, model, windows_WT)

    monkeypatch.setattr(distillation.Objective, "measure", note)
    with pytest.raises(KeyboardInterrupt):
        distill(killed, step, tmp_path, build_original)
    distill(resumed, step, tmp_path, build_original)

    assert len(measured) == 7 + 4
    assert torch.equal(measured[6], measured[7])
    assert states_equal(resumed, whole)


def test_every_window_is_read_before_any_comes_again() -> None:
    windows_WT = torch.arange(5)[:, None]

    batches = distillation.draw_batches(windows_WT, num_batches=5, batch_windows=2, seed=0)

    drawn = torch.cat(list(batches)).flatten().tolist()
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]
    assert drawn[:5] != drawn[5:]


def test_the_learning_rate_rises_in_a_line_and_falls_to_nothing() -> None:
    schedule = distillation.Schedule(num_steps=10, num_warmup_steps=2, peak=1.0)

    rates = [schedule.rate(step) for step in range(11)]

    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_the_divergence_is_that_of_the_definition() -> None:
    logits_WTV, wanted_WTV = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 3.0]]])
    wanted_V, given_V = torch.softmax(wanted_WTV[0, 0] / 2, dim=0), torch.tensor([0.5, 0.5])

    divergence = distillation.measure_divergence(logits_WTV, wanted_WTV, temperature=2.0)

    expected = (wanted_V * (wanted_V / given_V).log()).sum() * 4
    assert divergence.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_of_two_windows_has_the_gradient_of_their_mean() -> None:
    model, original = cut(build_original), build_original()
    objective = distillation.Objective(
        original=original,
        original_layers=(0, 2, 3),
        original_hidden=tuple(range(HIDDEN)),
        temperature=1.0,
        cross_entropy=0.5,
        hidden=0.5,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training = distillation.Training(weights=list(model.parameters()), optimizer=optimizer, clip_norm=1e9)
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    expected = torch.autograd.grad(
        objective.measure(model, CALIBRATE_WT[:2]), model.model.layers[0].mlp.up_proj.weight
    )[0]

    training.step(lambda windows_WT: objective.measure(model, windows_WT), CALIBRATE_WT[:2], 0.1)

    change = before - model.model.layers[0].mlp.up_proj.weight.detach()
    assert torch.allclose(change, 0.1 * expected, rtol=1e-3, atol=1e-7)


def test_a_loss_that_is_no_number_is_told(tmp_path: Path) -> None:
    model = cut(build_original)
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")

    with pytest.raises(ConfigError, match="the loss of step 1 is not finite"):
        distill(model, QUICK, tmp_path, build_original)


def test_a_model_that_predicts_no_tokens_is_refused() -> None:
    config = LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]

    with pytest.raises(ConfigError, match="predicts no tokens"):
        Distill().check(model)
