"""The spec's rules on how an ensemble asks, whom it asks again, what it learns; and what names a member's answers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ensemble.config import MemberConfig, Spec
from ensemble.fingerprint import fingerprint

MEMBERS = [{"name": name, "family": name, "engine": {"type": "echo"}} for name in "abcd"]
CALIBRATED = {"calibration": "c.json"}


def build_spec(**ensemble: Any) -> Spec:
    """Make a spec of four members, three of which vote."""
    config = {"name": "default", "members": ["a", "b", "c"], **ensemble}
    return Spec.model_validate({"version": 1, "members": MEMBERS, "ensembles": [config]})


@pytest.mark.parametrize(
    ("ensemble", "told"),
    [
        ({"asking": {"policy": "staged"}}, "needs 2 stages"),
        ({"asking": {"policy": "cascade", "stages": [["a", "b", "c"]]}}, "needs 2 stages"),
        ({"asking": {"policy": "cascade", "stages": [["a", "b", "c"], []]}}, "at least 1"),
        ({"asking": {"stages": [["a"], ["b", "c"]]}}, "the policy is all"),
        ({"asking": {"policy": "cascade", "stages": [["a"], ["b"]]}}, "each must stand in one stage"),
        ({"asking": {"policy": "cascade", "stages": [["a", "b"], ["b", "c"]]}}, "each must stand in one stage"),
        ({"asking": {"policy": "cascade", "stages": [["a", "b"], ["c", "d"]]}}, "each must stand in one stage"),
        ({"asking": {"policy": "cascade", "stages": [["a", "b"], ["c"]], "min_confidence": 0.9}}, "policy staged"),
        ({"asking": {"policy": "staged", "stages": [["a", "b"], ["c"]], "min_confidence": 0.9}}, "needs a calibration"),
        ({"asking": {"policy": "hedge"}}, "policy"),
        ({"quorum": {"risk": 0.01}}, "quorum.risk needs a calibration"),
        ({"quorum": {"risk": 1.0}}, "less than 1"),
        (
            {"asking": {"policy": "cascade", "stages": [["a"], ["b", "c"]]}, "quorum": {"risk": 0.01}, **CALIBRATED},
            "certified for votes of everyone asked at once",
        ),
        ({"abstain_below": 0.5}, "abstain_below needs a calibration"),
        ({"abstain_below": 1.5, **CALIBRATED}, "less than or equal to 1"),
        ({"label_set_alpha": 0.1}, "label_set_alpha needs a calibration"),
        ({"classify_strategy": "stacking"}, "stacking needs a calibration"),
        ({"generate_strategy": "judge"}, "assistants.judge"),
        ({"generate_strategy": "fuse", "assistants": {"judge": "a"}}, "assistants.fuser"),
        ({"generate_strategy": "mbr_embedding"}, "assistants.embedder"),
        ({"assistants": {"judge": "stranger"}}, "assistants.judge names 'stranger'"),
        ({"feedback": {}}, "state_dir"),
        ({"feedback": {"state_dir": "s", "audit_share": 0.0}}, "greater than 0"),
        ({"feedback": {"state_dir": "s", "learning_rate": float("nan")}}, "learning_rate"),
        ({"feedback": {"state_dir": "s", "max_shift": 11.0}}, "max_shift"),
        ({"feedback": {"state_dir": "s"}, "abstain_below": 0.5, **CALIBRATED}, "abstain_below is about the calibrated"),
        ({"feedback": {"state_dir": "s"}, "quorum": {"risk": 0.01}, **CALIBRATED}, "which feedback would move"),
    ],
)
def test_what_an_ensemble_cannot_do_is_refused_with_the_reason(ensemble: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        build_spec(**ensemble)


@pytest.mark.parametrize(
    "ensemble",
    [
        {"asking": {"policy": "staged", "stages": [["c"], ["b", "a"]]}},
        {"asking": {"policy": "staged", "stages": [["a"], ["b"], ["c"]], "min_confidence": 0.9}, **CALIBRATED},
        {"asking": {"policy": "cascade", "stages": [["a", "b"], ["c"]]}},
        {"quorum": {"risk": 0.01}, "abstain_below": 0.5, "label_set_alpha": 0.1, **CALIBRATED},
        {"classify_strategy": "stacking", **CALIBRATED},
        {"generate_strategy": "judge", "assistants": {"judge": "d"}},
        {"generate_strategy": "rank"},
        {"feedback": {"state_dir": "s"}},
        {"feedback": {"state_dir": "s"}, "classify_strategy": "stacking", **CALIBRATED},
    ],
    ids=repr,
)
def test_what_an_ensemble_can_do_is_taken(ensemble: dict[str, Any]) -> None:
    assert build_spec(**ensemble).ensembles[0].name == "default"


def test_all_ensembles_keep_their_feedback_in_one_folder() -> None:
    ensembles = [{"name": name, "members": ["a"], "feedback": {"state_dir": name}} for name in ("one", "two")]

    with pytest.raises(ValidationError, match="must be the same"):
        Spec.model_validate({"version": 1, "members": MEMBERS, "ensembles": ensembles})


def member(**changes: Any) -> MemberConfig:
    """Make a member with a model, changed."""
    return MemberConfig.model_validate({"name": "a", "family": "x", "checkpoint": "./models/small", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "b"},
        {"family": "y"},
        {"weight": 2.0},
        {"replicas": 2},
        {"resources": {"cpus": 4}},
        {"checkpoint": "/elsewhere/models/small/"},
        {"engine": {"threads": 4, "max_batch": 2, "device": "cpu", "max_waiting": 1, "max_step_tokens": 64}},
        {"engine": {"dtype": "float32"}, "prompt": {"chat": False}},
    ],
    ids=repr,
)
def test_a_fingerprint_stays_where_the_answers_do(changes: dict[str, Any]) -> None:
    assert fingerprint(member(**changes)) == fingerprint(member())


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": "./models/large"},
        {"checkpoint": "/elsewhere/small"},
        {"checkpoint": "org/small"},
        {"checkpoint": "models/small@v2"},
        {"checkpoint": "package:models/small.gguf"},
        {"engine": {"dtype": "bfloat16"}},
        {"engine": {"add_bos": True}},
        {"engine": {"type": "echo"}},
        {"engine": {"type": "echo", "seed": 1}},
        {"prompt": {"chat": True}},
        {"prompt": {"score_template": "{prompt} "}},
        {"prompt": {"choice_prefix": ""}},
    ],
    ids=repr,
)
def test_a_fingerprint_changes_with_the_answers(changes: dict[str, Any]) -> None:
    others = [fingerprint(member()), fingerprint(member(engine={"type": "echo", "seed": 2}))]

    assert fingerprint(member(**changes)) not in others
    assert len(fingerprint(member(**changes))) == 16
