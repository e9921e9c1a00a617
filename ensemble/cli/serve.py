"""``ensemble serve``: a spec on a cluster, this process's own or one that runs already."""

from __future__ import annotations

import io
import logging
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ensemble.cli.deployment_view import DeploymentChanges, show_deployment
from ensemble.cli.terminal import stdout_console
from ensemble.cli.validate import SpecPath, check_runnable
from ensemble.config import Spec
from ensemble.errors import InvalidRequestError
from ensemble.planning.machine import local_node
from ensemble.planning.plan import plan_spec
from ensemble.spec_file import load_spec

if TYPE_CHECKING:
    from types import FrameType

WATCH_PERIOD_S = 5.0
"""Asking Serve costs about 0.05 s of CPU."""
SHORT_TEMP_DIR = Path("/tmp")  # noqa: S108 - a private folder is made in it
"""Ray puts sockets below its temporary folder, and a socket's path has about a hundred characters at most."""


def serve(
    spec: SpecPath,
    *,
    address: Annotated[
        str, typer.Option(help="A running Ray cluster (host:port, or auto); left out, one of this process's own.")
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it is up; only with --address, which keeps it running.")
    ] = False,
) -> None:
    """Serve a spec; with --address, an application that runs already is updated in place.

    Without --address a Ray cluster is started for this spec alone. It ends with Ctrl-C or SIGTERM, after the requests
    under way. With --address the application stays on the cluster when this command ends.
    """
    if detach and not address:
        raise InvalidRequestError(
            "--detach", "a cluster of this process's own ends with it", "give --address, or leave --detach out"
        )
    checked = load_spec(spec)
    console = stdout_console()
    with ExitStack() as stack:
        if not address:
            check_runnable(checked)
        temp_dir = None if address else stack.enter_context(private_temp_dir())
        stack.enter_context(running(checked, console, address=address, temp_dir=temp_dir))
        _print_endpoint(checked, console)
        if detach:
            return
        what = "leave; the application keeps running" if address else "drain and end"
        console.print(f"Ctrl-C to {what}", style="dim")
        _watch(checked, console)


@contextmanager
def running(spec: Spec, console: Console, *, address: str = "", temp_dir: Path | None = None) -> Iterator[None]:
    """Deploy a spec and show how that goes; at the end, drain and stop what was started here.

    Raises:
        ConfigError: the machine lacks what the spec asks for, or the application did not come up.
    """
    # Both bring Ray along, which takes a second.
    from ensemble.app import check_endpoint, deploy  # noqa: PLC0415
    from ensemble.serving.cluster import ray_cluster  # noqa: PLC0415

    if not address:
        # Before the cluster, which takes seconds to start.
        check_endpoint(spec.router)
        plan_spec(spec, (local_node(),), absent="hub")
    # What Serve says of its progress would break into ours.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    console.print(f"connecting to {address}" if address else "starting a Ray cluster", style="dim")
    with ExitStack() as quiet, ray_cluster(address, temp_dir=temp_dir), interrupted_by_sigterm():
        try:
            with show_deployment(console) as hear:
                deploy(spec, on_progress=hear, is_own_cluster=not address)
            yield
        finally:
            if not address:
                console.print("draining", style="dim")
                # Ray prints that it failed to ask a controller that it has just stopped.
                quiet.enter_context(redirect_stdout(io.StringIO()))
                quiet.enter_context(redirect_stderr(io.StringIO()))
    console.print("left" if address else "ended", style="dim")


@contextmanager
def private_temp_dir() -> Iterator[Path]:
    """Make a folder for a cluster's files, with a short path; it stays, with the logs in it, after an error."""
    parent = SHORT_TEMP_DIR if SHORT_TEMP_DIR.is_dir() else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="ensemble-", dir=parent))
    try:
        yield folder
    except Exception:
        if any(folder.iterdir()):
            typer.echo(f"Ray's logs: {folder}", err=True)
        else:
            folder.rmdir()
        raise
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: Ray's own handler would end the process on the spot."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def end_signalled() -> Iterator[Event]:
    """Give an event that Ctrl-C and SIGTERM set, instead of breaking into whatever runs at that moment."""
    ended = Event()
    before = {
        number: signal.signal(number, lambda _signal, _frame: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(spec: Spec, console: Console) -> None:
    """Tell when a deployment changes, until Ctrl-C or SIGTERM."""
    from ensemble.serving.deployment_states import deployment_states  # noqa: PLC0415 - it brings Ray along

    with end_signalled() as ended:
        changes = DeploymentChanges(console.print, known=deployment_states(spec.name))
        while not ended.wait(WATCH_PERIOD_S):
            changes.hear(deployment_states(spec.name))


def _print_endpoint(spec: Spec, console: Console) -> None:
    host = "localhost" if spec.router.host in {"127.0.0.1", "0.0.0.0", "::"} else spec.router.host  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    endpoint = f"{host}:{spec.router.port}"
    protocol = "gRPC with TLS" if spec.router.tls else "gRPC"
    console.print(f"\n{spec.name} answers on {endpoint} ({protocol})", style="bold green", markup=False)
    option = "" if endpoint == "localhost:9000" else f" --endpoint {endpoint}"
    variable = "ENSEMBLE_TLS_CA=FILE " if spec.router.tls else ""
    console.print(f'try: {variable}ensemble classify "Is the sky blue?" yes no{option}', markup=False, soft_wrap=True)
