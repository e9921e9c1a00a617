"""``ensemble compress``: what it writes where, what it shows, and what it refuses."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from ensemble.cli.compress_view import _StandingLines, describe_left, describe_place, show_standing
from ensemble.cli.entry import app
from ensemble.compression.standing import Standing
from tests.checkpoints.tiny_models import build_llama, save

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

INT8 = "steps: [{type: quantize_int8}]"
NAMES = ("int8", "thin")
PRUNE = "steps: [{type: prune_layers, num_layers: 1}]"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["compress", *map(str, args)])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def stand(**changes: object) -> Standing:
    facts = {"variant": "int8", "part": "step 1 of 2, prune", "phase": "work", "share": 0.5, "left_s": 30.0}
    return Standing(**{**facts, **changes})  # type: ignore[arg-type]


def test_one_recipe_writes_the_folder_that_was_named(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    result = run(source, tmp_path / "out", "--recipe", write(tmp_path / "int8.yaml", INT8))

    assert result.exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "on held-out text" in result.stdout
    assert f"written to {tmp_path / 'out'}" in result.stdout


def test_several_recipes_write_a_folder_each_by_their_files_names(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    recipes = [write(tmp_path / "int8.yaml", INT8), write(tmp_path / "thin.yaml", PRUNE)]

    result = run(source, tmp_path / "out", "--recipe", recipes[0], "--recipe", recipes[1])

    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["int8", "thin"]
    assert "thin: step 1 of 1, prune_layers" in result.stderr
    assert "s left" in result.stderr


def test_records_make_variants_again_each_by_its_folders_name(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    recipes = [write(tmp_path / "int8.yaml", INT8), write(tmp_path / "thin.yaml", PRUNE)]
    run(source, tmp_path / "out", "--recipe", recipes[0], "--recipe", recipes[1])
    record = tmp_path / "out/thin/compression.json"
    record.write_text(record.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "0.1"'))

    result = run(
        source, tmp_path / "again", *(f"--recipe={tmp_path / 'out' / name}/compression.json" for name in NAMES)
    )

    assert result.exit_code == 0
    for name in NAMES:
        made, again = (tmp_path / folder / name / "model.safetensors" for folder in ("out", "again"))
        assert made.read_bytes() == again.read_bytes()
    assert f"{record}: torch was 0.1 and is {torch.__version__}: the bytes may differ" in result.stderr
    assert result.stderr.count("the bytes may differ") == 1


@pytest.mark.parametrize(
    ("recipes", "problem"),
    [
        ({"a.yaml": "steps: []"}, "a.yaml: steps"),
        ({"a.yaml": INT8, "folder/a.yaml": PRUNE}, "two recipes have the same name"),
        ({"a.yaml": "calibration: {own_token: 3}\nsteps: [{type: quantize_int8}]"}, "calibration.own_token"),
    ],
)
def test_recipes_that_cannot_be_followed_are_one_line(tmp_path: Path, recipes: dict[str, str], problem: str) -> None:
    (tmp_path / "folder").mkdir()
    options: list[str | Path] = []
    for name, text in recipes.items():
        options += ["--recipe", write(tmp_path / name, text)]

    result = run(save(build_llama(), tmp_path / "source"), tmp_path / "out", *options)

    assert result.exit_code == 2
    assert problem in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_lines_tell_each_phase_and_now_and_then_how_far_it_is() -> None:
    written, now_s = io.StringIO(), [0.0]
    lines = _StandingLines(Console(file=written, width=200), now_s=lambda: now_s[0])

    lines.hear(stand(phase="begin", share=0.0, left_s=None))
    for second, share in enumerate((0.1, 0.2, 0.3)):
        now_s[0] = 6.0 * second
        lines.hear(stand(share=share))

    assert written.getvalue().splitlines() == [
        "int8: step 1 of 2, prune",
        "int8: step 1 of 2, prune: work, 10%, about 30 s left",
        "int8: step 1 of 2, prune: work, 30%, about 30 s left",
    ]


def test_a_terminal_shows_a_bar_with_the_time_left() -> None:
    written = io.StringIO()

    with show_standing(Console(file=written, force_terminal=True, width=120)) as hear:
        hear(stand(left_s=150.0))

    assert "int8: step 1 of 2, prune: work" in written.getvalue()
    assert "about 2 min left" in written.getvalue()


@pytest.mark.parametrize(
    ("left_s", "told"),
    [
        (None, ""),
        (0.2, "about 1 s left"),
        (59.0, "about 59 s left"),
        (600.0, "about 10 min left"),
        (8e3, "about 2 h left"),
    ],
)
def test_the_time_left_is_told_in_two_figures(left_s: float | None, told: str) -> None:
    assert describe_left(left_s) == told


def test_the_sources_own_parts_have_no_variant() -> None:
    assert describe_place(stand(variant="", part="own text", phase="begin")) == "own text"
