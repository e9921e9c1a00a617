"""A vLLM that runs, and how it is asked: for a completion's tokens, or for what may follow some tokens."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ensemble.errors import MemberError, MemberRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tokenizers import Tokenizer
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

    from ensemble.engines.scoring_rule import ScoringRule
    from ensemble.engines.token_encoder import TokenEncoder
    from ensemble.engines.vllm_processes import ProcessLog
    from ensemble.engines.vllm_steps import StepRecorder
    from ensemble.generation import GenerationParameters

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
    lora: LoRARequest | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _request_ids: set[str] = field(default_factory=set)

    def complete(
        self, prompt: list[int], parameters: GenerationParameters, *, max_tokens: int
    ) -> AsyncGenerator[RequestOutput]:
        """Give a completion's tokens as they come, each with its log-probability; closing it aborts the request.

        Stop strings are not vLLM's affair: whoever reads closes this when one is met.

        Raises:
            MemberError: vLLM has ended, or is being closed.
            MemberRefusedError: vLLM does not take the parameters.
        """
        seed = None if parameters.seed is None else parameters.seed % 2**63
        return self._stream(
            prompt,
            {
                "temperature": parameters.temperature,
                "top_p": parameters.top_p,
                "seed": seed,
                "max_tokens": max_tokens,
                "stop_token_ids": sorted(self.eos_tokens),
                "logprobs": 0,
                "output_kind": RequestOutputKind.DELTA,
            },
        )

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

    async def _stream(self, prompt: list[int], options: dict[str, object]) -> AsyncGenerator[RequestOutput]:
        request_id = f"{self.member}-{next(self._numbers)}"
        self._request_ids.add(request_id)
        self.recorder.enter()
        is_over = False
        try:
            parameters = SamplingParams(ignore_eos=True, detokenize=False, **options)  # type: ignore[arg-type]
            outputs = self.llm.generate(tokens_input(prompt), parameters, request_id, lora_request=self.lora)
            async with aclosing(outputs):
                async for output in outputs:
                    is_over = output.finished
                    if output.outputs[0].finish_reason == "abort":
                        raise MemberError(self.member, "the engine was closed")
                    yield output
        except (VLLMValidationError, VLLMNotFoundError, ValueError) as error:
            raise MemberRefusedError(self.member, f"vLLM refuses the request ({error})") from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise MemberError(self.member, self.describe_end()) from error
        finally:
            self._request_ids.discard(request_id)
            self.recorder.leave(is_aborted=not is_over)
