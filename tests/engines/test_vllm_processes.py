"""What vLLM's processes are told, and what is found again of why they failed; without vLLM."""

from __future__ import annotations

import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ensemble.engines.vllm_processes import MAX_CAUSE, ProcessLog, vllm_environment


@pytest.fixture
def log() -> Iterator[ProcessLog]:
    log = ProcessLog()
    vllm = logging.getLogger("vllm")
    before = (vllm.handlers[:], vllm.level, vllm.propagate)
    logging.config.dictConfig(json.loads(log.config_file.read_text("utf-8")))
    yield log
    for handler in vllm.handlers:
        handler.close()
    vllm.handlers[:], vllm.level, vllm.propagate = before
    log.remove()


def fail_with(error: Exception) -> None:
    logging.getLogger("vllm.worker").error("the worker failed", exc_info=error)


def environment_of_a_new_process() -> dict[str, str]:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True)  # noqa: S603
    environment: dict[str, str] = json.loads(done.stdout)
    return environment


def test_the_cause_is_the_first_error_and_not_what_followed_from_it(log: ProcessLog) -> None:
    fail_with(ValueError("the cache needs 3.5 GiB, and 0.1 GiB are there"))
    fail_with(RuntimeError("initialization failed, see the root cause above"))

    assert log.find_cause() == "ValueError: the cache needs 3.5 GiB, and 0.1 GiB are there"


def test_a_cause_of_several_lines_is_told_in_one_and_not_at_any_length(log: ProcessLog) -> None:
    fail_with(ValueError("1 validation error\n  max_batch\n  " + 5000 * "x"))

    cause = log.find_cause()

    assert cause.startswith("ValueError: 1 validation error max_batch xxx")
    assert len(cause) == MAX_CAUSE


def test_without_an_error_there_is_no_cause(log: ProcessLog) -> None:
    logging.getLogger("vllm.worker").warning("ValueError: only a warning")

    assert log.find_cause() == ""


def test_traces_do_not_reach_the_screen_and_warnings_do(log: ProcessLog, capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(json.loads(log.config_file.read_text("utf-8")))
    fail_with(ValueError("at length"))
    logging.getLogger("vllm.worker").warning("mind the step")

    shown = capsys.readouterr().err

    assert "mind the step" in shown
    assert "Traceback" not in shown


def test_the_environment_is_set_inside_the_block_alone_and_the_operators_word_stays(
    log: ProcessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3")
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH", raising=False)

    with vllm_environment(log, threads=2):
        inside = environment_of_a_new_process()
    after = environment_of_a_new_process()

    assert inside["OMP_NUM_THREADS"] == "2"
    assert inside["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    assert inside["VLLM_LOGGING_CONFIG_PATH"] == str(log.config_file)
    assert after["OMP_NUM_THREADS"] == "7"
    assert "VLLM_LOGGING_CONFIG_PATH" not in after
