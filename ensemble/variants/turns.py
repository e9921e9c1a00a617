"""Engines that take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.variants.measure_speed import Phase, SpeedRound, SpeedTask
from ensemble.variants.spread import Estimate, estimate_rounds

LEAST_WRITTEN_SHARE = 0.9
"""With less of the wanted completions written, a batch was not full for long enough to tell a decoding pace."""


class Runner(Protocol):
    """Something whose speed can be measured; EngineProcess is one."""

    def measure_round(self, task: SpeedTask) -> SpeedRound:
        """Measure it once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedFigures:
    """How fast one phase is in batches of one size: medians over rounds, with the slowest and the fastest round.

    A speed-up is the ratio to the original in the same round; both are None for an original.
    """

    phase: Phase
    batch: int
    tokens_per_s: Estimate
    tokens_per_cpu_s: Estimate
    speedup: Estimate | None
    cpu_speedup: Estimate | None


def take_turns(
    runner_by_name: Mapping[str, Runner], task: SpeedTask, num_rounds: int, *, on_phase: OnPhase = ignore_phase
) -> dict[str, tuple[SpeedRound, ...]]:
    """Measure every engine once a round; each round begins with the next one.

    Raises:
        MemberError: an engine failed, or its process ended.
    """
    names = list(runner_by_name)
    rounds: dict[str, list[SpeedRound]] = {name: [] for name in names}
    for number in range(num_rounds):
        start = number % len(names)
        for place, name in enumerate(names[start:] + names[:start]):
            on_phase(f"speed, round {number + 1} of {num_rounds}", place / len(names))
            rounds[name].append(runner_by_name[name].measure_round(task))
    return {name: tuple(measured) for name, measured in rounds.items()}


def build_speed_figures(
    rounds: Sequence[SpeedRound], original_rounds: Sequence[SpeedRound] = ()
) -> tuple[SpeedFigures, ...]:
    """Sum up an engine's rounds, beside its original's of the same turns."""
    tasks = [task for task in rounds[0].pace_by_task if all(task in one.pace_by_task for one in rounds)]
    figures = []
    for task in tasks:
        paces = [one.pace_by_task[task] for one in rounds]
        others = [one.pace_by_task[task] for one in original_rounds if task in one.pace_by_task]
        pairs = list(zip(paces, others, strict=True)) if len(others) == len(paces) else []
        figures.append(
            SpeedFigures(
                phase=task[0],
                batch=task[1],
                tokens_per_s=estimate_rounds([pace.tokens_per_s for pace in paces]),
                tokens_per_cpu_s=estimate_rounds([pace.tokens_per_cpu_s for pace in paces]),
                speedup=_ratio([(own.tokens_per_s, other.tokens_per_s) for own, other in pairs]),
                cpu_speedup=_ratio([(own.tokens_per_cpu_s, other.tokens_per_cpu_s) for own, other in pairs]),
            )
        )
    return tuple(figures)


def find_early_ends(rounds: Sequence[SpeedRound]) -> list[str]:
    """Say it when an engine's completions ended early."""
    written_share = min(one.written_share for one in rounds)
    if written_share >= LEAST_WRITTEN_SHARE:
        return []
    return [f"its completions ended early ({written_share:.0%} of the wanted tokens): its decoding pace says little"]


def _ratio(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    return estimate_rounds([own / other for own, other in pairs]) if pairs else None
