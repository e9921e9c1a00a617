"""Specs that refer to a calibration: where it lies, whether it fits, and what it must have."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.config import Spec
from ensemble.engines.config import FusedEngineConfig
from ensemble.errors import ConfigError
from ensemble.spec_file import load_calibrations, load_spec
from tests.calibrations import write_calibration
from tests.cli.specs import GOOD, write_spec

ENSEMBLE = "{name: default, members: [a, b]"


def load(folder: Path, rest: str = "", *, text: str = GOOD) -> Spec:
    """Load the good spec with a calibration and more keys of its ensemble."""
    return load_spec(write_spec(folder, text.replace(ENSEMBLE, f"{ENSEMBLE}, calibration: ./c.json{rest}")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_calibration(tmp_path / "c.json", load_spec(write_spec(tmp_path, GOOD)).members)
    return tmp_path


def test_a_calibration_lies_in_the_specs_folder(folder: Path) -> None:
    spec = load(folder)

    calibrations = load_calibrations(spec)

    assert spec.ensembles[0].calibration == str(folder / "c.json")
    assert calibrations["default"].to_voting().members == {"a", "b"}


def test_a_spec_without_calibration_reads_none(tmp_path: Path) -> None:
    assert load_calibrations(load_spec(write_spec(tmp_path, GOOD))) == {}


def test_a_calibration_that_is_missing_is_named(tmp_path: Path) -> None:
    spec = load(tmp_path)

    with pytest.raises(ConfigError, match=r"c\.json: it cannot be read"):
        load_calibrations(spec)


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        ("{name: b, family: y, engine: {type: echo}}", "{name: b, family: y, engine: {type: echo, seed: 9}}", "b has"),
        ("{name: b, family: y", "{name: b, family: z", "was of family 'y' and is of 'z'"),
        ("{name: default, members: [a, b]", "{name: default, members: [a]", "made with b"),
        ("{name: default", "{name: other", "made for ensemble 'default'"),
    ],
)
def test_a_calibration_made_for_something_else_is_refused_with_the_facts(
    old: str, new: str, fact: str, folder: Path
) -> None:
    text = GOOD.replace(ENSEMBLE, f"{ENSEMBLE}, calibration: ./c.json").replace(old, new)
    spec = load_spec(write_spec(folder, text))

    with pytest.raises(ConfigError) as caught:
        load_calibrations(spec)

    assert fact in caught.value.problem


@pytest.mark.parametrize(
    "change",
    [
        "engine: {type: echo, delay_s: 1.0}",
        "engine: {type: echo, max_waiting: 9}",
        "engine: {type: echo}, replicas: 3, weight: 2.0, resources: {cpus: 2}",
    ],
)
def test_what_leaves_a_members_answers_alone_leaves_its_calibration_valid(change: str, folder: Path) -> None:
    spec = load(folder, text=GOOD.replace("engine: {type: echo}", change))

    assert "default" in load_calibrations(spec)


@pytest.mark.parametrize(
    ("rest", "where"),
    [
        (", classify_strategy: stacking", "calibration"),
        (", classify_strategy: borda, abstain_below: 0.5", "calibration"),
        (", classify_strategy: borda, quorum: {risk: 0.01}", "calibration"),
        (", label_set_alpha: 0.2", "label_set_alpha"),
        (", quorum: {risk: 0.001}", "quorum.risk"),
    ],
)
def test_what_the_calibration_lacks_is_refused(rest: str, where: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_calibrations(load(folder, rest))

    assert caught.value.where == f"ensembles.default.{where}"


@pytest.mark.parametrize(
    "rest", [", label_set_alpha: 0.1", ", quorum: {risk: 0.01}", ", abstain_below: 0.5", ", classify_strategy: borda"]
)
def test_what_the_calibration_has_may_be_used(rest: str, folder: Path) -> None:
    assert "default" in load_calibrations(load(folder, rest))


def test_the_state_of_feedback_lies_in_the_specs_folder(tmp_path: Path) -> None:
    text = GOOD.replace(ENSEMBLE, f"{ENSEMBLE}, feedback: {{state_dir: ./learned}}")

    spec = load_spec(write_spec(tmp_path, text))

    assert spec.ensembles[0].feedback is not None
    assert spec.ensembles[0].feedback.state_dir == str(tmp_path / "learned")


FUSED = """
version: 1
members:
  - {name: group, family: x, checkpoint: org/one, engine: {type: fused, others: [org/two], OPTIONS}}
ensembles:
  - {name: default, members: [group]}
"""


def load_fused(folder: Path, options: str) -> FusedEngineConfig:
    """Load a fused member's engine."""
    engine = load_spec(write_spec(folder, FUSED.replace("OPTIONS", options))).members[0].engine
    assert isinstance(engine, FusedEngineConfig)
    return engine


@pytest.mark.parametrize(
    ("strategy", "method"),
    [
        ("soft_vote", "method: logit_mix_linear"),
        ("soft_vote", "method: mix_sample"),
        ("soft_vote", "method: speculative"),
        ("log_pool", "method: logit_mix_geometric"),
        ("log_pool", "method: speculative, mixture: geometric"),
    ],
)
def test_a_fused_group_has_the_weights_that_its_checkpoints_got_as_members(
    strategy: str, method: str, tmp_path: Path
) -> None:
    members = load_spec(write_spec(tmp_path, GOOD)).members
    write_calibration(tmp_path / "c.json", members, weights=(1.5, 0.25), strategy=strategy)

    engine = load_fused(tmp_path, f"{method}, weights_from: {{calibration: ./c.json, members: [b, a]}}")

    assert (engine.weights, engine.weights_from) == ((0.25, 1.5), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "weights_from: {calibration: ./c.json, members: [a, b]}, method: logit_mix_geometric",
            r"engine\.weights_from: .*c\.json was made for soft_vote, and a geometric mixture takes .* of log_pool",
        ),
        ("weights_from: {calibration: ./c.json, members: [a, c]}", r"members\[1\]: 'c': the calibration has a, b"),
        ("weights_from: {calibration: ./c.json, members: [a, b]}", r"members\[1\]: 'b': .* gives b the weight 0"),
        ("weights_from: {calibration: ./c.json, members: [a]}", r"weights_from\.members"),
        ("weights_from: {calibration: ./c.json, members: [a, b, a]}", r"names 3 members for 2 checkpoints"),
        ("weights: [1, 2], weights_from: {calibration: ./c.json, members: [a, b]}", r"goes without weights"),
        ("weights_from: {calibration: ./d.json, members: [a, b]}", r"d\.json: it cannot be read"),
    ],
)
def test_weights_that_a_fused_group_cannot_have_are_told_with_the_spec(
    options: str, message: str, tmp_path: Path
) -> None:
    members = load_spec(write_spec(tmp_path, GOOD)).members
    write_calibration(tmp_path / "c.json", members, weights=(1.5, 0.0), strategy="soft_vote")

    with pytest.raises(ConfigError, match=message):
        load_fused(tmp_path, options)
