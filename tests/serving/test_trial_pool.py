"""Trials on a Ray cluster find what trials here find."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.checkpoints.progress import ignore_phase
from ensemble.checkpoints.store_listing import EVALUATION_RECORD
from ensemble.errors import ConfigError
from ensemble.variants.adjust import AdjustTask, SerialTrials, finish_choice, search_variants
from ensemble.variants.adjust_report import adjustment_to_json
from ensemble.variants.adjust_search import Limit
from ensemble.variants.adjust_template import load_templates
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.trial import prepare_trials
from ensemble.variants.trial_store import TrialStore
from tests.checkpoints.tiny_models import build_llama, save

TEXT = Path(__file__).parents[2] / "README.md"

_REPORT_RESOURCES = """
import json, sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import ray

from ensemble.serving import trial_pool
from ensemble.serving.cluster import ray_cluster
from ensemble.variants.trial_figures import TrialFigures
from tests.variants.adjustments import build_point, build_task


def report(shared, recipe):
    context = ray.get_runtime_context()
    given = {"resources": context.get_assigned_resources(), "gpus": context.get_accelerator_ids()["GPU"]}
    return TrialFigures(file_bytes=1, original_bytes=1, problem=json.dumps(given))


task, given_by_device = build_task().choosing, {}
reporting = patch.object(trial_pool, "_run_trial", report)
with ray_cluster("", temp_dir=Path(sys.argv[1]), num_cpus=2, num_gpus=2), reporting:
    for wanted in ("auto", "cpu"):
        setup = replace(task.setup, device=trial_pool.choose_trial_device(wanted))
        with trial_pool.RayTrials(replace(task, setup=setup), []) as trials:
            trials.submit(build_point("a", 0.5))
            given_by_device[wanted] = {"device": setup.device, **json.loads(trials.next_ended()[1].problem)}
print(json.dumps(given_by_device))
"""


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
    with RayTrials(moved, [TEXT.read_text("utf-8")]) as trials:
        spread = finish_choice(search_variants(task, trials, there), tmp_path / "chosen-there", trials, there)
    serial = finish_choice(serial, tmp_path / "chosen-here", SerialTrials(task.choosing, here), here)

    assert not left.exists()
    assert spread.confirmed is not None
    assert adjustment_to_json(spread) == adjustment_to_json(serial)
    evaluations = [
        (tmp_path / one / EVALUATION_RECORD).read_bytes().replace(one.encode(), b"chosen")
        for one in ("chosen-there", "chosen-here")
    ]
    assert evaluations[0] == evaluations[1]
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
        RayTrials(replace(task.choosing, source=str(tmp_path / "gone.gguf")), []) as runner,
        pytest.raises(ConfigError, match="no such GGUF file"),
    ):
        search_variants(task, runner, trials)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_trial_gets_a_gpu_of_its_own_where_the_cluster_has_any() -> None:
    # Not pytest's folder: Ray's sockets lie in it, and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ens-") as folder:
        command = [sys.executable, "-c", _REPORT_RESOURCES, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)  # noqa: S603

    assert done.returncode == 0, done.stderr
    given = json.loads(done.stdout)
    assert given["auto"].pop("gpus") in (["0"], ["1"])
    assert given == {
        "auto": {"device": "cuda", "resources": {"CPU": 1.0, "GPU": 1.0}},
        "cpu": {"device": "cpu", "resources": {"CPU": 1.0}, "gpus": []},
    }


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_trial_is_measured_on_a_core_where_no_node_has_a_gpu() -> None:
    from ensemble.serving.trial_pool import choose_trial_device  # noqa: PLC0415 - as above

    assert choose_trial_device("auto") == "cpu"
    assert choose_trial_device("cuda") == "cuda"
