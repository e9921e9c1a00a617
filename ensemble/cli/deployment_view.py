"""Draws deployments while they start, and tells what changes afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.cli.terminal import one_line, printable, seconds
from ensemble.router.replica_start import ReplicaStart

MESSAGE_WIDTH = 160


class DeploymentState(Protocol):
    """What is shown of a deployment; see ``ensemble.serving.cluster``, which would bring Ray along."""

    @property
    def name(self) -> str:
        """The deployment."""
        ...

    @property
    def status(self) -> str:
        """Serve's word for how it is."""
        ...

    @property
    def num_running(self) -> int:
        """Replicas that are up."""
        ...

    @property
    def num_wanted(self) -> int:
        """Replicas that shall be up."""
        ...

    @property
    def message(self) -> str:
        """Serve's explanation."""
        ...

    @property
    def starts(self) -> tuple[ReplicaStart, ...]:
        """Where replicas are that are not up, in the order of their last words."""
        ...


class DeploymentProgress:
    """Hears the states of all deployments again and again; shows them, with the time that each took."""

    def __init__(self, show: Callable[[DeploymentProgress], None], *, clock: Callable[[], float]) -> None:
        self._show = show
        self._clock = clock
        self._started_s = clock()
        self._up_s: dict[str, float] = {}
        self.states: tuple[DeploymentState, ...] = ()

    def hear(self, states: Sequence[DeploymentState]) -> None:
        """Take in the states as they are now."""
        self.states = tuple(states)
        for state in self.states:
            if is_up(state):
                self._up_s.setdefault(state.name, self.elapsed_s)
            else:
                self._up_s.pop(state.name, None)
        self._show(self)

    @property
    def elapsed_s(self) -> float:
        """Time since the beginning."""
        return self._clock() - self._started_s

    def took_s(self, deployment: str) -> float:
        """Time until the deployment was up, or until now when it is not."""
        return self._up_s.get(deployment, self.elapsed_s)


def is_up(state: DeploymentState) -> bool:
    """Say whether all replicas that are wanted run."""
    return state.num_running == state.num_wanted > 0


@contextmanager
def show_deployment(
    console: Console, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Sequence[DeploymentState]], None]]:
    """Show deployments coming up; yields what must hear their states."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8.0) as live:
            yield DeploymentProgress(lambda progress: live.update(draw_deployments(progress)), clock=clock).hear
    else:
        yield DeploymentChanges(console.print, clock=clock).hear


class DeploymentChanges:
    """Tells in lines which deployments changed since they were heard of last."""

    def __init__(
        self,
        tell: Callable[[Text], None],
        *,
        known: Sequence[DeploymentState] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._started_s = clock()
        self._told = {state.name: _describe(state) for state in known}

    def hear(self, states: Sequence[DeploymentState]) -> None:
        """Take in the states as they are now."""
        for state in states:
            line = _describe(state)
            if self._told.get(state.name) != line:
                self._told[state.name] = line
                self._tell(Text(f"{line} (after {seconds(self._clock() - self._started_s)})"))


def draw_deployments(progress: DeploymentProgress) -> Table:
    """Draw each deployment: replicas up of wanted, Serve's word, time."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("deployment", style="bold")
    table.add_column("up", justify="right")
    table.add_column("status")
    table.add_column("time", justify="right")
    table.add_column("", style="dim")
    for state in progress.states:
        style = "green" if is_up(state) else "yellow"
        table.add_row(
            Text(state.name),
            Text(f"{state.num_running}/{state.num_wanted}", style=style),
            Text(state.status.lower(), style=style),
            Text(seconds(progress.took_s(state.name))),
            Text(_cause(state) or _whereabouts(state), no_wrap=True),
        )
    if not progress.states:
        table.add_row(Text("starting"), Text(), Text(), Text(seconds(progress.elapsed_s)), Text())
    return table


def _describe(state: DeploymentState) -> str:
    line = f"{state.name}: {state.num_running} of {state.num_wanted} up, {state.status.lower()}"
    # A phase is told once; its share and its time would be a line for every look.
    phase = "" if is_up(state) or not state.starts else state.starts[-1].phase
    told = _cause(state) or printable(phase)
    return f"{line}: {told}" if told else line


def _whereabouts(state: DeploymentState) -> str:
    """Tell where the replicas are that are not up."""
    return "" if is_up(state) else one_line("; ".join(map(str, state.starts)), width=MESSAGE_WIDTH)


def _cause(state: DeploymentState) -> str:
    """Tell why a start failed: in the replica's own words, or else by the last line of Serve's message.

    Serve's explains mere waiting as well.
    """
    if is_up(state):
        return ""
    problems = [str(start) for start in state.starts if start.problem]
    if problems:
        return one_line(problems[-1], width=MESSAGE_WIDTH)
    lines = state.message.strip().splitlines()
    tells_failure = "failed" in state.message.lower() or "error" in state.message.lower()
    return one_line(lines[-1], width=MESSAGE_WIDTH) if lines and tells_failure else ""
