"""One trial: what it measures, and what of a variant that came to nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ensemble.calibration.items import LabelledItem
from ensemble.checkpoints import content
from ensemble.checkpoints.content import hash_files
from ensemble.checkpoints.progress import OnPhase
from ensemble.compression import variant_run
from ensemble.compression.recipe import Recipe, parse_recipe
from ensemble.errors import ConfigError
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.trial import TrialTask, check_recipes, prepare_trials, run_trial
from tests.checkpoints.tiny_models import build_llama, save

ITEMS = tuple(
    LabelledItem(
        item_id=str(number), prompt=f"Story {number}: the old man", choices=("walked", "said"), answer=number % 2
    )
    for number in range(4)
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(build_llama(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def prepare(source: str, tmp_path: Path) -> TrialTask:
    return prepare_trials(source, EngineSetup(threads=1, cache_dir=tmp_path / "cache"))


def drop_layers(count: int) -> Recipe:
    return parse_recipe({"steps": [{"type": "prune_layers", "num_layers": count}]}, where="test")


def test_a_trial_measures_text_choices_speed_and_size_beside_the_original(source: str, tmp_path: Path) -> None:
    task = replace(prepare(source, tmp_path), items=ITEMS, num_rounds=1)

    figures = run_trial(task, drop_layers(1), tmp_path / "variant")

    assert figures.problem == ""
    assert figures.perplexity_ratio is not None
    assert figures.perplexity_ratio.low <= figures.perplexity_ratio.value <= figures.perplexity_ratio.high
    assert figures.decode_speedup is not None
    assert figures.prefill_speedup is not None
    assert figures.accuracy is not None
    assert figures.original_accuracy is not None
    lost = figures.loss("accuracy")
    assert lost is not None
    assert lost.value == figures.original_accuracy - figures.accuracy.value
    assert lost.low <= lost.value <= lost.high
    assert figures.file_bytes < figures.original_bytes
    assert figures.clock == "processor"
    assert figures.wall_speedup is not None
    assert figures.wall_speedup != figures.decode_speedup
    measured = figures.to_measured("x", "accuracy")
    assert (measured.loss, measured.speedup) == (lost.value, figures.decode_speedup.value)


def test_a_search_reads_all_of_the_original_for_its_digest_once(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def note(files: Sequence[Path], on_phase: OnPhase) -> list[str]:
        hashed.extend(path for path in files if path.suffix == ".safetensors")
        return hash_files(files, on_phase)

    monkeypatch.setattr(content, "hash_files", note)
    task = prepare(source, tmp_path)
    task = replace(task, speed=None, text=replace(task.text, passages=task.text.passages[:2]))

    check_recipes(task, {"one": drop_layers(1)})
    for number in (1, 2):
        run_trial(task, drop_layers(number), tmp_path / f"variant-{number}")

    weights = [Path(source), tmp_path / "variant-1", tmp_path / "variant-2"]
    assert hashed == [folder / "model.safetensors" for folder in weights]
    record = json.loads((tmp_path / "variant-1" / "compression.json").read_text("utf-8"))
    assert record["source_digest"] == task.source_digest == content.digest_folder(Path(source))


@pytest.mark.parametrize("changed", ["tokenizer_config.json", "model.safetensors"])
def test_a_trial_refuses_another_source_than_the_search_began_with(source: str, changed: str, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(source, tmp_path / "copied"))
    task = prepare(str(copied), tmp_path)
    if changed == "model.safetensors":
        save(build_llama(num_layers=2), tmp_path / "other")
        shutil.copy(tmp_path / "other" / changed, copied)
    else:
        # As long as before.
        (copied / changed).write_bytes((copied / changed).read_bytes().replace(b"\n", b" ", 1))

    with pytest.raises(ConfigError, match="is not the checkpoint that the search began with"):
        run_trial(task, drop_layers(1), tmp_path / "variant")


def test_a_variant_that_predicts_nothing_any_more_came_to_nothing(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perplexities = iter((30.0, math.inf))
    monkeypatch.setattr(variant_run, "measure_perplexity", lambda *_args, **_more: next(perplexities))

    figures = run_trial(prepare(source, tmp_path), drop_layers(1), tmp_path / "variant")

    assert figures.problem == "the model's perplexity is not finite"
    assert not figures.to_measured("x", "perplexity").is_sound
    assert not (tmp_path / "variant").exists()


def test_what_a_recipe_cannot_do_is_told_by_its_name_before_any_trial(source: str, tmp_path: Path) -> None:
    task = prepare(source, tmp_path)

    with pytest.raises(ConfigError, match=r"second: prune_layers\.num_layers: 9 layers cannot be dropped"):
        check_recipes(task, {"first": drop_layers(1), "second": drop_layers(9)})


def test_figures_depend_on_all_that_they_are_kept_by(source: str, tmp_path: Path) -> None:
    task = prepare(source, tmp_path)
    others = [
        replace(task, items=ITEMS),
        replace(task, speed=None),
        replace(task, num_rounds=9),
        replace(task, calibration_digests=("other",)),
        replace(task, source_digest="sha256:1"),
        replace(task, text=replace(task.text, passages=task.text.passages[1:])),
        replace(task, setup=replace(task.setup, threads=2)),
    ]

    facts = [str(one.facts()) for one in (task, *others)]

    assert len(set(facts)) == len(facts)
    assert task.facts() == replace(task, setup=replace(task.setup, cache_dir=tmp_path / "elsewhere")).facts()


@pytest.mark.usefixtures("two_threads")
def test_a_trial_is_made_with_as_many_threads_whatever_was_measured_before_it(source: str, tmp_path: Path) -> None:
    task = prepare(source, tmp_path)
    task = replace(task, speed=None, text=replace(task.text, passages=task.text.passages[:2]))
    outputs = [tmp_path / name for name in ("first", "second")]

    for number, output in enumerate(outputs):
        run_trial(task, drop_layers(number + 1), output)

    records = [json.loads((output / "compression.json").read_text("utf-8")) for output in outputs]
    assert [record["threads"] for record in records] == [2, 2]
    assert torch.get_num_threads() == 2
