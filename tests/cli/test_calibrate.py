"""``ensemble calibrate`` writes what the server takes, and refuses what cannot be calibrated with its counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.calibration.calibration_file import load_calibration
from ensemble.cli.entry import app
from ensemble.spec_file import load_calibrations, load_spec
from tests.cli.evaluated import SPEC, write_evaluated


def run(spec: Path, evaluation: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", str(spec), str(evaluation), "--out", str(out), *more])


def test_the_file_it_writes_is_taken_by_the_spec_that_it_was_made_for(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path)

    result = run(spec, evaluation, tmp_path / "calibration.json")

    assert result.exit_code == 0, result.output
    spec.write_text(SPEC.replace("members: [a, b, c],", "members: [a, b, c], calibration: calibration.json,"), "utf-8")
    assert load_calibrations(load_spec(spec))["default"].num_items == 90


def test_it_prints_members_strategies_and_whether_the_ensemble_gains(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path)

    result = run(spec, evaluation, tmp_path / "calibration.json")

    calibration = load_calibration(tmp_path / "calibration.json")
    assert " ".join(calibration.gate.sentence.split()) in " ".join(result.stdout.split())
    lines = result.stdout.splitlines()
    for name, member in calibration.members.items():
        assert any(line.startswith(name) and f"{member.accuracy:.3f}" in line for line in lines)
    for name, strategy in calibration.strategies.items():
        row = next(line for line in lines if line.startswith(name))
        assert f"{strategy.held_out.ece_before:.3f}" in row
        assert f"{strategy.held_out.ece_after:.3f}" in row
    assert calibration.digest in result.stdout


def test_it_prints_what_withholding_and_asking_in_stages_would_come_to(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path)

    result = run(spec, evaluation, tmp_path / "calibration.json")

    strategy = load_calibration(tmp_path / "calibration.json").strategies["weighted_vote"]
    lines = " ".join(result.stdout.split())
    assert [one.stages[0] for one in strategy.stages] == [("a",), ("a", "b"), ("a", "b")]
    assert all(f"{one.saving:.1%}" in lines for one in strategy.stages)
    assert "the rest unless they agree" in lines
    assert all(f"{one.share:.1%}" in lines for one in strategy.held_out.sure)


@pytest.mark.parametrize(
    ("evaluated", "facts"),
    [
        ({"num_items": 19}, ("19", "20")),
        ({"silent": {"b": 0.9}}, ("b", "of 90")),
    ],
    ids=["fewer than 20 items", "a member that failed on half of them"],
)
def test_what_cannot_be_calibrated_is_refused_with_its_counts(
    tmp_path: Path, evaluated: dict[str, object], facts: tuple[str, ...]
) -> None:
    spec, evaluation = write_evaluated(tmp_path, **evaluated)  # type: ignore[arg-type]

    result = run(spec, evaluation, tmp_path / "calibration.json")

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert all(fact in result.stderr for fact in facts), result.stderr
    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.parametrize(
    ("then", "now", "facts"),
    [
        ("name: b, family: family-b, engine: {type: echo}", "name: b, family: x, engine: {type: echo}", ("b was", "x")),
        ("name: b, family: family-b", "name: b, family: family-b, prompt: {chat: true}", ("b was family-b",)),
        ("name: c", "name: d", ("1 of 3 members were not evaluated: d", "a, b, c")),
    ],
    ids=["another family", "another prompt", "another member"],
)
def test_ballots_of_other_members_than_the_specs_are_refused(
    tmp_path: Path, then: str, now: str, facts: tuple[str, ...]
) -> None:
    spec, evaluation = write_evaluated(tmp_path)
    changed = SPEC.replace(then, now).replace("[a, b, c]", "[a, b, d]" if "name: d" in now else "[a, b, c]")
    spec.write_text(changed, "utf-8")

    result = run(spec, evaluation, tmp_path / "calibration.json")

    assert result.exit_code == 2
    assert all(fact in result.stderr for fact in facts), result.stderr


def test_an_unknown_set_and_a_folder_without_evaluation_are_refused(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path)

    no_set = run(spec, evaluation, tmp_path / "calibration.json", "--set", "other")
    no_folder = run(spec, tmp_path / "nowhere", tmp_path / "calibration.json")

    assert (no_set.exit_code, no_folder.exit_code) == (2, 2)
    assert "'other'" in no_set.stderr
    assert "quiz" in no_set.stderr
    assert "ensemble evaluate" in no_folder.stderr
