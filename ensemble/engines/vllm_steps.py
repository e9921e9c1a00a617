"""What vLLM says of each of its steps, added to an engine's counters."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerBase

from ensemble.engines.engine_thread import Counters

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

_MAX_ABORTS = 4096
"""Aborts that are followed up; of more between two steps, the oldest are forgotten."""


def drop_own_metrics(llm: AsyncLLM) -> None:
    """Have vLLM tell its statistics to no metrics of its own: nobody reads them here, and each token would be one."""
    if llm.logger_manager is not None:
        loggers = llm.logger_manager.stat_loggers
        loggers[:] = [logger for logger in loggers if not isinstance(logger, PrometheusStatLogger)]


class StepRecorder(StatLoggerBase):
    """Gets vLLM's statistics after every step, on the event loop, before the step's tokens reach whoever reads them.

    ``counters`` are those that are added to. ``num_wanted`` counts the sequences that were handed to vLLM and not
    taken back; what vLLM holds beyond them was aborted. A sequence that is on its way to vLLM hides one of these.
    """

    def __init__(self, vllm_config: VllmConfig | None = None, engine_index: int = 0) -> None:
        del vllm_config, engine_index
        self.counters = Counters()
        self.num_wanted = 0
        self.num_held = 0
        """Sequences that vLLM runs or has waiting, as of its last step."""
        self.num_waiting = 0
        """Sequences that vLLM has waiting, as of its last step."""
        self._num_steps = 0
        self._steps_before_abort: deque[int] = deque(maxlen=_MAX_ABORTS)
        """Of the aborts that vLLM has yet to follow, oldest first: how many steps there had been."""

    @property
    def num_left(self) -> int:
        """Aborted sequences that vLLM still holds, as of its last step."""
        return max(0, self.num_held - self.num_wanted)

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        """Count one step."""
        if scheduler_stats is None:
            return
        num_finished = len(iteration_stats.finished_requests) if iteration_stats is not None else 0
        num_running = scheduler_stats.num_running_reqs
        self.num_waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
        self.num_held = num_running + self.num_waiting
        self.counters.cache_share = scheduler_stats.kv_cache_usage
        num_served = num_running + num_finished
        if num_served:
            self.counters.count_pass(num_served)
        self._follow_aborts()

    def enter(self) -> None:
        """Count a sequence that vLLM is given."""
        self.num_wanted += 1

    def leave(self, *, is_aborted: bool) -> None:
        """Count a sequence that has ended or is not wanted any more."""
        self.num_wanted -= 1
        if is_aborted:
            self._steps_before_abort.append(self._num_steps)

    def log_engine_initialized(self) -> None:
        """Say nothing: the member's start is logged as every engine's."""

    def _follow_aborts(self) -> None:
        """Forget the aborts that vLLM has followed, oldest first as it does; count the steps of the oldest one left."""
        self._num_steps += 1
        while len(self._steps_before_abort) > self.num_left:
            self._steps_before_abort.popleft()
        if self._steps_before_abort:
            num_steps = self._num_steps - self._steps_before_abort[0]
            self.counters.max_steps_to_abort = max(self.counters.max_steps_to_abort, num_steps)
