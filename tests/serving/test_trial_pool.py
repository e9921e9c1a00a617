"""Trials on a Ray cluster find what trials here find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.checkpoints.progress import ignore_phase
from ensemble.errors import ConfigError
from ensemble.variants.adjust import AdjustTask, SerialTrials, search_variants
from ensemble.variants.adjust_report import adjustment_to_json
from ensemble.variants.adjust_search import Limit
from ensemble.variants.adjust_template import load_templates
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.trial import prepare_trials
from ensemble.variants.trial_store import TrialStore
from tests.checkpoints.tiny_models import build_llama, save

TEXT = Path(__file__).parents[2] / "README.md"


def build_task(tmp_path: Path) -> AdjustTask:
    recipe = tmp_path / "zeros.yaml"
    recipe.write_text(
        "steps: [{type: prune_layers, num_layers: {search: [1, 2]}}, "
        "{type: prune_weights, score: magnitude, sparsity: {search: {from: 0.2, to: 0.8, step: 0.2}}}]",
        "utf-8",
    )
    source = save(build_llama(), tmp_path / "tiny")
    setup = EngineSetup(threads=1, cache_dir=tmp_path / "cache")
    trial = prepare_trials(source, setup, calibration_texts=[str(TEXT)], on_phase=ignore_phase)
    return AdjustTask(
        chains=load_templates([recipe]),
        limit=Limit(max_loss=0.001),
        aim="size",
        trial=replace(trial, speed=None),
    )


def kept_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "trials").glob("*.json")}


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_trials_on_a_cluster_find_what_trials_here_find(cluster_cache_dir: Path, tmp_path: Path) -> None:
    from ensemble.serving.trial_pool import RayTrials  # noqa: PLC0415 - seconds to import

    task = build_task(tmp_path)
    here, there = (TrialStore(folder=tmp_path / name, facts=task.choosing.facts()) for name in ("here", "there"))
    serial = search_variants(task, SerialTrials(task.choosing, here), here)

    # What the calibration file says travels by value: other nodes do not have it.
    moved = replace(task.choosing, calibration_texts=("/nowhere/README.md",))
    left = cluster_cache_dir / "checkpoints" / ".trial-ofakilledprocess"
    left.mkdir(parents=True)
    with RayTrials(moved, [TEXT.read_text("utf-8")], has_gpus=False) as trials:
        spread = search_variants(task, trials, there)

    assert not left.exists()
    assert adjustment_to_json(spread) == adjustment_to_json(serial)
    assert len(serial.figures) > 3
    files = [
        sorted((path.name, path.read_bytes()) for path in (tmp_path / one / "trials").glob("*.json"))
        for one in ("here", "there")
    ]
    assert files[0] == files[1]


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_what_a_trial_is_refused_for_on_a_cluster_is_told_as_here(tmp_path: Path) -> None:
    from ensemble.serving.trial_pool import RayTrials  # noqa: PLC0415 - as above

    task = build_task(tmp_path)
    trials = TrialStore(folder=tmp_path / "out", facts={})

    with (
        RayTrials(replace(task.choosing, source=str(tmp_path / "gone.gguf")), [], has_gpus=False) as runner,
        pytest.raises(ConfigError, match="no such GGUF file"),
    ):
        search_variants(task, runner, trials)
