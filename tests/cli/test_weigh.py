"""``ensemble weigh`` tells weights from agreement alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensemble.cli.entry import app
from tests.cli.evaluated import write_evaluated


def test_the_estimated_accuracies_are_near_the_true_ones_and_answers_are_not_read(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path, num_items=600, accuracies={"a": 0.9, "b": 0.7, "c": 0.6})

    result = CliRunner().invoke(app, ["weigh", str(spec), str(evaluation)])

    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.startswith(("a ", "b ", "c "))}
    assert [float(rows[name][2]) for name in "abc"] == pytest.approx([0.9, 0.7, 0.6], abs=0.06)
    assert float(rows["a"][3]) > float(rows["b"][3]) > float(rows["c"][3]) > 0
    assert "Uncalibrated" in result.stdout


def test_a_member_that_guesses_is_better_left_out(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path, num_items=600, accuracies={"a": 0.9, "b": 0.9, "c": 0.2})

    result = CliRunner().invoke(app, ["weigh", str(spec), str(evaluation)])

    assert [line.split()[0] for line in result.stdout.splitlines() if "leave it out" in line] == ["c"]


def test_ballots_of_other_members_are_refused(tmp_path: Path) -> None:
    spec, evaluation = write_evaluated(tmp_path)
    manifest = json.loads((evaluation / "manifest.json").read_text())
    manifest["members"][0]["fingerprint"] = "other"
    (evaluation / "manifest.json").write_text(json.dumps(manifest))

    result = CliRunner().invoke(app, ["weigh", str(spec), str(evaluation)])

    assert result.exit_code == 2
