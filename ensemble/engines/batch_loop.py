"""The engine's thread: takes requests in, runs forward passes, gives outcomes back."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import torch

from ensemble.engines.batch import Batch, Step
from ensemble.engines.embedding import EmbeddingQueue
from ensemble.engines.engine_thread import Counters, Deliveries
from ensemble.engines.jobs import ChoiceTree, EmbeddingJob, GenerationJob, Job, Outcome, ReadingJob, ScoringJob
from ensemble.engines.scoring import LongScoring, TreeSums, score_together
from ensemble.errors import MemberError
from ensemble.generation import Embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.inbox import Inbox
    from ensemble.engines.limits import Limits
    from ensemble.engines.scoring_rule import ScoringRule
    from ensemble.engines.token_encoder import TokenEncoder

_log = logging.getLogger(__name__)

AnyJob = TypeVar("AnyJob", GenerationJob, ReadingJob)


@dataclass(slots=True, kw_only=True)
class LoadedModel:
    """What the loop runs; everything about one checkpoint."""

    member: str
    passes: ForwardPasses
    encoder: TokenEncoder
    rule: ScoringRule
    eos_tokens: frozenset[int]
    limits: Limits


@dataclass(slots=True, kw_only=True)
class BatchLoop:
    """Owns the model while it serves.

    A turn of the loop runs at most one pass of each kind: prompts, short scorings, a long scoring, embeddings, one
    decoding step. So nobody starves, and an abort is seen before every pass. ``deliver`` is called
    from the engine's thread.
    """

    model: LoadedModel
    inbox: Inbox
    deliver: Callable[[Deliveries], None]
    counters: Counters = field(default_factory=Counters)
    _batch: Batch = field(init=False)
    _scorings: deque[ScoringJob] = field(default_factory=deque)
    _long_scorings: deque[LongScoring] = field(default_factory=deque)
    _embeddings: EmbeddingQueue = field(init=False)
    _deliveries: Deliveries = field(default_factory=list)

    def __post_init__(self) -> None:
        limits, passes = self.model.limits, self.model.passes
        cache = passes.new_cache(max_rows=limits.max_batch, max_tokens=limits.max_context)
        self._batch = Batch(passes, cache, limits)
        self._embeddings = EmbeddingQueue(passes, limits)

    @torch.inference_mode()
    def run(self) -> None:
        """Serve until the inbox is closed or a forward pass fails; then fail whatever is still inside."""
        try:
            while self.inbox.wait_for_work(self._is_busy):
                self._turn()
        except Exception as error:  # noqa: BLE001 the border of the thread: the fault goes to every request
            self.inbox.close(f"the engine failed: {type(error).__name__}: {error}")
            _log.exception("engine of member %s failed", self.model.member)
        finally:
            self._fail_all()

    def _is_busy(self) -> bool:
        return bool(self._batch.jobs or self._readings())

    def _readings(self) -> list[ReadingJob]:
        """List the scorings and embeddings that run."""
        return [*self._scorings, *(long.job for long in self._long_scorings), *self._embeddings.jobs]

    def _turn(self) -> None:
        self._take_waiting()
        for run_pass in (self._read_prompts, self._score_together, self._score_long, self._embed, self._decode):
            self._drop_aborted()
            run_pass()
            self._flush()

    def _take_waiting(self) -> None:
        for job in self.inbox.take_generations(self._batch.num_free):
            self._admit(job, self._begin_generation)
        num_free = self.model.limits.max_batch - len(self._readings())
        for reading in self.inbox.take_readings(num_free):
            self._admit(reading, self._begin_reading)

    def _admit(self, job: AnyJob, begin: Callable[[AnyJob], None]) -> None:
        job.is_running = True
        self.counters.running_requests += 1
        if job.is_aborted:
            self._leave_aborted(job)
            return
        try:
            begin(job)
        except MemberError as refusal:
            self._leave(job, refusal)
        except Exception as error:  # noqa: BLE001 whatever the tokenizer raises concerns this request alone
            self._leave(job, MemberError(self.model.member, f"the prompt could not be encoded: {error!r}"))

    def _begin_generation(self, job: GenerationJob) -> None:
        model = self.model
        prompt = model.encoder.encode_generation(job.request, max_context=model.limits.max_context)
        job.begin(
            prompt, decoder=model.encoder.backend, eos_tokens=model.eos_tokens, max_context=model.limits.max_context
        )
        self._batch.join(job)

    def _begin_reading(self, job: ReadingJob) -> None:
        if isinstance(job, EmbeddingJob):
            max_context = self.model.limits.max_context
            job.texts = self.model.encoder.encode_texts(job.request.texts, max_context=max_context)
            self._embeddings.add(job)
        else:
            self._begin_scoring(job)

    def _begin_scoring(self, job: ScoringJob) -> None:
        limits = self.model.limits
        prompt, choices = self.model.encoder.encode_scoring(job.request, max_context=limits.max_context)
        tree = ChoiceTree(prompt=tuple(prompt), choices=choices)
        self.model.rule.begin(job, tree, max_context=limits.max_context)
        if job.num_fed <= limits.max_step_tokens and job.num_outputs <= limits.max_outputs:
            self._scorings.append(job)
        else:
            cache = self.model.passes.new_cache(max_rows=1, max_tokens=limits.max_context)
            self._long_scorings.append(LongScoring(job, cache, limits))

    def _drop_aborted(self) -> None:
        waiting = self.inbox.take_aborted()
        if waiting is None:
            return
        # Each flag is read once: the event loop may set it at any moment, and then it sets the inbox's again.
        gone = [job for job in self._batch.jobs if job.is_aborted]
        self._batch.drop(gone)
        readings = [job for job in self._readings() if job.is_aborted]
        self._scorings = deque(job for job in self._scorings if job not in readings)
        self._long_scorings = deque(long for long in self._long_scorings if long.job not in readings)
        self._embeddings.drop(readings)
        for job in (*waiting, *gone, *readings):
            self._leave_aborted(job)

    def _read_prompts(self) -> None:
        if readers := self._batch.next_readers():
            step = self._batch.read_prompts(readers)
            self._count_pass(readers)
            self.counters.prompt_tokens += sum(len(job.prompt) for job, _ in step)
            self._accept(step)

    def _decode(self) -> None:
        if decoders := self._batch.decoders():
            step = self._batch.decode(decoders)
            self._count_pass(decoders)
            self._accept(step)

    def _score_together(self) -> None:
        count = self._num_fitting()
        if count:
            jobs = list(islice(self._scorings, count))
            sums = score_together(jobs, self.model.passes)
            self._count_pass(jobs)
            for job, sums_of_job in zip(jobs, sums, strict=True):
                self._scorings.popleft()
                self._finish_scoring(job, sums_of_job)

    def _num_fitting(self) -> int:
        """Count the scorings, longest waiting first, that one forward pass can serve."""
        room, outputs = self.model.limits.max_step_tokens, self.model.limits.max_outputs
        for count, job in enumerate(self._scorings):
            room -= job.num_fed
            outputs -= job.num_outputs
            if room < 0 or outputs < 0:
                return count
        return len(self._scorings)

    def _score_long(self) -> None:
        if self._long_scorings:
            long = self._long_scorings[0]
            sums = long.advance(self.model.passes)
            self._count_pass([long.job])
            if sums is not None:
                self._long_scorings.popleft()
                self._finish_scoring(long.job, sums)

    def _embed(self) -> None:
        if self._embeddings.jobs:
            readers = self._embeddings.advance()
            self._count_pass(readers)
            for job in readers:
                if len(job.vectors) == len(job.texts):
                    self._finish_embedding(job)

    def _count_pass(self, jobs: Sequence[Job]) -> None:
        self.counters.steps += 1
        self.counters.max_batch = max(self.counters.max_batch, len(jobs))
        for job in jobs:
            job.steps_after_abort += job.is_aborted

    def _accept(self, step: Step) -> None:
        gone = []
        for job, (token, logprob) in step:
            if not math.isfinite(logprob):
                job.is_broken = True
                gone.append(job)
                self._leave(job, MemberError(self.model.member, "the model gave logits that are not numbers"))
                continue
            chunk = job.accept(token, logprob)
            self.counters.completion_tokens += 1
            if chunk is not None and chunk.finish_reason is not None:
                gone.append(job)
                self._leave(job, chunk)
            elif chunk is not None:
                self._deliveries.append((job, chunk))
        self._batch.drop(gone)

    def _finish_embedding(self, job: EmbeddingJob) -> None:
        self.counters.prompt_tokens += job.num_tokens
        if all(math.isfinite(value) for vector in job.vectors for value in vector):
            self._leave(job, Embeddings(vectors=tuple(job.vectors), prompt_tokens=job.num_tokens))
        else:
            self._leave(job, MemberError(self.model.member, "the model gave hidden states that are not numbers"))

    def _finish_scoring(self, job: ScoringJob, sums: TreeSums) -> None:
        scores = self.model.rule.finish(job, sums)
        self.counters.prompt_tokens += scores.prompt_tokens
        if all(math.isfinite(logprob) for logprob in scores.logprobs):
            self._leave(job, scores)
        else:
            self._leave(job, MemberError(self.model.member, "the model gave logits that are not numbers"))

    def _leave_aborted(self, job: Job) -> None:
        counters = self.counters
        counters.aborted_requests += 1
        counters.aborted_tokens += job.completion_tokens
        counters.max_steps_to_abort = max(counters.max_steps_to_abort, job.steps_after_abort)
        self._count_out(job)

    def _leave(self, job: Job, outcome: Outcome) -> None:
        if not isinstance(outcome, MemberError):
            self.counters.finished_requests += 1
        self._count_out(job)
        self._deliveries.append((job, outcome))

    def _count_out(self, job: Job) -> None:
        self.counters.running_requests -= job.is_running
        self.inbox.leave()

    def _flush(self) -> None:
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, []
            self.deliver(deliveries)

    def _fail_all(self) -> None:
        reason = self.inbox.closed_because or "the engine has ended"
        for job in (*self._batch.jobs, *self._readings(), *self.inbox.drain()):
            if job.is_aborted:
                self._leave_aborted(job)
            else:
                self.counters.aborted_requests += 1
                self.counters.aborted_tokens += job.completion_tokens
                self._leave(job, MemberError(self.model.member, reason))
        self._flush()
