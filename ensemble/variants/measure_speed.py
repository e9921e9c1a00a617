"""How fast an engine reads prompts and writes completions, alone and in a batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ensemble.calibration.ask_all import first_of
from ensemble.engines.engine import Engine
from ensemble.errors import EnsembleError
from ensemble.generation import GenerationParameters, GenerationRequest
from ensemble.variants.process_clock import read_cpu_s

Phase = Literal["prefill", "decode"]
BATCHES = (1, 16)
_NAMES = ("Ada", "Boris", "Chen", "Dora", "Emil", "Fatma", "Goran", "Hana", "Ivan", "Jun", "Kofi", "Lena", "Mira")
_SENTENCE = "and then the old man walked along the road, told everyone what he had seen there, "


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedTask:
    """What is read and written: prompts of some ``prompt_words`` words, completions of ``max_tokens`` tokens."""

    prompt_words: int = 96
    max_tokens: int = 33
    batches: tuple[int, ...] = BATCHES

    def prompts(self, count: int) -> list[str]:
        """Word prompts that begin differently and that a model goes on from for long."""
        words = [f"{_NAMES[number % len(_NAMES)]} said in story {number}: {_SENTENCE * 20}" for number in range(count)]
        return [" ".join(text.split()[: self.prompt_words]) for text in words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Tokens a second, by the clock and by the processor time of the engine's processes."""

    tokens_per_s: float
    tokens_per_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRound:
    """One measurement; a decoding pace is missing where completions ended with their first token.

    ``written_share`` is how much of the wanted completions was written: a model that ends its texts early leaves the
    batch, so that its pace says little.
    """

    pace_by_task: dict[tuple[Phase, int], Pace]
    written_share: float


async def measure_round(engine: Engine, task: SpeedTask) -> SpeedRound:
    """Measure every batch once; the engine must be started, idle, and without a cache of prompts.

    Raises:
        MemberError: the engine failed.
    """
    pace_by_task: dict[tuple[Phase, int], Pace] = {}
    written: list[float] = []
    for batch in task.batches:
        prompts = task.prompts(batch)
        reading = await _Run(engine, prompts, max_tokens=1).finish()
        pace_by_task["prefill", batch] = reading.pace_of_prompts()
        writing = await _Run(engine, prompts, max_tokens=task.max_tokens).finish()
        written.append(writing.num_written / (batch * task.max_tokens))
        if (pace := writing.pace_after_first()) is not None:
            pace_by_task["decode", batch] = pace
    return SpeedRound(pace_by_task=pace_by_task, written_share=min(written))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """Where the clocks and the completions are."""

    at_s: float
    cpu_s: float
    num_tokens: int

    def pace_to(self, later: _Moment, *, num_tokens: int | None = None) -> Pace | None:
        count = later.num_tokens - self.num_tokens if num_tokens is None else num_tokens
        if not count:
            return None
        cpu_s = max(later.cpu_s - self.cpu_s, 1e-9)
        return Pace(tokens_per_s=count / (later.at_s - self.at_s), tokens_per_cpu_s=count / cpu_s)


class _Run:
    """Some completions at once, and when each had its first token."""

    def __init__(self, engine: Engine, prompts: Sequence[str], *, max_tokens: int) -> None:
        self._engine = engine
        self._prompts = prompts
        self._parameters = GenerationParameters(max_tokens=max_tokens)
        self._tokens_by_prompt: dict[int, int] = {}
        self._num_prompt_tokens = 0
        self._moments: list[_Moment] = []

    async def finish(self) -> _Run:
        self._moments.append(self._now())
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(len(self._prompts)):
                    group.create_task(self._complete(number))
        except* EnsembleError as failures:
            # All failed for the engine's one reason; a group would hide the sentence.
            raise first_of(failures) from failures
        self._moments.append(self._now())
        return self

    @property
    def num_written(self) -> int:
        return self._moments[-1].num_tokens

    def pace_of_prompts(self) -> Pace:
        first, last = self._moments[0], self._moments[-1]
        pace = first.pace_to(last, num_tokens=self._num_prompt_tokens)
        if pace is None:
            raise AssertionError("prompts have tokens")
        return pace

    def pace_after_first(self) -> Pace | None:
        """Give the pace from the moment when every completion had begun."""
        return self._moments[-2].pace_to(self._moments[-1])

    async def _complete(self, number: int) -> None:
        request = GenerationRequest(
            request_id=f"speed-{number}", prompt=self._prompts[number], parameters=self._parameters
        )
        async for chunk in self._engine.generate(request):
            is_first = number not in self._tokens_by_prompt
            self._tokens_by_prompt[number] = chunk.completion_tokens
            if is_first:
                self._num_prompt_tokens += chunk.prompt_tokens
                self._moments.append(self._now())

    def _now(self) -> _Moment:
        return _Moment(at_s=time.perf_counter(), cpu_s=read_cpu_s(), num_tokens=sum(self._tokens_by_prompt.values()))
