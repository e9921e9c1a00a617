"""``ensemble select`` writes the spec of the panel that pays off, and says plainly when one member alone would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from ensemble.spec_file import load_spec
from tests.cli.evaluated import SPEC, write_evaluated


def run(spec: Path, evaluation: Path, out: Path, *more: str) -> Result:
    strategies = ("--strategy", "weighted_vote", "--strategy", "log_pool")
    return CliRunner().invoke(app, ["select", str(spec), str(evaluation), "--out", str(out), *strategies, *more])


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("selected")
    spec, evaluation = write_evaluated(folder)
    return run(spec, evaluation, folder / "out"), folder / "out"


def test_the_chosen_spec_is_valid_and_has_the_lineup(selected: tuple[Result, Path]) -> None:
    result, out = selected

    validated = CliRunner().invoke(app, ["validate", str(out / "spec.yaml")])

    assert result.exit_code == 0, result.output
    assert validated.exit_code == 0, validated.output
    chosen = json.loads((out / "figures.json").read_text())["chosen"]
    (ensemble,) = load_spec(out / "spec.yaml").ensembles
    assert list(ensemble.members) == chosen["members"]
    assert ensemble.classify_strategy == chosen["strategy"]
    assert ensemble.calibration == str(out / "calibration.json")
    assert ensemble.asking.policy == (chosen["asking"]["rule"] if chosen["asking"] else "all")


def test_the_report_stands_alone_and_tells_the_verdict(selected: tuple[Result, Path]) -> None:
    result, out = selected

    page = (out / "report.html").read_text("utf-8")
    figures = json.loads((out / "figures.json").read_text("utf-8"))

    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    for sentence in figures["verdict"]:
        assert sentence in " ".join(result.stdout.split())
    assert figures["is_exhaustive"]
    assert figures["corrected"]["accuracy"] <= figures["corrected"]["naive"]


def test_members_that_are_not_chosen_leave_the_spec(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path, accuracies={"a": 0.95, "b": 0.4, "c": 0.4})

    result = run(spec, evaluation, tmp_path / "out", "--max-cost", "0.02")

    assert result.exit_code == 0, result.output
    assert "A SINGLE MEMBER IS THE CHOICE" in result.stdout
    chosen = load_spec(tmp_path / "out" / "spec.yaml")
    assert [member.name for member in chosen.members] == ["a"]
    assert chosen.ensembles[0].quorum.min_families == 1


def test_the_specs_error_rate_of_label_sets_is_kept_and_feedback_yields_to_confidence(tmp_path: Path) -> None:
    wanted = "members: [a, b, c], label_set_alpha: 0.2, calibration: c.json"
    spec, evaluation = write_evaluated(tmp_path, spec=SPEC.replace("members: [a, b, c]", wanted))

    result = run(spec, evaluation, tmp_path / "out")

    assert result.exit_code == 0, result.output
    (ensemble,) = load_spec(tmp_path / "out" / "spec.yaml").ensembles
    assert ensemble.label_set_alpha == 0.2
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_a_choice_that_relies_on_confidence_takes_no_feedback(tmp_path: Path) -> None:
    wanted = "members: [a, b, c], feedback: {state_dir: s}"
    spec, evaluation = write_evaluated(tmp_path, num_items=240, spec=SPEC.replace("members: [a, b, c]", wanted))

    result = run(spec, evaluation, tmp_path / "out")

    assert result.exit_code == 0, result.output
    (ensemble,) = load_spec(tmp_path / "out" / "spec.yaml").ensembles
    relies = ensemble.quorum.risk > 0 or ensemble.asking.min_confidence < 1.0
    assert (ensemble.feedback is None) == relies == ("takes no feedback" in result.stdout)


def test_a_failed_member_is_left_out_and_named(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path, silent={"c": 0.9})

    result = run(spec, evaluation, tmp_path / "out", "--max-latency-ms", "500")

    assert result.exit_code == 0, result.output
    assert "gave no ballot on half of the items or more: c" in result.stdout
    assert all("c" not in one["members"] for one in json.loads((tmp_path / "out/figures.json").read_text())["lineups"])


def test_a_limit_that_nothing_keeps_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path)

    result = run(spec, evaluation, tmp_path / "out", "--max-latency-ms", "1")

    assert result.exit_code == 2
    assert "no lineup keeps it; the nearest" in result.stderr
    assert not (tmp_path / "out").exists()


def test_references_into_the_cache_and_other_ensembles_stay_as_they_were(tmp_path: Path) -> None:
    more = "  - {name: other, members: [c]}\n"
    cached = SPEC.replace("name: a, family: family-a,", "name: a, family: family-a, checkpoint: 'cache:x',")
    spec, evaluation = write_evaluated(tmp_path, spec=cached + more, accuracies={"a": 0.95, "b": 0.4, "c": 0.4})

    result = run(spec, evaluation, tmp_path / "out", "--ensemble", "default", "--max-cost", "0.02")

    assert result.exit_code == 0, result.output
    assert "checkpoint: cache:x" in (tmp_path / "out/spec.yaml").read_text()
    written = load_spec(tmp_path / "out/spec.yaml")
    assert [one.name for one in written.ensembles] == ["default", "other"]
    assert [member.name for member in written.members] == ["a", "c"]
