"""What an engine learns from vLLM's statistics of each step, above all of the aborts that vLLM has yet to follow."""

from __future__ import annotations

import pytest

from tests.engines.vllm_runs import NEEDS_VLLM

pytestmark = [pytest.mark.vllm, NEEDS_VLLM]


class Steps:
    """A recorder, and vLLM's words to it."""

    def __init__(self, num_sequences: int) -> None:
        from ensemble.engines.vllm_steps import StepRecorder  # noqa: PLC0415 - imports vLLM

        self.recorder = StepRecorder()
        for _ in range(num_sequences):
            self.recorder.enter()

    def step(self, *, running: int, waiting: int = 0, deferred: int = 0) -> None:
        from vllm.v1.metrics.stats import SchedulerStats  # noqa: PLC0415 - as above

        stats = SchedulerStats(
            num_running_reqs=running, num_waiting_reqs=waiting, num_skipped_waiting_reqs=deferred, kv_cache_usage=0.5
        )
        self.recorder.record(stats, None)

    @property
    def max_steps_to_abort(self) -> int:
        return self.recorder.counters.max_steps_to_abort


def test_a_sequence_that_ended_by_itself_is_no_abort() -> None:
    steps = Steps(2)
    steps.step(running=2)
    steps.step(running=1)
    steps.recorder.leave(is_aborted=False)
    steps.step(running=1)

    assert (steps.recorder.num_left, steps.max_steps_to_abort) == (0, 0)


def test_an_aborted_sequence_is_left_until_vllm_holds_it_no_more() -> None:
    steps = Steps(3)
    steps.step(running=2, waiting=1)

    steps.recorder.leave(is_aborted=True)
    left = [steps.recorder.num_left]
    for running in (3, 2):
        steps.step(running=running)
        left.append(steps.recorder.num_left)

    assert left == [1, 1, 0]
    assert steps.max_steps_to_abort == 1


def test_an_abort_that_vllm_never_follows_shows_though_others_wait_for_its_place() -> None:
    steps = Steps(10)
    steps.step(running=2, waiting=7, deferred=1)

    steps.recorder.leave(is_aborted=True)
    for _ in range(4):
        steps.step(running=2, waiting=7, deferred=1)

    assert (steps.recorder.num_left, steps.max_steps_to_abort) == (1, 4)


def test_aborts_that_vllm_follows_do_not_hide_one_that_it_does_not() -> None:
    steps = Steps(10)
    steps.step(running=10)
    steps.recorder.leave(is_aborted=True)

    for running in (9, 8, 7):
        steps.recorder.leave(is_aborted=True)
        steps.step(running=running)
        steps.step(running=running)

    assert steps.recorder.num_left == 1
    assert steps.max_steps_to_abort > 1
