"""An engine in another process does what it does in this one, and its end is told."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ensemble.engines.engine import Engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import CheckpointError, MemberError, MemberUnavailableError
from ensemble.variants.engine_process import EngineOrder, EngineProcess
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.measure_items import ask_items
from ensemble.variants.measure_speed import SpeedTask
from ensemble.voting.ballot import Ballot, Vote
from tests.engines.embedded_runs import running
from tests.engines.tiny_checkpoints import save_random_llama
from tests.engines.vllm_runs import HEAD_DIM, NEEDS_VLLM, START_TIMEOUT
from tests.variants.test_measure_items import ITEMS

SETUP = EngineSetup(device="cpu", threads=1, max_context=256)
TASK = SpeedTask(prompt_words=20, max_tokens=5, batches=(1, 3))


def ballots(votes: tuple[Vote, ...]) -> list[tuple[str | None, tuple[float, ...]]]:
    return [(vote.choice, vote.probabilities) for vote in votes if isinstance(vote, Ballot)]


async def test_it_votes_as_it_would_in_this_process_and_is_measured_until_it_is_killed(tmp_path: Path) -> None:
    checkpoint = save_random_llama(tmp_path / "sized", hidden_size=256, intermediate_size=1024, num_hidden_layers=6)
    phases: list[str] = []

    with EngineProcess(EngineOrder(name="m", checkpoint=checkpoint, is_classifier=False, setup=SETUP)) as process:
        process.start(lambda phase, _share: phases.append(phase))
        votes = process.ask(ITEMS, on_phase=lambda phase, _share: phases.append(phase))
        by_sum = process.ask(ITEMS, prompt=PromptFormat(scoring="sum_logprob"))
        measured = process.measure_round(TASK)
        resident = process.resident_bytes()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(MemberUnavailableError, match=r"was killed \(SIGKILL\); was it out of memory"):
            process.measure_round(TASK)

    async with running(checkpoint) as engine:
        assert ballots(votes) == ballots(await ask_items(engine, "m", ITEMS))
    assert ballots(by_sum) != ballots(votes)
    assert {"load", "items"} <= set(phases)
    assert set(measured.pace_by_task) == {("prefill", 1), ("decode", 1), ("prefill", 3), ("decode", 3)}
    # Six layers of 1.05 million weights of 4 bytes; they were not there before.
    assert resident > 6 * 1.05e6 * 4


def test_a_checkpoint_that_cannot_be_loaded_is_told_as_itself(tmp_path: Path) -> None:
    order = EngineOrder(name="m", checkpoint=str(tmp_path), is_classifier=False, setup=SETUP)

    with EngineProcess(order) as process, pytest.raises(CheckpointError, match=r"config\.json"):
        process.start()


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisingSetup(EngineSetup):
    """Builds an engine that is none."""

    def build(self, checkpoint: str, member: str, *, is_classifier: bool = False) -> Engine:
        raise RuntimeError(f"no kernel for {Path(checkpoint).name} ({member}, {is_classifier})\nset this or that")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingSetup(EngineSetup):
    """Ends its process while it builds an engine: by a signal, or with an exit code."""

    by: int

    def build(self, checkpoint: str, member: str, *, is_classifier: bool = False) -> Engine:
        del checkpoint, member, is_classifier
        if self.by < 0:
            os.kill(os.getpid(), -self.by)
        os._exit(self.by)


def test_an_error_of_anybodys_is_told_as_what_it_is_and_the_process_stays(tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "x")

    with EngineProcess(EngineOrder(name="m", checkpoint=checkpoint, is_classifier=False, setup=RaisingSetup())) as one:
        with pytest.raises(MemberError) as told:
            one.start()
        resident = one.resident_bytes()

    assert told.value.problem == "RuntimeError: no kernel for x (m, False)"
    assert resident > 0


@pytest.mark.parametrize(
    ("by", "problem"),
    [
        (-signal.SIGKILL, "its process was killed (SIGKILL); was it out of memory?"),
        (-signal.SIGSEGV, "its process ended by signal 11 (Segmentation fault)"),
        (3, "its process ended with exit code 3"),
    ],
)
def test_how_a_process_ended_is_told(by: int, problem: str, tmp_path: Path) -> None:
    order = EngineOrder(name="m", checkpoint=str(tmp_path), is_classifier=False, setup=EndingSetup(by=by))

    with EngineProcess(order) as process, pytest.raises(MemberUnavailableError) as told:
        process.start()

    assert told.value.problem == problem


def test_one_that_was_not_started_says_so(tmp_path: Path) -> None:
    order = EngineOrder(name="m", checkpoint=str(tmp_path), is_classifier=False, setup=replace(SETUP, threads=2))

    with pytest.raises(MemberUnavailableError, match="not started"):
        EngineProcess(order).resident_bytes()


@NEEDS_VLLM
@START_TIMEOUT
@pytest.mark.vllm
def test_an_engine_on_vllm_is_asked_and_measured_in_a_process_too(tmp_path: Path) -> None:
    checkpoint, setup = save_random_llama(tmp_path, head_dim=HEAD_DIM), replace(SETUP, engine="vllm")
    order = EngineOrder(name="m", checkpoint=checkpoint, is_classifier=False, setup=setup)

    with EngineProcess(order) as process:
        process.start()
        votes = process.ask(ITEMS)
        # vLLM hands over together what it has written since it was last read, on a busy machine a short text at once.
        measured = process.measure_round(replace(TASK, max_tokens=100))

    assert [isinstance(vote, Ballot) for vote in votes] == [True] * len(ITEMS)
    assert set(measured.pace_by_task) == {("prefill", 1), ("decode", 1), ("prefill", 3), ("decode", 3)}
