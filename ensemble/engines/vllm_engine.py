"""The engine on vLLM's AsyncLLM, which batches in processes of its own."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.engine import EngineStats
from ensemble.engines.engine_thread import Counters
from ensemble.engines.jobs import ChoiceTree, GenerationJob, Job, ScoringJob
from ensemble.engines.vllm_scoring import sum_logprobs
from ensemble.errors import MemberBusyError, MemberError, MemberRefusedError
from ensemble.generation import (
    ChoiceScores,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    ScoringRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

    from vllm.outputs import RequestOutput

    from ensemble.engines.config import VllmEngineConfig
    from ensemble.engines.loaded_vllm import LoadedVllm
    from ensemble.engines.prompt_format import PromptFormat

if find_spec("vllm") is None:
    # Importing it takes seconds, so that is left to the start; that it is not there is said at once.
    raise ModuleNotFoundError("vLLM is not installed", name="vllm")

T = TypeVar("T")
_LOADING = "ensemble.engines.vllm_loading"
"""Imported by name, in a thread: it imports vLLM, which takes seconds."""
_NOT_NUMBERS = "the model gave logits that are not numbers"
MAX_BROKEN = 8
"""Requests in a row whose logits were not numbers, after which this is no matter of what was asked."""


class VllmEngine:
    """Words and cuts texts here, and leaves batching to vLLM. See Engine for the contract.

    Inside are at most ``max_batch`` and ``max_waiting`` requests together; a completion that nobody reads holds one
    output, into which vLLM merges what follows.

    Logits that are not numbers fail their request and none that runs beside it. But vLLM does not clean its cache's
    blocks, and some of its attention kernels multiply what they mask with zero, which a NaN outlasts: whoever gets such
    a block next may get the same error, and never a text of it. After MAX_BROKEN such errors in a row the engine says
    that it is not healthy, so that a fresh one takes its place.
    """

    def __init__(
        self,
        config: VllmEngineConfig,
        *,
        checkpoint: str,
        member: str,
        prompt_format: PromptFormat,
        cache_dir: Path,
    ) -> None:
        """Prepare; GGUF files and packages are converted into ``cache_dir`` once."""
        self._config = config
        self._checkpoint = checkpoint
        self._member = member
        self._load = partial(
            _load, config, checkpoint=checkpoint, member=member, prompt_format=prompt_format, cache_dir=cache_dir
        )
        self._loaded: LoadedVllm | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._counters = Counters()
        self._num_inside = 0
        self._num_broken = 0
        self._closed_because: str | None = None
        # A tokenizer is not to be used by two threads at once, and long texts take it milliseconds.
        self._encoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"encode-{member}")

    async def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Start vLLM's processes and generate; starting twice is starting once."""
        if self._starting is None:
            if self._closed_because is not None:
                raise MemberError(self._member, self._closed_because)
            self._starting = asyncio.create_task(self._start(on_phase))
        try:
            # Shielded: processes that come up have to be ended, and a second start may await them too.
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            self._begin_close()
            raise
        except BaseException:
            await self.close()
            raise
        self._check_started()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        """Pass the request's tokens on as text; whoever stops reading aborts it."""
        loaded = self._check_started()
        job = GenerationJob(request=request)
        with self._place(job) as leave:
            prompt = await self._encode(
                lambda: loaded.encoder.encode_generation(request, max_context=loaded.max_context)
            )
            job.begin(prompt, decoder=loaded.decoder, eos_tokens=loaded.eos_tokens, max_context=loaded.max_context)
            outputs = loaded.complete(
                prompt, request, max_tokens=job.num_left, on_unread=partial(self._count_unread, job)
            )
            async with aclosing(outputs):
                async for output in outputs:
                    self._count_first(job, output)
                    chunk = self._accept(job, loaded, output)
                    if chunk is not None and chunk.finish_reason is not None:
                        break
                    if chunk is not None:
                        yield chunk
                else:
                    raise MemberError(self._member, "vLLM ended the completion before its end")
            leave()
        yield chunk

    async def score(self, request: ScoringRequest) -> ChoiceScores:
        """Ask for the log-probabilities of the choices' tokens; whoever stops waiting aborts it."""
        loaded = self._check_started()
        job = ScoringJob(request=request)
        with self._place(job) as leave:
            prompt, choices = await self._encode(
                lambda: loaded.encoder.encode_scoring(request, max_context=loaded.max_context)
            )
            loaded.rule.begin(job, ChoiceTree(prompt=tuple(prompt), choices=choices), max_context=loaded.max_context)
            next_logprobs = partial(self._next_logprobs, job, loaded)
            sums = [await sum_logprobs(tree, next_logprobs, max_at_once=self._config.max_batch) for tree in job.trees]
            scores = loaded.rule.finish(job, sums)
            if not all(math.isfinite(logprob) for logprob in scores.logprobs):
                raise self._broken()
            self._counters.prompt_tokens += scores.prompt_tokens
            leave()
        return scores

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Refuse: vLLM runs a model either to generate or to embed, and this one generates."""
        self._check_started()
        raise MemberRefusedError(
            self._member, "vLLM runs this model to generate and gives no embeddings; ask an embedded member for them"
        )

    def stats(self) -> EngineStats:
        """Read what was counted here and what vLLM said of its last step.

        Of those that nothing has come from, as many wait as vLLM has waiting or has yet to get. An aborted request
        runs until vLLM says that it does not; one that was scored, as its sequences that are left.
        """
        figures = asdict(self._counters)
        if self._loaded is not None:
            recorder = self._loaded.recorder
            num_silent = max(0, self._num_inside - self._counters.running_requests)
            num_unsent = max(0, self._num_inside - recorder.num_wanted)
            figures["waiting_requests"] = min(num_silent, recorder.num_waiting + num_unsent)
            figures["running_requests"] = self._num_inside - figures["waiting_requests"] + recorder.num_left
        return EngineStats(**figures)

    async def check_health(self) -> None:
        """Say whether vLLM's processes are all there, and whether what they compute are numbers."""
        loaded = self._check_started()
        if loaded.llm.errored:
            raise MemberError(self._member, loaded.describe_end())
        if self._num_broken >= MAX_BROKEN:
            raise MemberError(self._member, f"{_NOT_NUMBERS}, {self._num_broken} requests in a row")

    async def close(self) -> None:
        """Fail what is inside and end vLLM's processes, also those that are still starting."""
        await asyncio.shield(self._begin_close())

    async def _start(self, on_phase: OnPhase) -> None:
        loaded = await asyncio.to_thread(self._load, on_phase=on_phase)
        self._loaded = loaded
        on_phase("warm up", 0.0)
        await import_module(_LOADING).check_generates_numbers(loaded, checkpoint=self._checkpoint)
        # From here on: warming up counts nowhere.
        loaded.recorder.counters = self._counters
        on_phase("warm up", 1.0)

    def _begin_close(self) -> asyncio.Task[None]:
        self._closed_because = self._closed_because or "the engine was closed"
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        loaded, self._loaded = self._loaded, None
        self._encoding.shutdown(wait=False)
        if loaded is not None:
            await loaded.close()

    def _check_started(self) -> LoadedVllm:
        if self._closed_because is not None:
            raise MemberError(self._member, self._closed_because)
        if self._loaded is None:
            raise MemberError(self._member, "the engine was not started")
        return self._loaded

    @contextmanager
    def _place(self, job: Job) -> Iterator[Callable[[], None]]:
        """Give a request its place; it has finished once what this gives was called, or was aborted if it was not."""
        limit = self._config.max_batch + self._config.max_waiting
        if self._num_inside >= limit:
            raise MemberBusyError(self._member, f"{self._num_inside} requests are under way, which is the limit")
        self._num_inside += 1
        counters, is_aborted = self._counters, True

        def leave() -> None:
            nonlocal is_aborted
            is_aborted = False
            counters.finished_requests += 1
            self._num_broken = 0

        try:
            yield leave
        except MemberError:
            is_aborted = self._closed_because is not None
            raise
        finally:
            self._num_inside -= 1
            counters.running_requests -= job.is_running
            if is_aborted:
                counters.aborted_requests += 1
                counters.aborted_tokens += job.completion_tokens

    def _count_first(self, job: Job, output: RequestOutput) -> None:
        """Count a request in with its first output, with the time until vLLM had room for it."""
        if job.is_running:
            return
        told = output.metrics
        self._counters.count_in(job, waited_s=told.scheduled_ts - told.queued_ts if told is not None else None)
        self._counters.cached_prompt_tokens += output.num_cached_tokens or 0
        if isinstance(job, GenerationJob):
            self._counters.prompt_tokens += len(job.prompt)

    def _count_unread(self, job: GenerationJob, output: RequestOutput) -> None:
        """Count the tokens of an aborted request that had come by then."""
        num_tokens = len(output.outputs[0].token_ids)
        if job.is_finished or not num_tokens:
            return
        self._count_first(job, output)
        job.completion_tokens += num_tokens
        self._counters.completion_tokens += num_tokens

    def _accept(self, job: GenerationJob, loaded: LoadedVllm, output: RequestOutput) -> CompletionChunk | None:
        """Take what came, which is several tokens when they come faster than they are read."""
        logprobs = loaded.read_logprobs(output.outputs[0])
        if loaded.has_broken(output) or not all(map(math.isfinite, logprobs or ())):
            raise self._broken()
        num_before = job.completion_tokens
        chunk = job.accept_all(output.outputs[0].token_ids, logprobs)
        self._counters.completion_tokens += job.completion_tokens - num_before
        return chunk

    def _broken(self) -> MemberError:
        self._num_broken += 1
        return MemberError(self._member, _NOT_NUMBERS)

    async def _next_logprobs(
        self, job: ScoringJob, loaded: LoadedVllm, tokens: list[int], wanted: list[int]
    ) -> dict[int, float]:
        output = await loaded.read_next(tokens, wanted)
        self._count_first(job, output)
        at = output.outputs[0].logprobs
        found = (at[0] if at else None) or {}
        return {token: of.logprob for token, of in found.items()}

    async def _encode(self, encode: Callable[[], T]) -> T:
        """Run the tokenizer in its thread; whatever it raises concerns this request alone."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._encoding, encode)
        except MemberError:
            raise
        except Exception as error:
            raise MemberError(self._member, f"the prompt could not be encoded: {error!r}") from error


def _load(config: VllmEngineConfig, **parts: Any) -> LoadedVllm:
    loaded: LoadedVllm = import_module(_LOADING).load_vllm(config, **parts)
    return loaded
