"""The spec's own rules, and the only reader of the environment."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ensemble.config import Spec
from ensemble.engines.config import EchoEngineConfig, EmbeddedEngineConfig
from ensemble.errors import EnsembleError
from ensemble.router import validation
from ensemble.router.config import MAX_SEED, MAX_STOPS
from ensemble.router.request import ParameterOverrides


def build_spec(**changes: Any) -> Spec:
    """Make the smallest spec, changed."""
    members = [{"name": "a", "family": "x", "engine": {"type": "echo"}}]
    return Spec.model_validate(
        {"version": 1, "members": members, "ensembles": [{"name": "default", "members": ["a"]}], **changes}
    )


def member(**changes: Any) -> dict[str, Any]:
    """Make an echo member, changed."""
    return {"name": "a", "family": "x", "engine": {"type": "echo"}, **changes}


def test_the_smallest_spec_gets_sound_defaults() -> None:
    spec = build_spec()

    assert (spec.router.host, spec.router.port) == ("127.0.0.1", 9000)
    assert spec.members[0].engine == EchoEngineConfig()
    assert spec.members[0].weight == 1.0
    assert spec.ensembles[0].quorum.stop_early is True


def test_an_engine_that_is_not_named_is_the_embedded_one() -> None:
    spec = build_spec(members=[{"name": "a", "family": "x", "checkpoint": "org/name"}])

    assert isinstance(spec.members[0].engine, EmbeddedEngineConfig)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0},
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": float("inf")},
        {"weight": 1e308},
        {"weight": 1_000_001},
        {"replicas": 0},
        {"resources": {"cpus": -0.1}},
        {"resources": {"gpus": float("inf")}},
        {"name": ""},
        {"name": "has space"},
        {"name": "-dash"},
        {"name": "a" * 64},
        {"prompt": {"score_template": "no placeholder"}},
        {"prompt": {"generate_template": "{prompt} {prompt}"}},
    ],
)
def test_a_member_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build_spec(members=[member(**changes)])


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"max_tokens": 2**31}},
        {"limits": {"request_timeout_s": 86_401}},
        {"limits": {"member_timeout_s": 1e300}},
        {"limits": {"pick_timeout_s": 86_401}},
        {"router": {"port": 0}},
        {"router": {"port": 65_536}},
        {"limits": {"request_timeout_s": 0}},
        {"serving": {"drain_timeout_s": -1}},
        {"ensembles": []},
        {"members": []},
        {"ensembles": [{"name": "default", "members": []}]},
        {"ensembles": [{"name": "default", "members": ["a", "a"]}]},
        {"ensembles": [{"name": "default", "members": ["a"]}, {"name": "default", "members": ["a"]}]},
        {"ensembles": [{"name": "default", "members": ["a"], "quorum": {"min_weight": 1.1}}]},
        {"ensembles": [{"name": "default", "members": ["a"], "quorum": {"min_weight": float("nan")}}]},
        {"ensembles": [{"name": "default", "members": ["a"], "generation": {"temperature": 2.1}}]},
        {"ensembles": [{"name": "default", "members": ["a"], "generation": {"stop": list("abcdefghi")}}]},
    ],
)
def test_a_spec_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, EnsembleError)):
        build_spec(**changes)


def spec_with_generation(limits: dict[str, Any] | None = None, **generation: Any) -> Spec:
    """Make a spec whose ensemble draws completions so."""
    ensemble = {"name": "default", "members": ["a"], "generation": generation}
    return build_spec(ensembles=[ensemble], limits=limits or {})


@pytest.mark.parametrize(
    ("generation", "place"),
    [
        ({"max_tokens": 3_000_000_000}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"seed": -5}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_what_a_request_may_not_ask_for_no_spec_may_set(generation: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec_with_generation(**generation)

    assert ("ensembles", 0, "generation", place) in {error["loc"][:4] for error in caught.value.errors()}


def test_the_most_that_a_spec_may_set_is_what_a_request_may_ask_for() -> None:
    most: dict[str, Any] = {"max_tokens": 2**31 - 1, "seed": MAX_SEED, "stop": ("x",) * MAX_STOPS}

    spec = spec_with_generation(limits={"max_tokens": 2**31 - 1}, **most)

    assert spec.ensembles[0].generation.model_dump(include=set(most)) == most
    validation.check_parameters(ParameterOverrides(**most), spec.limits)


def test_an_ensemble_cannot_draw_more_tokens_than_a_request_may_ask_for() -> None:
    with pytest.raises(
        ValidationError, match=r"ensembles\[0\]\.generation\.max_tokens is 65, but limits.max_tokens is 64"
    ):
        spec_with_generation(limits={"max_tokens": 64}, max_tokens=65)


def test_a_weight_of_a_million_is_still_taken() -> None:
    spec = build_spec(members=[member(weight=1e6)])

    assert spec.members[0].weight == 1e6


def test_an_engine_whose_type_is_left_out_is_the_embedded_one() -> None:
    spec = build_spec(members=[member(engine={"max_batch": 4}, checkpoint="org/name")])

    assert spec.members[0].engine == EmbeddedEngineConfig(max_batch=4)


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"engine.device is cuda, but resources.gpus is 0"):
        build_spec(members=[member(engine={"type": "embedded", "device": "cuda"}, checkpoint="org/name")])


def test_cuda_with_a_fraction_of_a_gpu_is_taken() -> None:
    engine = {"type": "embedded", "device": "cuda"}

    spec = build_spec(members=[member(engine=engine, checkpoint="org/name", resources={"gpus": 0.25})])

    assert spec.members[0].resources.gpus == 0.25


def test_a_spec_cannot_be_changed() -> None:
    spec = build_spec()

    with pytest.raises(ValidationError):
        spec.name = "other"  # type: ignore[misc]
