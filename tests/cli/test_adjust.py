"""``ensemble adjust`` on a small model: the choice, its report, and the same end after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensemble.checkpoints import load_checkpoint
from ensemble.cli.adjust import name_from_anywhere
from ensemble.cli.entry import app
from ensemble.variants.trial_store import TrialStore
from tests.checkpoints.tiny_models import build_llama, save
from tests.variants.adjustments import build_point
from tests.variants.made_models import write_record

SIZE = ("--prefer", "size", "--no-speed")
TIMEOUT_S = 240.0


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ENSEMBLE_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(build_llama(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("recipes")
    layers, zeros = folder / "layers.yaml", folder / "zeros.yaml"
    layers.write_text("steps: [{type: prune_layers, num_layers: {search: {from: 1, to: 2, step: 1}}}]", "utf-8")
    sparsity = "{search: {from: 0.2, to: 0.8, step: 0.2}}"
    zeros.write_text(
        f"steps: [{{type: prune_weights, score: magnitude, sparsity: {sparsity}}}, {{type: quantize_int4}}]", "utf-8"
    )
    return "--recipe", str(layers), "--recipe", str(zeros)


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ensemble.cli", "adjust", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603


def num_trials(out: Path) -> int:
    return len(list((out / "trials").glob("*.json"))) if out.is_dir() else 0


def kill_after(process: subprocess.Popen[str], out: Path, *, trials: int) -> None:
    """Kill it once so many trials have ended, in the middle of the next one."""
    until_s = time.monotonic() + TIMEOUT_S
    while num_trials(out) < trials:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.communicate()


@pytest.mark.timeout(900)
def test_a_search_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    source: str, recipes: tuple[str, ...], tmp_path: Path
) -> None:
    def arguments(name: str) -> tuple[str, ...]:
        out, chosen = tmp_path / f"{name}-out", tmp_path / name
        return source, str(chosen), *recipes, "--out", str(out), "--max-loss", "0.002", *SIZE

    quiet = begin(*arguments("calm"))
    printed, told = quiet.communicate(timeout=TIMEOUT_S)
    assert quiet.returncode == 0, told

    for trials in (1, 3):
        kill_after(begin(*arguments("disturbed")), tmp_path / "disturbed-out", trials=trials)
        assert not (tmp_path / "disturbed").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "disturbed-out" / "trials").glob("*.json")}
    again = begin(*arguments("disturbed"))
    printed_again, told_again = again.communicate(timeout=TIMEOUT_S)

    assert again.returncode == 0, told_again
    assert told_again.count("(an earlier run's)") == len(kept) >= 3
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert printed_again.replace("/disturbed", "/calm") == printed
    for name in ("model.safetensors", "compression.json", "evaluation.json"):
        written = (tmp_path / "disturbed" / name).read_bytes()
        # An evaluation says where the variant lay.
        assert written.replace(b"/disturbed", b"/calm") == (tmp_path / "calm" / name).read_bytes()
    for name in ("figures.json", "report.html"):
        assert (tmp_path / "disturbed-out" / name).read_bytes() == (tmp_path / "calm-out" / name).read_bytes()
    assert not [path for path in (tmp_path / "disturbed-out" / "trials").iterdir() if path.is_dir()]


def test_the_choice_goes_into_the_store_with_its_recipe_and_its_evaluation(
    source: str, recipes: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["adjust", source, "store:best", *recipes, "--out", str(out), "--max-loss", "0.002", *SIZE]

    done = CliRunner().invoke(app, command)

    assert done.exit_code == 0, done.stderr
    figures = json.loads((out / "figures.json").read_text("utf-8"))
    (stored,) = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert stored["name"] == "best"
    assert stored["compression"]["recipe"] == figures["trials"][figures["chosen"]]["recipe"]
    judged = stored["evaluation"]["variant"]["beside"]["perplexity_ratio"]["value"]
    assert judged == figures["confirmed"]["perplexity_ratio"]["value"]
    # Measured on other text, it is another figure than the one that chose.
    assert judged != figures["trials"][figures["chosen"]]["perplexity_ratio"]["value"]
    assert load_checkpoint(f"store:best@{tmp_path}/store", dtype="float32", device="cpu").model
    assert CliRunner().invoke(app, command).exit_code == 2


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_a_search_on_a_cluster_finds_what_one_here_finds(
    source: str, recipes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray  # noqa: PLC0415 - seconds to import

    monkeypatch.chdir(Path(source).parent)
    address = ray.get_runtime_context().gcs_address
    command = (Path(source).name, str(tmp_path / "chosen"), *recipes, "--max-loss", "0.002", *SIZE)

    there = begin(*command, "--out", str(tmp_path / "there"), "--ray", address)
    told = there.communicate(timeout=TIMEOUT_S)[1]
    here = begin(*command, "--out", str(tmp_path / "here"))
    told_here = here.communicate(timeout=TIMEOUT_S)[1]

    assert (there.returncode, here.returncode) == (0, 0), (told, told_here)
    figures = [(tmp_path / one / "figures.json").read_bytes() for one in ("there", "here")]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("gone", ["evaluation.json", "."])
def test_what_the_choice_lacks_is_there_again_after_the_same_command(source: str, gone: str, tmp_path: Path) -> None:
    layers, chosen = tmp_path / "layers.yaml", tmp_path / "chosen"
    layers.write_text("steps: [{type: prune_layers, num_layers: 1}]", "utf-8")
    limits = ("--out", str(tmp_path / "out"), "--max-loss", "9", *SIZE)
    command = ["adjust", source, str(chosen), "--recipe", str(layers), *limits]
    first = CliRunner().invoke(app, command)
    evaluation = (chosen / "evaluation.json").read_bytes()
    if gone == ".":
        shutil.rmtree(chosen)
    else:
        (chosen / gone).unlink()

    again = CliRunner().invoke(app, command)

    assert (first.exit_code, again.exit_code) == (0, 0), again.stderr
    assert "(an earlier run's)" in again.stderr
    assert (chosen / "evaluation.json").read_bytes() == evaluation


def test_a_source_that_was_compressed_is_searched_on_request(source: str, tmp_path: Path) -> None:
    layers, compressed = tmp_path / "layers.yaml", Path(shutil.copytree(source, tmp_path / "compressed"))
    layers.write_text("steps: [{type: prune_layers, num_layers: 1}]", "utf-8")
    write_record(compressed, source)
    limits = ("--out", str(tmp_path / "out"), "--max-loss", "9", *SIZE)
    command = ["adjust", str(compressed), str(tmp_path / "chosen"), "--recipe", str(layers), *limits]

    refused = CliRunner().invoke(app, command)
    done = CliRunner().invoke(app, [*command, "--allow-compressed"])

    assert refused.exit_code == 2
    assert "--allow-compressed" in refused.stderr
    assert done.exit_code == 0, done.stderr


def test_a_second_search_in_one_folder_is_refused_at_once(
    source: str, recipes: tuple[str, ...], tmp_path: Path
) -> None:
    out, chosen = tmp_path / "out", tmp_path / "chosen"
    first = TrialStore(folder=out, facts={})
    half_made = first.checkpoint(build_point("a", 0.5))
    half_made.mkdir()
    command = ["adjust", source, str(chosen), *recipes, "--out", str(out), "--max-loss", "1", *SIZE]

    with first.held():
        refused = CliRunner().invoke(app, command)

    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        f"ensemble: {out}: another process searches there; wait for it, or give another folder"
    )
    assert half_made.is_dir()
    assert not num_trials(out)
    assert not chosen.exists()
    with first.held():
        pass


@pytest.mark.parametrize(
    ("source", "named"),
    [("tiny", "{here}/tiny"), ("./tiny", "{here}/tiny"), ("org/name", "org/name"), ("store:a@/b", "store:a@/b")],
)
def test_a_cluster_is_told_where_a_path_leads(
    source: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)

    assert name_from_anywhere(source) == named.format(here=tmp_path)


def test_a_limit_that_nothing_keeps_is_told_with_the_nearest_and_reported(source: str, tmp_path: Path) -> None:
    out, chosen, zeros = tmp_path / "out", tmp_path / "chosen", tmp_path / "zeros.yaml"
    zeros.write_text("steps: [{type: prune_weights, score: magnitude, sparsity: {search: [0.95, 0.9]}}]", "utf-8")

    done = CliRunner().invoke(
        app, ["adjust", source, str(chosen), "--recipe", str(zeros), "--out", str(out), "--max-loss", "0", *SIZE]
    )

    assert done.exit_code == 2
    assert "--max-loss: None of" in done.stderr.splitlines()[-1]
    assert "of the nearest, zeros(sparsity=0.9)" in done.stderr.splitlines()[-1]
    assert not chosen.exists()
    assert json.loads((out / "figures.json").read_text("utf-8"))["chosen"] is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "one of them says what is wanted"),
        (("--max-loss", "0.1", "--min-speedup", "2"), "one of them says what is wanted"),
        (("--min-speedup", "2", "--no-speed"), "a speed is wanted"),
        (("--max-loss", "0.1", "--recipe", "nowhere.yaml"), "the recipe cannot be read"),
        (("--max-loss", "0.1", "--recipe", "{folder}/many.yaml"), "many(num_layers=9)"),
        (("--max-loss", "0.1", "--text", "nowhere.txt"), "nowhere.txt"),
        (("--max-loss", "0.1", "--text", __file__, "--calibration", __file__), "judged by"),
        (("--max-loss", "0.1", "--out", "{folder}/chosen"), "the OUTPUT, would hold it"),
        (("--max-loss", "0.1", "--out", "{folder}/chosen/trials"), "the OUTPUT, would hold it"),
        (("--max-loss", "0.1", "--ray", "127.0.0.1:1"), "nobody answers"),
    ],
)
def test_what_cannot_be_is_one_line_before_the_long_work(
    arguments: tuple[str, ...], told: str, source: str, recipes: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "many.yaml").write_text("steps: [{type: prune_layers, num_layers: {search: [9]}}]", "utf-8")
    given = [argument.format(folder=tmp_path) for argument in arguments]

    done = CliRunner().invoke(
        app, ["adjust", source, str(tmp_path / "chosen"), *recipes, "--out", str(tmp_path / "out"), *given]
    )

    assert done.exit_code == 2
    assert told in done.stderr.splitlines()[-1]
    assert not num_trials(tmp_path / "out")


def test_an_output_that_no_recipe_of_the_search_makes_is_refused(
    source: str, recipes: tuple[str, ...], tmp_path: Path
) -> None:
    chosen, out = tmp_path / "chosen", tmp_path / "out"
    chosen.mkdir()

    done = CliRunner().invoke(
        app, ["adjust", source, str(chosen), *recipes, "--out", str(out), "--max-loss", "1", *SIZE]
    )

    assert done.exit_code == 2
    assert "it exists already" in done.stderr
    assert not list(chosen.iterdir())


def test_an_output_that_cannot_be_made_is_told_before_any_trial(
    source: str, recipes: tuple[str, ...], tmp_path: Path
) -> None:
    file, out = tmp_path / "file", tmp_path / "out"
    file.write_text("")

    done = CliRunner().invoke(
        app, ["adjust", source, str(file / "chosen"), *recipes, "--out", str(out), "--max-loss", "1", *SIZE]
    )

    assert done.exit_code == 2
    assert f"{file} is a file" in done.stderr
    assert not num_trials(out)
