"""What Ray is told of an engine's counters."""

from __future__ import annotations

from collections import defaultdict

import pytest
from ray.serve import metrics

from ensemble import telemetry
from ensemble.engines.engine import EngineStats
from ensemble.serving.engine_figures import EngineFigures


class Told:
    """Everything that Ray was told, by the metric's name."""

    def __init__(self) -> None:
        self.counted: dict[str, float] = defaultdict(float)
        self.set: dict[str, float] = {}
        self.members: set[str] = set()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()

    def inc(self: metrics.Counter, value: float, tags: dict[str, str]) -> None:
        told.counted[self.info["name"]] += value
        told.members.add(tags["member"])

    def set_to(self: metrics.Gauge, value: float, tags: dict[str, str]) -> None:
        told.set[self.info["name"]] = value
        told.members.add(tags["member"])

    monkeypatch.setattr(metrics.Counter, "inc", inc)
    monkeypatch.setattr(metrics.Gauge, "set", set_to)
    return told


def test_counters_are_told_by_what_they_have_grown(told: Told) -> None:
    figures = EngineFigures("a")
    first = EngineStats(completion_tokens=100, aborted_tokens=7, queue_s=1.5, started_requests=4, steps=20)

    figures.tell(first)
    figures.tell(EngineStats(completion_tokens=130, aborted_tokens=7, queue_s=2.0, started_requests=5, steps=26))

    assert told.counted[telemetry.METRIC_ENGINE_TOKENS] == 130
    assert told.counted[telemetry.METRIC_ENGINE_WASTED_TOKENS] == 7
    assert told.counted[telemetry.METRIC_ENGINE_QUEUE] == 2.0
    assert told.counted[telemetry.METRIC_ENGINE_STARTED] == 5
    assert told.counted[telemetry.METRIC_ENGINE_STEPS] == 26
    assert told.members == {"a"}


def test_gauges_are_told_as_they_are(told: Told) -> None:
    figures = EngineFigures("a")
    figures.tell(EngineStats(running_requests=3, waiting_requests=9, cache_share=0.5))

    figures.tell(EngineStats(running_requests=1))

    assert told.set == {
        telemetry.METRIC_ENGINE_RUNNING: 1,
        telemetry.METRIC_ENGINE_WAITING: 0,
        telemetry.METRIC_ENGINE_CACHE_SHARE: 0.0,
    }
