"""What transformers' Trainer records about weights that move, and what a short training of one's own finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from ensemble.compression.movement import RECORD_FILE, MovementRecord, MovementRecorder, find_weights
from ensemble.compression.movement_training import train_movement
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

LEARNING_RATE = 0.1


class _Windows(Dataset[dict[str, Any]]):
    def __init__(self, windows_WT: Tensor) -> None:
        self._windows_WT = windows_WT

    def __len__(self) -> int:
        return len(self._windows_WT)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._windows_WT[index], "labels": self._windows_WT[index]}


def fine_tune(model: PreTrainedModel, folder: Path, *, num_steps: int, **options: Any) -> dict[str, Tensor]:
    """Train with a recorder, saving the model before and after; gives the record."""
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=num_steps,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"optim": "sgd", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", **options},
    )
    recorder = MovementRecorder(folder / "record")
    trainer = Trainer(model=model, args=arguments, train_dataset=_Windows(build_windows(8)), callbacks=[recorder])
    trainer.save_model(str(folder / "before"))
    trainer.train()
    trainer.save_model(str(folder / "after"))
    return load_file(folder / "record" / RECORD_FILE)


def test_recorded_changes_are_the_difference_of_the_checkpoints_before_and_after(tmp_path: Path) -> None:
    record = fine_tune(build_llama(), tmp_path, num_steps=3, optim="adamw_torch")

    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    changes = {name.removesuffix(".change"): change for name, change in record.items() if name.endswith(".change")}
    # Seven linear layers in each of four, and the embeddings, which are the head, too.
    assert len(changes) == 4 * 7 + 1
    for name, change in changes.items():
        assert torch.equal(change, after[name] - before[name]), name
        assert change.any(), name


def test_under_sgd_the_score_is_the_sum_of_weight_times_change_over_the_learning_rate(tmp_path: Path) -> None:
    model, expected = build_llama(), {}

    record = fine_tune(model, tmp_path / "one", num_steps=1)

    before = load_file(tmp_path / "one" / "before" / "model.safetensors")
    for name in before.keys() & find_weights(model).keys():
        expected[name] = before[name] * record[f"{name}.change"] / LEARNING_RATE
        assert torch.allclose(record[f"{name}.movement"], expected[name], rtol=1e-3, atol=1e-6), name
        assert record[f"{name}.movement"].any(), name
    assert len(expected) == 29


def test_a_score_gathers_over_steps_and_says_which_weights_move_away_from_zero(tmp_path: Path) -> None:
    record = fine_tune(build_llama(), tmp_path, num_steps=12)

    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    agreeing = total = 0
    for name in before.keys() & {key.removesuffix(".movement") for key in record}:
        moved = (after[name] - before[name]).abs() > 1e-3
        away = after[name].abs() > before[name].abs()
        agreeing += int(((record[f"{name}.movement"] > 0) == away)[moved].sum())
        total += int(moved.sum())
    assert total > 1_000
    assert agreeing / total > 0.95


def test_a_record_that_exists_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()

    with pytest.raises(ConfigError, match="exists already"):
        MovementRecorder(tmp_path / "record")


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0{}      x"])
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / RECORD_FILE).write_bytes(content)

    with pytest.raises(ConfigError, match="cannot be read"):
        MovementRecord.open(tmp_path, where="prune_weights.record")


def test_a_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    save_file({"a.weight.movement": torch.tensor([1.0, float("nan")])}, tmp_path / RECORD_FILE)
    record = MovementRecord.open(tmp_path, where="prune_weights.record")

    with pytest.raises(ConfigError, match=r"the movement of a\.weight is not finite"):
        record.load_score("a.weight", where="prune_weights.record")


def test_one_s_own_training_gives_minus_weight_times_gradient_and_leaves_the_model(tmp_path: Path) -> None:
    model, context = build_llama(), build_context(calibrate_WT=build_windows(1), scratch=tmp_path)
    name = "model.layers.2.mlp.up_proj"
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    scores = train_movement(model, [name], context, num_tokens=1, learning_rate=0.1)

    weight: Any = model.get_submodule(name).weight
    labels: Any = context.calibrate_WT
    model(labels, labels=labels).loss.backward()
    assert torch.allclose(scores[name], -weight.detach() * weight.grad, rtol=1e-4, atol=1e-8)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_learning_rate_that_is_too_large_is_told(tmp_path: Path) -> None:
    model, context = build_llama(), build_context(scratch=tmp_path)
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(4)]

    with pytest.raises(ConfigError, match="steps the loss is not finite"):
        train_movement(model, names, context, num_tokens=10_000, learning_rate=1e39)


def test_a_layer_that_no_window_reaches_does_not_move(tmp_path: Path) -> None:
    model: Any = build_llama()
    model.model.unused = torch.nn.Linear(4, 4)
    names = ["model.unused", "model.layers.2.mlp.up_proj"]

    scores = train_movement(model, names, build_context(scratch=tmp_path), num_tokens=40, learning_rate=0.1)

    assert not scores["model.unused"].any()
    assert scores["model.layers.2.mlp.up_proj"].any()
