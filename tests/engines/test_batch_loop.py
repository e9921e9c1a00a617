"""The engine's thread, a turn at a time, without a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.engines.batch_loop import BatchLoop
from ensemble.engines.config import EmbeddedEngineConfig
from ensemble.engines.engine_thread import Deliveries
from ensemble.engines.inbox import Inbox
from ensemble.engines.jobs import Job, ScoringJob
from ensemble.engines.model_loading import load_model
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import ScoringRequest

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True, kw_only=True, eq=False)
class FakeScoringJob(ScoringJob):
    """A job whose abort is asked for right after the engine has read that it was not."""

    inbox: Inbox
    num_reads_before_abort: int

    def __getattribute__(self, name: str) -> object:
        value = ScoringJob.__getattribute__(self, name)
        if name == "is_aborted" and not value:
            left = self.num_reads_before_abort = self.num_reads_before_abort - 1
            if left == 0:
                self.inbox.abort(self)
        return value


def _score(choice: str) -> ScoringRequest:
    """Ask for a scoring too long for one turn of the loop."""
    return ScoringRequest(request_id="s", prompt="w1", choices=(choice,))


@pytest.mark.parametrize("num_reads", range(1, 6))
def test_an_abort_between_two_looks_at_a_job_never_loses_it(checkpoint: str, tmp_path: Path, num_reads: int) -> None:
    config = EmbeddedEngineConfig(device="cpu", threads=1, max_batch=2, max_context=256, max_step_tokens=8)
    model = load_model(
        config,
        checkpoint=checkpoint,
        member="m",
        prompt_format=PromptFormat(score_template="{prompt}"),
        cache_dir=tmp_path,
    )
    inbox = Inbox(member="m", max_jobs=2)
    delivered: list[Job] = []

    def deliver(deliveries: Deliveries) -> None:
        delivered.extend(job for job, _ in deliveries)

    loop = BatchLoop(model=model, inbox=inbox, deliver=deliver)
    other = ScoringJob(request=_score("w3 " * 20))
    flipping = FakeScoringJob(request=_score("w2 " * 20), inbox=inbox, num_reads_before_abort=num_reads)
    inbox.put(flipping)
    inbox.put(other)

    with torch.inference_mode():
        loop._turn()
        inbox.abort(other)
        for _ in range(20):
            loop._turn()

    assert inbox.num_jobs == 0
    assert loop.counters.running_requests == 0
    assert loop.counters.finished_requests + loop.counters.aborted_requests == 2
