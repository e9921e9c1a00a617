"""A vLLM that runs, and how it is asked: for a completion's tokens, or for what may follow some tokens."""

from __future__ import annotations

import asyncio
import itertools
import math
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.logprobs import FlatLogprobs
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from ensemble.errors import MemberError, MemberRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from tokenizers import Tokenizer
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import RequestOutputCollector

    from ensemble.engines.scoring_rule import ScoringRule
    from ensemble.engines.token_encoder import TokenEncoder
    from ensemble.engines.vllm_processes import ProcessLog
    from ensemble.engines.vllm_steps import StepRecorder
    from ensemble.generation import GenerationRequest

    OnUnread = Callable[[RequestOutput], None]

CLOSE_TIMEOUT_S = 5.0
"""How long vLLM's processes may take to end by themselves; then they are killed."""


@dataclass(slots=True, kw_only=True, eq=False)
class LoadedVllm:
    """Everything about one checkpoint; all methods are called from one event loop."""

    member: str
    llm: AsyncLLM
    log: ProcessLog
    recorder: StepRecorder
    encoder: TokenEncoder
    decoder: Tokenizer
    """Not the encoder's own, which belongs to another thread."""
    rule: ScoringRule
    eos_tokens: frozenset[int]
    max_context: int
    tells_nan: bool = False
    """Whether vLLM says itself whose logits were NaN; otherwise log-probabilities do, so every completion has them."""
    lora: LoRARequest | None = None
    structured: Mapping[Any, Any] = field(default_factory=dict)
    """What completions are held to, if anything; their log-probabilities are then those among what is allowed."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _request_ids: set[str] = field(default_factory=set)

    def complete(
        self,
        prompt: list[int],
        request: GenerationRequest,
        *,
        max_tokens: int,
        on_unread: OnUnread | None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Give a completion's tokens, each with its log-probability if that is needed; closing it aborts the request.

        They come as they are made where the request is streamed or a stop string may end it, otherwise all at the end,
        which takes less of this process's time. ``on_unread`` hears what an aborted request had made beyond what was
        read. Stop strings are not vLLM's affair: whoever reads closes this when one is met.

        Raises:
            MemberError: vLLM has ended, or is being closed.
            MemberRefusedError: vLLM does not take the parameters.
        """
        parameters = request.parameters
        seed = None if parameters.seed is None else parameters.seed % 2**63
        in_pieces = bool(request.is_streamed or parameters.stop)
        with_logprobs = request.needs_logprob or not self.tells_nan
        return self._stream(
            prompt,
            {
                "temperature": parameters.temperature,
                "top_p": parameters.top_p,
                "seed": seed,
                "max_tokens": max_tokens,
                "stop_token_ids": sorted(self.eos_tokens),
                # Made anew for each request: vLLM notes in it which of its compilers it took.
                "structured_outputs": StructuredOutputsParams(**self.structured) if self.structured else None,
                "logprobs": 0 if with_logprobs else None,
                # One list of numbers takes less time to fill than a dictionary a token, and more to take pieces of.
                "flat_logprobs": with_logprobs and not in_pieces,
                "output_kind": RequestOutputKind.DELTA if in_pieces else RequestOutputKind.FINAL_ONLY,
            },
            on_unread,
        )

    @staticmethod
    def read_logprobs(output: CompletionOutput) -> list[float] | None:
        """Read the log-probability of each of an output's tokens; None where they were not asked for."""
        told = output.logprobs
        if told is None or isinstance(told, FlatLogprobs):
            return told.logprobs if told else None
        found = zip(output.token_ids, told, strict=True)
        return [math.nan if of is None else of[token].logprob for token, of in found]

    @staticmethod
    def has_broken(output: RequestOutput) -> bool:
        """Say whether vLLM has found NaN among the logits of a request so far."""
        told = output.metrics
        return told is not None and told.is_corrupted

    async def read_next(self, tokens: list[int], wanted: list[int]) -> RequestOutput:
        """Give an output whose only token has the log-probabilities of the wanted ones as the next.

        Raises:
            MemberError: vLLM has ended, or is being closed.
        """
        options = {
            "temperature": 0.0,
            "max_tokens": 1,
            "logprob_token_ids": wanted,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        async with aclosing(self._stream(tokens, options)) as outputs:
            return await anext(outputs)

    async def close(self) -> None:
        """Fail what runs and end vLLM's processes, whatever goes wrong on the way."""
        try:
            await self.llm.abort(list(self._request_ids))
        finally:
            try:
                await asyncio.to_thread(self.llm.shutdown, CLOSE_TIMEOUT_S)
            finally:
                self.log.remove()

    def describe_end(self) -> str:
        """Say why vLLM's processes have ended."""
        return f"vLLM's processes have ended: {self.log.find_cause() or 'they were killed, or the memory ran out'}"

    async def _stream(
        self, prompt: list[int], options: dict[str, object], on_unread: OnUnread | None = None
    ) -> AsyncGenerator[RequestOutput]:
        request_id = f"{self.member}-{next(self._numbers)}"
        self._request_ids.add(request_id)
        self.recorder.enter()
        queue: RequestOutputCollector | None = None
        is_over = False
        try:
            parameters = SamplingParams(ignore_eos=True, detokenize=False, **options)  # type: ignore[arg-type]
            queue = await self.llm.add_request(request_id, tokens_input(prompt), parameters, lora_request=self.lora)
            while not is_over:
                output = cast("RequestOutput", queue.get_nowait() or await queue.get())
                is_over = output.finished
                self._check_unclosed(output)
                yield output
        except MemberError:
            raise
        except (VLLMValidationError, VLLMNotFoundError, ValueError) as error:
            raise MemberRefusedError(self.member, f"vLLM refuses the request ({error})") from error
        except Exception as error:  # vLLM hands on whatever its parts raise
            raise MemberError(self.member, self.describe_end()) from error
        finally:
            self._request_ids.discard(request_id)
            try:
                if not is_over:
                    await self._abort(request_id, queue, on_unread)
            finally:
                self.recorder.leave(is_aborted=not is_over)

    def _check_unclosed(self, output: RequestOutput) -> None:
        if output.outputs[0].finish_reason == "abort":
            raise MemberError(self.member, "the engine was closed")

    async def _abort(self, request_id: str, queue: RequestOutputCollector | None, on_unread: OnUnread | None) -> None:
        """Take a request back, and tell what it has made that nobody read."""
        if self.llm.errored:
            return
        await self.llm.abort(request_id)
        unread = queue.get_nowait() if queue is not None else None
        if unread is not None and on_unread is not None:
            on_unread(cast("RequestOutput", unread))
