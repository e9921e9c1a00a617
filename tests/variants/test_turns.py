"""Speed-ups are ratios within a round, whatever the machine did in it."""

from __future__ import annotations

import pytest

from ensemble.variants.measure_speed import Pace, SpeedRound, SpeedTask
from ensemble.variants.turns import build_speed_figures, find_early_ends, take_turns


class FakeRunner:
    """Decodes as fast as its machine lets it at the moment."""

    def __init__(self, name: str, pace: float, log: list[str]) -> None:
        self._name, self._pace, self._log = name, pace, log

    def measure_round(self, task: SpeedTask) -> SpeedRound:
        self._log.append(self._name)
        slow_down = 1.0 + len(self._log) // 4
        pace = Pace(tokens_per_s=self._pace / slow_down, tokens_per_cpu_s=self._pace * 2)
        return SpeedRound(pace_by_task={("decode", 1): pace}, written_share=1.0)


def test_everybody_is_measured_once_a_round_and_each_round_begins_with_another() -> None:
    log: list[str] = []
    runners = {name: FakeRunner(name, 100.0, log) for name in ("a", "b", "c")}

    rounds = take_turns(runners, SpeedTask(), 3)

    assert log == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(measured) for name, measured in rounds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_within_rounds_and_then_their_median() -> None:
    own = [_round(30.0, 10.0), _round(10.0, 10.0), _round(24.0, 11.0)]
    original = [_round(20.0, 10.0), _round(5.0, 5.0), _round(20.0, 10.0)]

    (figures,) = build_speed_figures(own, original)

    assert figures.tokens_per_s.value == 24.0
    assert figures.speedup is not None
    assert figures.cpu_speedup is not None
    # Ratios 1.5, 2 and 1.2; the median of the paces would give 24 / 20.
    assert (figures.speedup.value, figures.speedup.interval.low, figures.speedup.interval.high) == (1.5, 1.2, 2.0)
    assert figures.cpu_speedup.value == pytest.approx(1.1)


def test_an_original_has_no_speed_up() -> None:
    (figures,) = build_speed_figures([_round(1.0, 1.0)])

    assert figures.speedup is None
    assert figures.cpu_speedup is None


def test_a_pace_that_a_round_lacks_is_left_out() -> None:
    silent = SpeedRound(pace_by_task={}, written_share=0.03)

    assert build_speed_figures([_round(1.0, 1.0), silent]) == ()
    assert find_early_ends([silent])
    assert not find_early_ends([_round(1.0, 1.0)])


def _round(pace: float, cpu_pace: float) -> SpeedRound:
    return SpeedRound(
        pace_by_task={("decode", 16): Pace(tokens_per_s=pace, tokens_per_cpu_s=cpu_pace)}, written_share=1.0
    )
