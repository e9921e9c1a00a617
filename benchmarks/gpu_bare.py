"""vLLM alone, as benchmarks/gpu.py measures it beside the whole path, and gpu_variants.py beside other checkpoints."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gpu_load import make_prompts, num_tokens_of
from gpu_parts import Scale

BARE_SHARE = 0.45
"""Of the GPU's memory, beside the half that the member has."""
BARE_CACHE_GIB = 12
"""Of it, for the cache: room for every request that runs at a time."""


class BareVllm:
    """AsyncLLM without anything of ours around it."""

    def __init__(self, scale: Scale, checkpoint: str, engine: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - seconds, and for this phase alone
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        on_cpu = {"enforce_eager": True, "kv_cache_memory_bytes": 50 * 2**20, "block_size": 32}
        on_gpu = {"gpu_memory_utilization": BARE_SHARE, "kv_cache_memory_bytes": BARE_CACHE_GIB * 2**30}
        arguments = {
            "model": checkpoint,
            "dtype": scale.engine["dtype"],
            "load_format": "dummy",
            "max_num_seqs": scale.engine["max_batch"],
            "max_model_len": scale.engine["max_context"],
            "disable_log_stats": True,
            **(on_gpu if scale.half else on_cpu),
            **engine,
        }
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    async def measure(self, way: str, scale: Scale, asked_for: str, *, busy: bool = True) -> tuple[int, float]:
        """Give the tokens and seconds of prompts asked in one of the ways: all, many at a time, or a few one by one."""
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        options: dict[str, Any] = {
            "temperature": 0.0,
            "ignore_eos": True,
            "output_kind": RequestOutputKind.DELTA if way == "delta" else RequestOutputKind.FINAL_ONLY,
            "logprobs": 0 if way == "logprobs" else None,
            "flat_logprobs": way == "logprobs",
        }
        room = asyncio.Semaphore(scale.num_concurrent if busy else 1)

        async def complete(number: int, prompt: str) -> int:
            max_tokens = num_tokens_of(scale, number, busy=busy)
            async with room:
                parameters = SamplingParams(max_tokens=max_tokens, **options)
                outputs = self._llm.generate(prompt, parameters, request_id=f"{asked_for}-{number}")
                return sum([len(output.outputs[0].token_ids) async for output in outputs])

        started_s = time.perf_counter()
        prompts = make_prompts(scale, asked_for)[: None if busy else scale.num_alone]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(complete(*one)) for one in enumerate(prompts)]
        return sum(task.result() for task in tasks), time.perf_counter() - started_s

    def close(self) -> None:
        """End its processes."""
        self._llm.shutdown()
        # It would end them once more when the interpreter has lost what that takes.
        del self._llm
