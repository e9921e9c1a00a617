"""How deployments are shown while they start, and what is told of them afterwards."""

from __future__ import annotations

import io
from dataclasses import dataclass

from rich.console import Console

from ensemble.cli.deployment_view import DeploymentChanges, DeploymentProgress, draw_deployments, show_deployment
from ensemble.router.replica_start import ReplicaStart


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeState:
    """A deployment's state as Serve would tell it."""

    name: str = "member-a"
    status: str = "UPDATING"
    num_running: int = 0
    num_wanted: int = 1
    message: str = ""
    starts: tuple[ReplicaStart, ...] = ()


UP = FakeState(status="HEALTHY", num_running=1)
FAILED = FakeState(status="DEPLOY_FAILED", message="The replica failed to start:\nCheckpointError: x is absent")


class FakeClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Read it."""
        return self.now_s


def show(progress: DeploymentProgress) -> str:
    """Draw the deployments without colours."""
    console = Console(file=io.StringIO(), width=160)
    console.print(draw_deployments(progress))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_deployments_time_stops_when_it_is_up() -> None:
    clock = FakeClock()
    progress = DeploymentProgress(lambda _: None, clock=clock)
    progress.hear([FakeState()])
    clock.now_s = 2.0
    progress.hear([UP])
    clock.now_s = 9.0

    progress.hear([UP])

    assert progress.took_s("member-a") == 2.0
    assert "1/1" in show(progress)
    assert "2.00 s" in show(progress)


def test_a_deployment_that_goes_down_again_is_timed_again() -> None:
    clock = FakeClock()
    progress = DeploymentProgress(lambda _: None, clock=clock)
    progress.hear([UP])
    clock.now_s = 3.0

    progress.hear([FakeState()])

    assert progress.took_s("member-a") == 3.0


def test_the_cause_of_a_failure_is_shown() -> None:
    progress = DeploymentProgress(lambda _: None, clock=FakeClock())

    progress.hear([FAILED])

    assert "CheckpointError: x is absent" in show(progress)


def start(phase: str, share: float = 0.0, *, phase_s: float = 0.0, problem: str = "") -> ReplicaStart:
    """Say where a replica is."""
    return ReplicaStart(replica_id="r", phase=phase, share=share, phase_s=phase_s, problem=problem)


def test_where_a_start_is_is_shown_with_its_share_and_its_time() -> None:
    progress = DeploymentProgress(lambda _: None, clock=FakeClock())

    progress.hear([FakeState(starts=(start("download 500 MB", 0.4, phase_s=12.0),))])

    assert "download 500 MB 40% for 12 s" in show(progress)


def test_why_a_start_failed_is_shown_in_the_replicas_own_words() -> None:
    progress = DeploymentProgress(lambda _: None, clock=FakeClock())
    state = FakeState(
        status="DEPLOY_FAILED", message="Traceback\nError: cause", starts=(start("load", problem="x is cut short"),)
    )

    progress.hear([state])

    assert "x is cut short (in the phase 'load')" in show(progress)
    assert "Error: cause" not in show(progress)


def test_a_phase_is_told_once_whatever_its_share() -> None:
    told: list[str] = []
    changes = DeploymentChanges(lambda line: told.append(line.plain), clock=FakeClock())

    for one in (start("download 500 MB", 0.1), start("download 500 MB", 0.2), start("load", phase_s=3.0)):
        changes.hear([FakeState(starts=(one,))])

    assert told == [
        "member-a: 0 of 1 up, updating: download 500 MB (after 0 ms)",
        "member-a: 0 of 1 up, updating: load (after 0 ms)",
    ]


def test_what_a_start_says_cannot_write_to_the_terminal() -> None:
    told: list[str] = []
    changes = DeploymentChanges(lambda line: told.append(line.plain), clock=FakeClock())

    changes.hear([FakeState(starts=(start("load \x1b[2Jx"),))])

    assert "\x1b" not in told[0]


def test_only_changes_are_told() -> None:
    told: list[str] = []
    changes = DeploymentChanges(lambda line: told.append(line.plain), clock=FakeClock())

    for states in ([FakeState()], [FakeState()], [FakeState(message="Still waiting.")], [UP], [UP], [FAILED]):
        changes.hear(states)

    assert told == [
        "member-a: 0 of 1 up, updating (after 0 ms)",
        "member-a: 1 of 1 up, healthy (after 0 ms)",
        "member-a: 0 of 1 up, deploy_failed: CheckpointError: x is absent (after 0 ms)",
    ]


def test_what_is_known_is_not_told_again() -> None:
    told: list[str] = []
    changes = DeploymentChanges(lambda line: told.append(line.plain), known=[UP], clock=FakeClock())

    changes.hear([UP])

    assert told == []


def test_without_a_terminal_lines_are_printed() -> None:
    console = Console(file=io.StringIO(), width=100)

    with show_deployment(console, clock=FakeClock()) as hear:
        hear([UP])

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "member-a: 1 of 1 up, healthy (after 0 ms)\n"
