"""vLLM alone, as benchmarks/gpu.py measures it beside the whole path."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu_load import make_prompts, num_tokens_of
from gpu_parts import Scale

BARE_SHARE = 0.24
"""Of the GPU's memory, for each of two beside the half that the member has."""
BARE_CACHE_GIB = 12
"""Of it, for the cache: room for every request that runs at a time."""
NAN_SWITCH = "VLLM_COMPUTE_NANS_IN_LOGITS"


class BareVllm:
    """AsyncLLM without anything of ours around it; one that is checked looks for NaN and tells its steps."""

    def __init__(self, scale: Scale, checkpoint: str, engine: dict[str, Any], *, is_checked: bool = False) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - seconds, and for this phase alone
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        from ensemble.engines.vllm_steps import StepRecorder  # noqa: PLC0415 - imports vLLM

        self._scale = scale
        self._recorder = StepRecorder()
        on_cpu = {"enforce_eager": True, "kv_cache_memory_bytes": 50 * 2**20, "block_size": 32}
        on_gpu = {"gpu_memory_utilization": BARE_SHARE, "kv_cache_memory_bytes": BARE_CACHE_GIB * 2**30}
        arguments = {
            "model": checkpoint,
            "dtype": scale.engine["dtype"],
            "load_format": "dummy",
            "max_num_seqs": scale.engine["max_batch"],
            "max_model_len": scale.engine["max_context"],
            "disable_log_stats": True,
            **engine,
            **(on_gpu if scale.half else on_cpu),
        }
        loggers: list[Any] | None = [lambda *_: self._recorder] if is_checked else None
        with _nan_check(is_wanted=is_checked):
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=loggers)

    def count_steps(self) -> dict[str, int]:
        """Count vLLM's steps and the requests in them; 0 where it does not tell."""
        counters = self._recorder.counters
        return {"steps": counters.steps, "batched_requests": counters.batched_requests}

    async def measure(self, way: str, asked_for: str) -> tuple[int, float]:
        """Give the tokens and seconds of all prompts, asked in one of the ways."""
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        options: dict[str, Any] = {
            "temperature": 0.0,
            "ignore_eos": True,
            "output_kind": RequestOutputKind.DELTA if way == "delta" else RequestOutputKind.FINAL_ONLY,
            "logprobs": 0 if way in {"logprobs", "flat"} else None,
            "flat_logprobs": way == "flat",
        }
        room = asyncio.Semaphore(self._scale.num_concurrent)

        async def complete(number: int, prompt: str) -> int:
            max_tokens = num_tokens_of(self._scale, number, busy=True)
            async with room:
                parameters = SamplingParams(max_tokens=max_tokens, **options)
                outputs = self._llm.generate(prompt, parameters, request_id=f"{asked_for}-{number}")
                return sum([len(output.outputs[0].token_ids) async for output in outputs])

        started_s = time.perf_counter()
        prompts = make_prompts(self._scale, asked_for)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(complete(*one)) for one in enumerate(prompts)]
        return sum(task.result() for task in tasks), time.perf_counter() - started_s

    def close(self) -> None:
        """End its processes."""
        self._llm.shutdown()
        # It would end them once more when the interpreter has lost what that takes.
        del self._llm


@contextmanager
def _nan_check(*, is_wanted: bool) -> Iterator[None]:
    """Have the processes that start inside the block count NaN in their logits, and none that start later."""
    os.environ[NAN_SWITCH] = str(int(is_wanted))  # noqa: TID251 - vLLM reads nothing else
    try:
        yield
    finally:
        del os.environ[NAN_SWITCH]  # noqa: TID251
