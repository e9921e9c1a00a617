"""Starting vLLM's processes: what they read from the environment, and the cause when they fail.

vLLM raises "see the stack trace above" in this process and writes the cause, with a trace a process, into its log.
So its processes also log errors into a file, where the cause is found again; on the screen they only warn.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAUSE = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception)): *(.*)")
_ECHOES = ("EngineDeadError", "EngineGenerateError", "CancelledError", "DeprecationWarning")
"""What vLLM raises because of something else."""
MAX_CAUSE = 500
"""Characters of a cause that are told."""
_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    # Each engine binding itself to cores of its choice would put all of a machine's engines on the same ones.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TOKENIZERS_PARALLELISM": "false",
}
_FORMATTER = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}


class ProcessLog:
    """The file into which an engine's processes write their errors; it is there until ``remove``."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ensemble-vllm-"))
        self._file = self._folder / "errors.log"
        self.config_file = self._folder / "logging.json"
        self.config_file.write_text(json.dumps(self._describe()), "utf-8")

    def find_cause(self) -> str:
        """Give the first error that was logged, in one line; empty when there is none."""
        try:
            lines = self._file.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        for number, line in enumerate(lines):
            found = _CAUSE.match(line)
            if found and found[1] not in _ECHOES:
                # What pydantic has to say stands in the lines below.
                told = " ".join([found[2], *(more.strip() for more in lines[number + 1 : number + 3])])
                return f"{found[1]}: {found[2] if len(found[2]) > 40 else told}"[:MAX_CAUSE].strip()
        return ""

    def remove(self) -> None:
        """Delete the file."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _describe(self) -> dict[str, Any]:
        """Describe it to logging.config.dictConfig."""
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": _FORMATTER},
            "handlers": {
                "screen": {
                    "class": "logging.StreamHandler",
                    "level": "WARNING",
                    "formatter": "plain",
                    "filters": ["untraced"],
                },
                "errors": {
                    "class": "logging.FileHandler",
                    "filename": str(self._file),
                    "delay": True,
                    "level": "ERROR",
                    "formatter": "plain",
                },
            },
            "filters": {"untraced": {"()": "ensemble.engines.vllm_processes.Untraced"}},
            "loggers": {"vllm": {"handlers": ["screen", "errors"], "level": "WARNING", "propagate": False}},
        }


class Untraced:
    """Keeps records about failures, which end in one error of ours, off the screen."""

    def filter(self, record: Any) -> bool:
        """Say whether a record is shown."""
        return bool(record.levelname != "ERROR")


@contextmanager
def vllm_environment(log: ProcessLog, *, threads: int) -> Iterator[None]:
    """Set what vLLM and the processes that it starts inside the block read; what the operator has set stays.

    The environment is the only way: the processes are new ones, which inherit nothing else.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    own = {"VLLM_LOGGING_CONFIG_PATH": str(log.config_file)}
    if threads:
        own["OMP_NUM_THREADS"] = str(threads)
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del os.environ[name]
            else:
                os.environ[name] = old
