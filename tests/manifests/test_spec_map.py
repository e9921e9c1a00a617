"""What travels to the pods beside a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.manifests.overlay import read_map
from ensemble.spec_file import load_spec
from tests.calibrations import write_calibration
from tests.cli.specs import GOOD, write_spec

GROUP = "{type: fused, others: [org/two], weights_from: {calibration: CALIBRATION, members: [a, b]}}"
FUSED = f"""
version: 1
members:
  - {{name: group, family: x, checkpoint: org/one, engine: {GROUP}}}
ensembles:
  - {{name: default, members: [group]}}
"""


def write_fused(folder: Path, calibration: Path) -> Path:
    write_calibration(calibration, load_spec(write_spec(folder, GOOD)).members, strategy="soft_vote")
    return write_spec(folder, FUSED.replace("CALIBRATION", str(calibration)))


def test_the_calibration_that_gives_a_fused_group_its_weights_travels_with_the_spec(tmp_path: Path) -> None:
    spec_path = write_fused(tmp_path, tmp_path / "c.json")

    files = read_map(load_spec(spec_path), spec_path)

    assert files == {"spec.yaml": spec_path.read_bytes(), "c.json": (tmp_path / "c.json").read_bytes()}


def test_one_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    spec_path = write_fused(tmp_path, tmp_path / "elsewhere" / "c.json")

    with pytest.raises(ConfigError, match=r"weights_from\.calibration: .*c\.json lies elsewhere than the spec"):
        read_map(load_spec(spec_path), spec_path)
