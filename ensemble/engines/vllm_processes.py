"""Starting vLLM's processes: what they read from the environment, the cause when they fail, and that they do not stay.

vLLM raises "see the stack trace above" in this process and writes the cause, with a trace a process, into its log.
So its processes also log errors into a file, where the cause is found again; on the screen they only warn.

A process of vLLM's waits for its next request without an end, and keeps its memory, when the one that would send it was
killed. So each watches the one that started it. Setting up the log is what runs our code in them.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.process import BaseProcess

_CAUSE = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception)): *(.*)")
_ECHOES = ("EngineDeadError", "EngineGenerateError", "CancelledError", "DeprecationWarning")
"""What vLLM raises because of something else."""
MAX_CAUSE = 500
"""Characters of a cause that are told."""
_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    # Each engine binding itself to cores of its choice would put all of a machine's engines on the same ones.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # On a CPU with AMX vLLM otherwise rounds the inputs of 4-bit layers to 8 bits, whatever the checkpoint says.
    "VLLM_CPU_INT4_W4A8": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # A forked one would set up no log of its own, and have this process's threads' locks as they happened to be.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
NAN_SWITCH = "VLLM_COMPUTE_NANS_IN_LOGITS"
_LOGGER = "vllm"
_WATCH = "end-with-parent"
_TURN = threading.Lock()
"""The environment is the whole process's, so engines that start in one process do so one after another."""
TURN_TIMEOUT_S = 1800.0
_FORMATTER = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}


class ProcessLog:
    """A folder with the file into which an engine's processes write their errors; it is there until ``remove``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ensemble-vllm-"))
        self._file = self.folder / "errors.log"
        self.config_file = self.folder / "logging.json"
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
        """Delete the folder, once this process's own vLLM logger writes there no more."""
        logger = logging.getLogger(_LOGGER)
        for handler in logger.handlers[:]:
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename) == self._file:
                logger.removeHandler(handler)
                handler.close()
        shutil.rmtree(self.folder, ignore_errors=True)

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
            "filters": {
                "untraced": {"()": "ensemble.engines.vllm_processes.enter_process", "folder": str(self.folder)}
            },
            "loggers": {_LOGGER: {"handlers": ["screen", "errors"], "level": "WARNING", "propagate": False}},
        }


class Untraced:
    """Keeps records about failures, which end in one error of ours, off the screen."""

    def filter(self, record: Any) -> bool:
        """Say whether a record is shown."""
        return bool(record.levelname != "ERROR")


def enter_process(folder: str) -> Untraced:
    """Give a process of vLLM's the filter of its log, and see to it that it and the log end with their owner."""
    parent = multiprocessing.parent_process()
    if parent is not None and all(thread.name != _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_end_with, args=(parent, folder), name=_WATCH, daemon=True).start()
    return Untraced()


@contextmanager
def vllm_environment(log: ProcessLog, *, threads: int) -> Iterator[None]:
    """Set what vLLM and the processes that it starts inside the block read; what the operator has set stays.

    The environment is the only way: the processes are new ones, which inherit nothing else.

    Raises:
        ConfigError: another engine's block does not end.
    """
    if not _TURN.acquire(timeout=TURN_TIMEOUT_S):
        raise ConfigError(
            "engine",
            f"another vLLM has been starting in this process for {TURN_TIMEOUT_S:g} s",
            "see why it does not end, or run each in a process of its own",
        )
    try:
        # Where it is killed, its sockets are left to whoever removes the folder.
        defaults = {**_DEFAULTS, "VLLM_RPC_BASE_PATH": str(log.folder)}
        own = {name: value for name, value in defaults.items() if name not in os.environ}
        own |= {"VLLM_CONFIGURE_LOGGING": "1", "VLLM_LOGGING_CONFIG_PATH": str(log.config_file)}
        if threads:
            own["OMP_NUM_THREADS"] = str(threads)
        with _environment(own):
            yield
    finally:
        _TURN.release()


@contextmanager
def counting_nan(*, is_wanted: bool) -> Iterator[bool]:
    """Have vLLM's processes that start inside the block count NaN in their logits; gives whether they do.

    What the operator has set stays, as above.
    """
    with _environment({} if NAN_SWITCH in os.environ else {NAN_SWITCH: str(int(is_wanted))}):
        yield bool(int(os.environ[NAN_SWITCH]))


@contextmanager
def _environment(own: Mapping[str, str]) -> Iterator[None]:
    """Set variables inside the block, and afterwards have those that were there before."""
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                # vLLM may have taken it away itself.
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def _end_with(parent: BaseProcess, folder: str) -> None:
    """Wait for the parent's end, which the system tells however it came, then end at once: nothing is left to do."""
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
