"""A member engine's own counters as Ray Serve metrics (Prometheus)."""

from __future__ import annotations

from ray.serve import metrics

from ensemble import telemetry
from ensemble.engines.engine import EngineStats

_GAUGE_BY_FIELD = {
    "running_requests": telemetry.METRIC_ENGINE_RUNNING,
    "waiting_requests": telemetry.METRIC_ENGINE_WAITING,
    "cache_share": telemetry.METRIC_ENGINE_CACHE_SHARE,
}
_COUNTER_BY_FIELD = {
    "started_requests": telemetry.METRIC_ENGINE_STARTED,
    "queue_s": telemetry.METRIC_ENGINE_QUEUE,
    "finished_requests": telemetry.METRIC_ENGINE_FINISHED,
    "aborted_requests": telemetry.METRIC_ENGINE_ABORTED,
    "prompt_tokens": telemetry.METRIC_ENGINE_PROMPT_TOKENS,
    "cached_prompt_tokens": telemetry.METRIC_ENGINE_CACHED_TOKENS,
    "completion_tokens": telemetry.METRIC_ENGINE_TOKENS,
    "aborted_tokens": telemetry.METRIC_ENGINE_WASTED_TOKENS,
    "steps": telemetry.METRIC_ENGINE_STEPS,
    "batched_requests": telemetry.METRIC_ENGINE_BATCHED,
}


class EngineFigures:
    """Tells Ray what an engine has counted since the last time; made inside a replica.

    The engine counts anyway, so nothing is told per request: whoever owns this calls ``tell`` every few seconds.
    """

    def __init__(self, member: str) -> None:
        self._tags = {"member": member}
        self._told = EngineStats()
        # Ray's annotation says one key; Serve adds keys of its own.
        self._gauges = {
            field: metrics.Gauge(name, f"The engine's {field} now.", tag_keys=("member",))
            for field, name in _GAUGE_BY_FIELD.items()
        }
        self._counters = {
            field: metrics.Counter(name, f"The engine's {field}.", tag_keys=("member",))
            for field, name in _COUNTER_BY_FIELD.items()
        }

    def tell(self, stats: EngineStats) -> None:
        """Tell Ray the counters as they are."""
        for field, gauge in self._gauges.items():
            gauge.set(getattr(stats, field), tags=self._tags)
        for field, counter in self._counters.items():
            grown = getattr(stats, field) - getattr(self._told, field)
            if grown > 0:
                counter.inc(grown, tags=self._tags)
        self._told = stats
