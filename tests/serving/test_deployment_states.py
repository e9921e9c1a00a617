"""What is told of a deployment that did not come up."""

from __future__ import annotations

from ensemble.router.replica_start import ReplicaStart
from ensemble.serving.deployment_states import DeploymentState, _cause

SERVES_WORDS = "The deployment failed to start 3 times in a row. Error:\nTraceback ...\nConfigError: a key is wrong\n"
FAILED = ReplicaStart(replica_id="a", phase="process is up", share=0.0, phase_s=1.0, problem="a key is wrong")
BEGUN = ReplicaStart(replica_id="b", phase="process is up", share=0.0, phase_s=1.0)


def state(*starts: ReplicaStart, status: str = "UPDATING", message: str = "") -> DeploymentState:
    return DeploymentState(
        name="router", status=status, num_running=0, num_wanted=2, message=message, starts=tuple(starts)
    )


def test_a_start_that_failed_says_why_though_another_one_has_begun_since() -> None:
    assert _cause(state(FAILED, BEGUN)) == str(FAILED)


def test_serve_says_why_it_gave_up_when_only_another_try_is_left() -> None:
    assert _cause(state(BEGUN, status="DEPLOY_FAILED", message=SERVES_WORDS)) == "ConfigError: a key is wrong"


def test_a_start_that_is_under_way_says_where_it_is() -> None:
    assert _cause(state(BEGUN, message="it takes more than 30 s to initialize")) == str(BEGUN)


def test_without_a_start_there_are_serves_words_or_none() -> None:
    assert _cause(state(message=SERVES_WORDS)) == "ConfigError: a key is wrong"
    assert _cause(state()) == ""


def test_an_error_of_ours_is_told_without_its_class() -> None:
    said = "Traceback ...\nensemble.errors.CheckpointError: tiny.gguf: it is cut short; fetch it again\n"

    assert _cause(state(message=said)) == "tiny.gguf: it is cut short; fetch it again"
