"""What vLLM's processes are told, and what is found again of why they failed; without vLLM."""

from __future__ import annotations

import json
import logging
import logging.config
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ensemble.engines.vllm_processes import MAX_CAUSE, ProcessLog, vllm_environment

END_TIMEOUT_S = 20.0
PARENT = """
import json, logging.config, multiprocessing, os, time
from pathlib import Path
from ensemble.engines.vllm_processes import ProcessLog, vllm_environment

def wait_for_requests():
    # As vLLM does when it is imported.
    logging.config.dictConfig(json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text("utf-8")))
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with vllm_environment(ProcessLog(), threads=1):
        multiprocessing.get_context("spawn").Process(target=wait_for_requests, daemon=True).start()
    time.sleep(600)
"""


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


def test_who_logs_after_a_log_is_removed_is_not_stopped(log: ProcessLog) -> None:
    fail_with(ValueError("told"))
    log.remove()

    fail_with(ValueError("too late"))

    assert not log.folder.exists()


def environment_of_a_new_process() -> dict[str, str]:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True)  # noqa: S603
    environment: dict[str, str] = json.loads(done.stdout)
    return environment


def log_config_of_a_new_process() -> str | None:
    return environment_of_a_new_process().get("VLLM_LOGGING_CONFIG_PATH")


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
    for name in ("VLLM_LOGGING_CONFIG_PATH", "VLLM_WORKER_MULTIPROC_METHOD"):
        monkeypatch.delenv(name, raising=False)

    with vllm_environment(log, threads=2):
        inside = environment_of_a_new_process()
    after = environment_of_a_new_process()

    assert inside["OMP_NUM_THREADS"] == "2"
    assert inside["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    assert inside["VLLM_LOGGING_CONFIG_PATH"] == str(log.config_file)
    assert inside["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert inside["VLLM_RPC_BASE_PATH"] == str(log.folder)
    assert after["OMP_NUM_THREADS"] == "7"
    assert not {"VLLM_LOGGING_CONFIG_PATH", "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_RPC_BASE_PATH"} & set(after)


def test_a_variable_that_vllm_takes_away_is_no_error(log: ProcessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH", raising=False)

    with vllm_environment(log, threads=0):
        monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH")

    assert log_config_of_a_new_process() is None


def test_engines_that_start_at_the_same_time_have_the_environment_one_after_the_other(
    log: ProcessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH", raising=False)
    second_log, has_come = ProcessLog(), threading.Event()
    read: list[str | None] = []

    def start_second() -> None:
        has_come.set()
        with vllm_environment(second_log, threads=0):
            read.append(log_config_of_a_new_process())

    second = threading.Thread(target=start_second)
    with vllm_environment(log, threads=0):
        second.start()
        has_come.wait()
        second.join(0.2)
        read_inside = [*read, log_config_of_a_new_process()]
    second.join(END_TIMEOUT_S)
    second_log.remove()

    assert (read_inside, read) == ([str(log.config_file)], [str(second_log.config_file)])
    assert log_config_of_a_new_process() is None


def test_a_process_whose_parent_is_killed_ends_and_takes_its_log_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = tmp_path / "parent.py"
    program.write_text(PARENT, "utf-8")
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:  # noqa: S603 - the program above
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        was_alive = child.is_running()

        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs([child], timeout=END_TIMEOUT_S)
        # Whoever adopted it may leave it as a zombie.
        left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            process.kill()

    assert was_alive
    assert left == []
    assert list(tmp_path.iterdir()) == [program]
