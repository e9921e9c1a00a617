from __future__ import annotations

import json
from pathlib import Path

import pytest

from ensemble.calibration.calibration_file import Calibration, check_fits, load_calibration, save_calibration
from ensemble.calibration.fit import FitOptions, fit_calibration
from ensemble.errors import ConfigError
from tests.calibration.simulated import Population, simulate, voters_of

PAIR = Population(skills=(2.0, 1.5), families=("a", "b"))
FINGERPRINTS = {"m0": "f0", "m1": "f1"}
FAMILIES = {"m0": "a", "m1": "b"}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    options = FitOptions(
        ensemble="trivia",
        fingerprint_by_member=FINGERPRINTS,
        strategies=("weighted_vote",),
        risk_delta=0.2,
        withhold_below=0.4,
        cost_by_member={"m0": 2.0, "m1": 1.0},
    )
    return fit_calibration(simulate(PAIR, 60, seed=1), voters_of(PAIR), options=options)


def test_what_is_saved_is_what_is_loaded(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"

    save_calibration(calibration, path)

    assert load_calibration(path) == calibration
    assert load_calibration(path).digest == calibration.digest
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_the_vote_gets_every_parameter(calibration: Calibration) -> None:
    voting = calibration.to_voting()

    strategy, record = voting.by_strategy["weighted_vote"], calibration.strategies["weighted_vote"]
    assert voting.digest == calibration.digest
    assert voting.members == {"m0", "m1"}
    assert voting.by_member["m0"].temperature == calibration.members["m0"].temperature
    assert strategy.weight_by_member == record.weight_by_member
    assert (strategy.kappa, strategy.withhold_below) == (record.kappa, 0.4)
    assert strategy.conformal_threshold == record.conformal_threshold
    assert [one.bound for one in strategy.certificates] == [one.bound for one in record.certificates]


def test_it_says_what_asking_the_cheapest_first_saves_and_whether_it_is_refused(calibration: Calibration) -> None:
    (staged,) = calibration.strategies["weighted_vote"].stages

    assert staged.stages == (("m1",), ("m0",))
    assert staged.rule == "staged"
    assert staged.saving == pytest.approx(2.0 / 3.0 * (2.0 - staged.mean_asked))
    assert staged.is_refused == (
        staged.full_accuracy > staged.accuracy
        and (staged.p_value < 0.05 or staged.full_accuracy - staged.accuracy > 0.01)
    )


def test_it_says_how_many_answers_are_left_when_less_sure_ones_are_withheld(calibration: Calibration) -> None:
    sure = calibration.strategies["weighted_vote"].held_out.sure

    assert [one.min_confidence for one in sure] == [0.4, 0.5, 0.7, 0.9]
    assert [one.share for one in sure] == sorted((one.share for one in sure), reverse=True)


def test_the_vote_hears_for_what_questions_it_was_made(calibration: Calibration) -> None:
    of_short_answers = calibration.model_copy(update={"has_choices": False}).to_voting()
    of_labels = calibration.model_copy(update={"labels": ("no", "yes")}).to_voting()

    assert calibration.to_voting().has_choices
    assert not of_short_answers.has_choices
    assert of_labels.labels == ("no", "yes")


def test_stages_that_do_not_name_the_members_are_refused(calibration: Calibration, tmp_path: Path) -> None:
    content = calibration.model_dump(mode="json")
    content["strategies"]["weighted_vote"]["stages"][0]["stages"] = [["m1"], ["m7"]]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))

    with pytest.raises(ConfigError, match="stages of weighted_vote do not name the members"):
        load_calibration(path)


def test_another_content_has_another_digest(calibration: Calibration) -> None:
    changed = calibration.model_copy(update={"data_digest": "other"})

    assert changed.digest != calibration.digest


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "it is no calibration"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (b"[]", "it is no calibration"),
        (b'{"version": 2}', "version"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=problem):
        load_calibration(path)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_calibration(tmp_path / "none.json")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_kappa_that_is_not_above_zero_is_refused(calibration: Calibration, tmp_path: Path, value: float) -> None:
    content = calibration.model_dump(mode="json")
    content["strategies"]["weighted_vote"]["kappa"] = value
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))

    with pytest.raises(ConfigError, match="it is no calibration"):
        load_calibration(path)


def test_weights_for_other_members_are_refused(calibration: Calibration, tmp_path: Path) -> None:
    content = calibration.model_dump(mode="json")
    content["strategies"]["weighted_vote"]["weight_by_member"]["m7"] = 1.0
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))

    with pytest.raises(ConfigError, match="not for the members"):
        load_calibration(path)


def test_it_fits_what_it_was_made_for(calibration: Calibration) -> None:
    check_fits(calibration, ensemble="trivia", fingerprint_by_member=FINGERPRINTS, family_by_member=FAMILIES, facts={})


@pytest.mark.parametrize(
    ("ensemble", "fingerprints", "families", "problem"),
    [
        ("other", FINGERPRINTS, FAMILIES, "made for ensemble 'trivia', not 'other'"),
        ("trivia", {"m0": "f0"}, FAMILIES, "made with m1, which the ensemble lacks"),
        ("trivia", {**FINGERPRINTS, "m2": "f2"}, {**FAMILIES, "m2": "c"}, "knows nothing about m2"),
        ("trivia", {**FINGERPRINTS, "m1": "f9"}, FAMILIES, "m1 has changed"),
        ("trivia", FINGERPRINTS, {"m0": "a", "m1": "a"}, "m1 was of family 'b' and is of 'a'"),
    ],
)
def test_it_is_refused_for_anything_else(
    calibration: Calibration, ensemble: str, fingerprints: dict[str, str], families: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_fits(
            calibration, ensemble=ensemble, fingerprint_by_member=fingerprints, family_by_member=families, facts={}
        )
