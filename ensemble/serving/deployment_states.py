"""How far an application's deployments are, in Serve's words and in those of its replicas that start."""

from __future__ import annotations

from dataclasses import dataclass

from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from ensemble.errors import EnsembleError
from ensemble.router.replica_start import ReplicaStart
from ensemble.serving.start_board import READ_TIMEOUT_S, read_starts

LAST_READ_TIMEOUT_S = 15.0
"""How long the story of a failure waits for the board: nobody asks a second time."""
_OUR_ERRORS = f"{EnsembleError.__module__}."


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """How far a deployment is: replicas that run, of those wanted, Serve's own words, and where the others are."""

    name: str
    status: str
    num_running: int
    num_wanted: int
    message: str
    starts: tuple[ReplicaStart, ...] = ()


def deployment_states(name: str, *, timeout_s: float = READ_TIMEOUT_S) -> tuple[DeploymentState, ...]:
    """Say how far each deployment of an application is; nothing when there is no such application."""
    overview = _overview(name)
    if overview is None:
        return ()
    is_whole = all(state.status.value == "HEALTHY" for state in overview.deployments.values())
    starts = {} if is_whole else read_starts(name, timeout_s=timeout_s)
    return tuple(
        DeploymentState(
            name=deployment,
            status=state.status.value,
            num_running=state.replica_states.get(ReplicaState.RUNNING, 0),
            num_wanted=sum(state.replica_states.values()),
            message=state.message,
            starts=starts.get(deployment, ()),
        )
        for deployment, state in overview.deployments.items()
    )


def is_running(name: str) -> bool:
    """Say whether an application of that name is on the cluster."""
    overview = _overview(name)
    return overview is not None and overview.status is not ApplicationStatus.NOT_STARTED


def _overview(name: str) -> ApplicationStatusOverview | None:
    return serve.status().applications.get(name)


def tell_unhealthy(name: str) -> str:
    """Tell why deployments are not healthy: where their replicas' starts are or ended, or else what Serve says."""
    states = [state for state in deployment_states(name, timeout_s=LAST_READ_TIMEOUT_S) if state.status != "HEALTHY"]
    causes = {state.name: _cause(state) for state in states}
    return "; ".join(f"{name}: {cause}" for name, cause in causes.items() if cause) or "see Ray Serve's log"


def _cause(state: DeploymentState) -> str:
    failed = [start for start in state.starts if start.problem]
    # The last line of Serve's message is the cause.
    said = state.message.strip().splitlines()[-1:]
    # Serve may have begun another try when it gives up: what that one is at says nothing.
    is_given_up = state.status == "DEPLOY_FAILED" and bool(said)
    starts = failed or ([] if is_given_up else state.starts)
    return str(starts[-1]) if starts else _without_class("".join(said))


def _without_class(said: str) -> str:
    """Take the class of one of our errors from what Python wrote of it: they speak for themselves."""
    kind, separator, words = said.partition(": ")
    return words if separator and kind.startswith(_OUR_ERRORS) else said
