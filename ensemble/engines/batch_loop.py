"""The engine's thread: takes requests in, runs forward passes, gives outcomes back."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch

from ensemble.engines.batch import Batch, Step
from ensemble.engines.cache_probe import CacheProbe
from ensemble.engines.engine_thread import Counters, Deliveries
from ensemble.engines.jobs import ChoiceTree, EmbeddingJob, GenerationJob, Job, Outcome, ReadingJob
from ensemble.engines.pass_faults import PassFaults
from ensemble.engines.readings import Finished, Readings
from ensemble.engines.room_turns import RoomTurns
from ensemble.errors import MemberError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.inbox import Inbox
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache
    from ensemble.engines.scoring_rule import ScoringRule
    from ensemble.engines.token_encoder import TokenEncoder

_log = logging.getLogger(__name__)

AnyJob = TypeVar("AnyJob", GenerationJob, ReadingJob)
Chosen = TypeVar("Chosen", bound=Job)
Results = TypeVar("Results")


class PassAbandonedError(Exception):
    """A pass that nobody waits for any more was left between two layers."""


@dataclass(slots=True, kw_only=True)
class LoadedModel:
    """What the loop runs; everything about one checkpoint."""

    member: str
    passes: ForwardPasses
    encoder: TokenEncoder
    rule: ScoringRule
    eos_tokens: frozenset[int]
    limits: Limits
    new_batch: Callable[[ForwardPasses, PagedCache, Limits], Batch] = Batch


@dataclass(slots=True, kw_only=True)
class BatchLoop:
    """Owns the model while it serves.

    A turn of the loop runs at most one pass of each kind: prompts, short scorings, a long scoring, embeddings, one
    decoding step. RoomTurns says who gets room in the cache. So nobody starves, and an abort is seen before every pass,
    and in it where all its requests are aborted. A pass that fails fails its own requests; PassFaults says when it ends
    the engine. ``deliver`` is called from the engine's thread.
    """

    model: LoadedModel
    inbox: Inbox
    deliver: Callable[[Deliveries], None]
    counters: Counters = field(default_factory=Counters)
    _cache: PagedCache = field(init=False)
    _batch: Batch = field(init=False)
    _readings: Readings = field(init=False)
    _room: RoomTurns = field(init=False)
    _probe: CacheProbe = field(init=False)
    _faults: PassFaults = field(init=False)
    _deliveries: Deliveries = field(default_factory=list)
    _in_pass: Sequence[Job] = ()

    def __post_init__(self) -> None:
        model, limits, passes = self.model, self.model.limits, self.model.passes
        self._cache = passes.new_cache(num_tokens=limits.cache_tokens, reuses_prefixes=limits.prefix_caching)
        self._batch = model.new_batch(passes, self._cache, limits)
        self._readings = Readings(passes, self._cache, limits, rule=model.rule, member=model.member)
        self._room = RoomTurns([self._batch, *self._readings.room_claimants])
        self._probe = CacheProbe(passes, self._cache, member=model.member)
        self._faults = PassFaults(model.member, self._probe.check)
        self._cache.watch(self._check_awaited)

    @torch.inference_mode()
    def allocate(self) -> None:
        """Take the memory of the whole cache, and use it once, before anybody is served.

        Raises:
            ConfigError: there is not that much.
            CheckpointError: the model's logits are not numbers.
        """
        self._probe.allocate()

    @torch.inference_mode()
    def run(self) -> None:
        """Serve until the inbox is closed or the model is broken; then fail whatever is still inside."""
        try:
            while self.inbox.wait_for_work(lambda: bool(self._jobs())):
                self._turn()
        except Exception as error:  # noqa: BLE001 the border of the thread: the fault goes to every request
            self.inbox.close(f"the engine failed: {type(error).__name__}: {error}")
            _log.exception("engine of member %s failed", self.model.member)
        finally:
            self._fail_all()

    def _jobs(self) -> list[Job]:
        return [*self._batch.jobs, *self._readings.jobs]

    def _turn(self) -> None:
        self._take_waiting()
        self._room.share_out()
        readings = self._readings
        self._run_pass(self._batch.next_readers, self._batch.read_prompts, self._accept_first)
        self._run_pass(readings.choose_short, readings.score_short, self._finish)
        self._run_pass(readings.choose_long, readings.score_long, self._finish)
        self._run_pass(readings.choose_embeddings, readings.embed, self._finish)
        self._run_pass(self._batch.decoders, self._batch.decode, self._accept)

    def _run_pass(
        self,
        choose: Callable[[], Sequence[Chosen]],
        read: Callable[[Sequence[Chosen]], Results],
        accept: Callable[[Results], None],
    ) -> None:
        self._drop_aborted()
        if jobs := choose():
            self._in_pass = jobs
            self._cache.begin_pass()
            try:
                results = read(jobs)
            except PassAbandonedError:
                self._abandon_pass(jobs)
            except Exception as error:  # noqa: BLE001 whatever a model raises goes to these requests
                self._fail_pass(jobs, error)
            else:
                self._faults.note_success()
                self._count_pass(jobs)
                accept(results)
            finally:
                self._in_pass = ()
        self._flush()

    def _check_awaited(self) -> None:
        if self._in_pass and all(job.is_aborted for job in self._in_pass):
            raise PassAbandonedError

    def _abandon_pass(self, jobs: Sequence[Job]) -> None:
        """Drop aborted requests in the middle of their pass: nobody will see whether what it wrote were numbers."""
        self._cache.wipe_pass()
        self._drop(jobs)
        for job in jobs:
            self._leave_aborted(job)

    def _fail_pass(self, jobs: Sequence[Job], error: Exception) -> None:
        # The check of the model below is no pass of these requests, which may be aborted by now.
        self._in_pass = ()
        fault = self._faults.note_failure(error)
        for job in jobs:
            job.is_broken = True
        self._drop(jobs)
        for job in jobs:
            if job.is_aborted:
                self._leave_aborted(job)
            else:
                self._leave(job, fault)
        self._flush()
        self._faults.check_model()

    def _drop(self, jobs: Sequence[Job]) -> None:
        self._batch.drop(jobs)
        self._readings.drop(jobs)

    def _take_waiting(self) -> None:
        for job in self.inbox.take_generations(self._batch.num_free):
            self._admit(job, self._begin_generation)
        num_free = self.model.limits.max_batch - len(self._readings.jobs)
        for reading in self.inbox.take_readings(num_free):
            self._admit(reading, self._begin_reading)

    def _admit(self, job: AnyJob, begin: Callable[[AnyJob], None]) -> None:
        self.counters.count_in(job)
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
        encoder, max_context = self.model.encoder, self.model.limits.max_context
        if isinstance(job, EmbeddingJob):
            job.texts = encoder.encode_texts(job.request.texts, max_context=max_context)
        else:
            prompt, choices = encoder.encode_scoring(job.request, max_context=max_context)
            tree = ChoiceTree(prompt=tuple(prompt), choices=choices)
            self.model.rule.begin(job, tree, max_context=max_context)
        self._readings.add(job)

    def _drop_aborted(self) -> None:
        waiting = self.inbox.take_aborted()
        if waiting is None:
            return
        # Each flag is read once: the event loop may set it at any moment, and then it sets the inbox's again.
        gone = [job for job in self._jobs() if job.is_aborted]
        self._drop(gone)
        for job in (*waiting, *gone):
            self._leave_aborted(job)

    def _count_pass(self, jobs: Sequence[Job]) -> None:
        self.counters.count_pass(len(jobs))
        self.counters.cached_prompt_tokens = self._cache.num_reused
        for job in jobs:
            job.steps_after_abort += job.is_aborted

    def _accept_first(self, step: Step) -> None:
        self.counters.prompt_tokens += sum(len(job.prompt) for job, _ in step)
        self._accept(step)

    def _accept(self, step: Step) -> None:
        gone: list[GenerationJob] = []
        for job, (token, logprob) in step:
            if job in gone:  # A token of the same step was its last.
                continue
            if not math.isfinite(logprob):
                job.is_broken = True
                gone.append(job)
                self._leave(job, MemberError(self.model.member, self.model.passes.fault))
                continue
            chunk = job.accept(token, logprob)
            self.counters.completion_tokens += 1
            if chunk is not None and chunk.finish_reason is not None:
                gone.append(job)
                self._leave(job, chunk)
            elif chunk is not None:
                self._deliveries.append((job, chunk))
        self._batch.drop(gone)

    def _finish(self, finished: Finished) -> None:
        for job, outcome in finished:
            if not isinstance(outcome, MemberError):
                self.counters.prompt_tokens += outcome.prompt_tokens
            self._leave(job, outcome)

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
        self.counters.cache_share = 1 - self._cache.num_free_tokens / self._cache.num_tokens
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, []
            self.deliver(deliveries)

    def _fail_all(self) -> None:
        reason = self.inbox.closed_because or "the engine has ended"
        for job in (*self._jobs(), *self.inbox.drain()):
            if job.is_aborted:
                self._leave_aborted(job)
            else:
                self.counters.aborted_requests += 1
                self.counters.aborted_tokens += job.completion_tokens
                self._leave(job, MemberError(self.model.member, reason))
        self._flush()
