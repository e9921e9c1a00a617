"""What vLLM says of each of its steps, added to an engine's counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.metrics.loggers import StatLoggerBase

from ensemble.engines.engine_thread import Counters

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats


class StepRecorder(StatLoggerBase):
    """Gets vLLM's statistics after every step, on the event loop, before the step's tokens reach whoever reads them.

    ``counters`` are those that are added to. ``num_wanted`` counts the sequences that were handed to vLLM and not
    taken back, so a step that ran more of them still ran an aborted one.
    """

    def __init__(self, vllm_config: VllmConfig | None = None, engine_index: int = 0) -> None:
        del vllm_config, engine_index
        self.counters = Counters()
        self.num_wanted = 0
        self.num_running = 0
        """Sequences that vLLM runs, as of its last step."""
        self._steps_since_abort = 0

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
        self.num_running = scheduler_stats.num_running_reqs
        self.counters.cache_share = scheduler_stats.kv_cache_usage
        num_served = self.num_running + num_finished
        if num_served:
            self.counters.count_pass(num_served)
        if self.num_running > self.num_wanted:
            self._steps_since_abort += 1
            self.counters.max_steps_to_abort = max(self.counters.max_steps_to_abort, self._steps_since_abort)

    def enter(self) -> None:
        """Count a sequence that vLLM is given."""
        self.num_wanted += 1

    def leave(self, *, is_aborted: bool) -> None:
        """Count a sequence that has ended or is not wanted any more."""
        self.num_wanted -= 1
        if is_aborted:
            self._steps_since_abort = 0

    def log_engine_initialized(self) -> None:
        """Say nothing: the member's start is logged as every engine's."""
