"""The command line starts without the heavy libraries, and says by its exit code whose fault an error is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.cli.failure import exit_code_of, failure_line
from ensemble.errors import (
    CheckpointError,
    ConfigError,
    EndpointError,
    EnsembleError,
    InvalidRequestError,
    QuorumError,
    UnknownNameError,
)

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ("ray", "torch", "transformers")


def test_no_heavy_library_is_imported_for_the_light_commands() -> None:
    program = f"import sys, ensemble.cli; print([name for name in {HEAVY!r} if name in sys.modules])"

    printed = subprocess.run(  # noqa: S603 - this test's own program
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (InvalidRequestError("choices", "there is 1", "send 2"), 2),
        (UnknownNameError("ensemble", "there is none", "use another"), 2),
        (ConfigError("router.port", "it is taken", "choose another"), 2),
        (CheckpointError("x", "it is absent", "fetch it"), 2),
        (EndpointError("localhost:9000", "UNAVAILABLE", "refused"), 1),
        (QuorumError("default", 0, 3, "late"), 1),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(error: EnsembleError, exit_code: int) -> None:
    assert exit_code_of(error) == exit_code


def test_an_error_of_many_lines_is_told_in_one() -> None:
    error = ConfigError("x", "first\n  second", "mend it")

    assert failure_line(error) == "ensemble: x: first second; mend it"


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("pyarrow", ("batch", "deploy/specs/echo.yaml", "{folder}/in.parquet", "out.jsonl"), "batch"),
        ("numpy", ("evaluate", "deploy/specs/echo.yaml", "in.jsonl", "--out", "out"), "calibration"),
    ],
)
def test_a_package_that_is_not_installed_is_one_line_with_what_to_install(
    package: str, arguments: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    (tmp_path / "in.parquet").touch()
    given = [argument.format(folder=tmp_path) for argument in arguments]
    program = f"import sys; sys.modules[{package!r}] = None; from ensemble.cli.entry import main; main()"

    done = subprocess.run(  # noqa: S603 - this test's own program
        [sys.executable, "-c", program, *given], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )

    assert done.returncode == 2
    told = f'it needs the package {package}; pip install "ensemble-serving[{extra}]"'
    assert done.stderr.splitlines()[-1] == f"ensemble: ensemble {arguments[0]}: {told}"


def test_ctrl_c_ends_with_130_and_without_a_traceback() -> None:
    # A process of its own, which interrupts itself where a command would be waiting.
    program = (
        "import signal\n"
        "import ensemble.cli.classify as command, ensemble.cli.entry as entry\n"
        "command.run_vote = lambda *args, **kwargs: signal.raise_signal(signal.SIGINT)\n"
        "entry.main()\n"
    )

    ended = subprocess.run(  # noqa: S603 - this test's own program
        [sys.executable, "-c", program, "classify", "q", "yes", "no"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
