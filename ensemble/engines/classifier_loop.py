"""The classifier's thread: encodes what waits, reads it in one batch, gives scores back.

Axes: B texts, L labels.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ensemble.engines.jobs import Job, Outcome, ReadingJob, ScoringJob
from ensemble.engines.pass_faults import PassFaults
from ensemble.errors import MemberError
from ensemble.generation import ChoiceScores

if TYPE_CHECKING:
    from collections.abc import Callable

    from ensemble.engines.classifier_loading import LoadedClassifier
    from ensemble.engines.engine_thread import Counters, Deliveries
    from ensemble.engines.inbox import Inbox

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ClassifierLoop:
    """Owns the model while it serves; a turn takes what waits, at most ``max_batch``, and reads it.

    A forward pass that raises fails its own requests; PassFaults says when it ends the engine.
    """

    model: LoadedClassifier
    inbox: Inbox
    deliver: Callable[[Deliveries], None]
    counters: Counters
    _running: list[ScoringJob] = field(default_factory=list)
    _faults: PassFaults = field(init=False)

    def __post_init__(self) -> None:
        model = self.model
        self._faults = PassFaults(model.member, lambda: model.compute_logits(model.check_texts[:1]))

    @torch.inference_mode()
    def run(self) -> None:
        """Serve until the inbox is closed or the model is broken; then fail whatever is still inside."""
        try:
            while self.inbox.wait_for_work(lambda: False):
                self._turn()
        except Exception as error:  # noqa: BLE001 the border of the thread: the fault goes to every request
            self.inbox.close(f"the engine failed: {type(error).__name__}: {error}")
            _log.exception("engine of member %s failed", self.model.member)
        finally:
            reason = self.inbox.closed_because or "the engine has ended"
            for job in (*self._running, *self.inbox.drain()):
                self._leave(job, None if job.is_aborted else MemberError(self.model.member, reason), is_aborted=True)

    def _turn(self) -> None:
        for gone in self.inbox.take_aborted() or ():
            self._leave(gone, None, is_aborted=True)
        for job in self.inbox.take_readings(self.model.max_batch):
            self._admit(job)
        for batch in self._split_batches():
            self._read(batch)

    def _admit(self, job: ReadingJob) -> None:
        self.counters.count_in(job)
        if not isinstance(job, ScoringJob) or job.is_aborted:
            self._leave(job, None, is_aborted=True)
            return
        try:
            job.trees = (self.model.encode(job.request),)
        except MemberError as refusal:
            self._leave(job, refusal)
        except Exception as error:  # noqa: BLE001 whatever the tokenizer raises concerns this request alone
            self._leave(job, MemberError(self.model.member, f"the prompt could not be encoded: {error!r}"))
        else:
            self._running.append(job)

    def _split_batches(self) -> list[list[ScoringJob]]:
        """Give all together, those of equal length where filling up changes the answers, or one by one."""
        if self.model.padding is None:
            return [[job] for job in self._running]
        by_length: dict[int, list[ScoringJob]] = defaultdict(list)
        for job in self._running:
            by_length[0 if self.model.pads_freely else len(job.trees[0].prompt)].append(job)
        return list(by_length.values())

    def _read(self, batch: list[ScoringJob]) -> None:
        for gone in [job for job in batch if job.is_aborted]:
            batch.remove(gone)
            self._leave(gone, None, is_aborted=True)
        if not batch:
            return
        try:
            logits_BL = self.model.compute_logits([job.trees[0].prompt for job in batch])
        except Exception as error:  # noqa: BLE001 whatever a model raises goes to these requests
            self._fail(batch, error)
            return
        self._faults.note_success()
        self.counters.count_pass(len(batch))
        for job, logits_L in zip(batch, logits_BL, strict=True):
            job.steps_after_abort += job.is_aborted
            self._finish(job, logits_L)

    def _fail(self, batch: list[ScoringJob], error: Exception) -> None:
        """Fail the requests of one forward pass; raises when the model is broken."""
        fault = self._faults.note_failure(error)
        for job in batch:
            self._leave(job, None if job.is_aborted else fault, is_aborted=job.is_aborted)
        self._faults.check_model()

    def _finish(self, job: ScoringJob, logits_L: torch.Tensor) -> None:
        tree = job.trees[0]
        labels = [label for (label,) in tree.choices]
        logprobs = tuple(logits_L[labels].double().log_softmax(-1).tolist())
        self.counters.prompt_tokens += len(tree.prompt)
        if job.is_aborted:
            self._leave(job, None, is_aborted=True)
        elif all(map(math.isfinite, logprobs)):
            num_tokens = (1,) * len(logprobs)
            self._leave(job, ChoiceScores(logprobs=logprobs, num_tokens=num_tokens, prompt_tokens=len(tree.prompt)))
        else:
            self._leave(job, MemberError(self.model.member, "the model gave logits that are not numbers"))

    def _leave(self, job: Job, outcome: Outcome | None, *, is_aborted: bool = False) -> None:
        """Count a request out, and hand its outcome over when somebody still waits for it."""
        counters = self.counters
        if is_aborted:
            counters.aborted_requests += 1
            counters.max_steps_to_abort = max(counters.max_steps_to_abort, job.steps_after_abort)
        elif not isinstance(outcome, MemberError):
            counters.finished_requests += 1
        counters.running_requests -= job.is_running
        self._running = [one for one in self._running if one is not job]
        self.inbox.leave()
        if outcome is not None:
            self.deliver([(job, outcome)])
