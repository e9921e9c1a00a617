"""Running a script with another environment's Python: heard while it runs, ended with whoever waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_TAIL = 500
"""Characters of what a script wrote to standard error that are told when it fails."""


def default_compress_python() -> Path:
    """Give the Python of the environment that ``make compress-env`` builds beside the running one."""
    return Path(sys.prefix).parent / ".venv-compress" / "bin" / "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPython:
    """Another environment's Python, and for how long a script of ours may run there."""

    executable: Path
    where: str
    """Who wants it, for errors."""
    timeout_s: float

    def check(self) -> None:
        """See that there is such a Python.

        Raises:
            ConfigError: there is none.
        """
        if not os.access(self.executable, os.X_OK) or not self.executable.is_file():
            raise ConfigError(
                self.where,
                f"{self.executable} is no Python",
                "build the environment (make compress-env), or name its Python in ENSEMBLE_COMPRESS_PYTHON",
            )

    def run(self, script: Path, folder: Path, *, on_message: Callable[[dict[str, Any]], None]) -> None:
        """Run a script on a folder; every JSON object that it prints on a line of its own is a message.

        The script ends when this process does, however that comes: its standard input is closed then, which it
        watches. Whatever is raised here, by ``on_message`` too, ends it with all that it has started.

        Raises:
            ConfigError: it could not be started, took too long, or ended in another way than with status 0.
        """
        self.check()
        log = folder / "stderr.log"
        with self._started(script, folder, log) as process, self._time_limited(process) as late:
            for line in process.stdout or ():
                if (message := _read_message(line)) is not None:
                    on_message(message)
            status = process.wait()
        if late.is_set():
            raise ConfigError(
                self.where, f"it took longer than {self.timeout_s:g} s", "give timeout_s more, or less text"
            )
        if status:
            raise ConfigError(self.where, _tell_end(status, log), "see what the message says, and mend that")

    @contextmanager
    def _time_limited(self, process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
        """End the process when its time is over; the event tells."""
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(self.timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    @contextmanager
    def _started(self, script: Path, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start the script; it is gone afterwards.

        Isolated (-I), so that neither this environment's paths nor the modules beside the script get in.
        """
        command = [str(self.executable), "-I", str(script), str(folder)]
        with log.open("wb") as errors:
            try:
                process = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            except OSError as error:
                remedy = "build the environment again (make compress-env)"
                raise ConfigError(self.where, f"{self.executable} cannot be run ({error})", remedy) from error
        with process:
            try:
                yield process
            finally:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started; nothing where it has ended already."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _read_message(line: bytes) -> dict[str, Any] | None:
    """Read a line; libraries print others in between."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _tell_end(status: int, log: Path) -> str:
    """Say how a script ended, by the last that it wrote to standard error."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    tail = " / ".join(line for line in lines[-6:] if line)[-MAX_TAIL:]
    how = f"it was ended by signal {-status}" if status < 0 else f"it failed with status {status}"
    return f"{how}: {tail}" if tail else how
