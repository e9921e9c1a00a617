"""``ensemble adjust``: prune, rebuild, evaluate, adjust the ratio, and again, until the best variant is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ensemble.cli.choice_items import read_choice_items
from ensemble.cli.phases import show_phases
from ensemble.cli.stored import Output, read_text, with_store
from ensemble.cli.terminal import plain_table, printable, stderr_console, stdout_console
from ensemble.environment import cache_dir, compress_python
from ensemble.errors import ConfigError, InvalidRequestError
from ensemble.variants.engine_setup import DeviceName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ensemble.checkpoints.progress import OnPhase
    from ensemble.variants.adjust import Adjustment, AdjustTask, OnTrial, TrialRunner
    from ensemble.variants.adjust_search import Limit
    from ensemble.variants.adjust_template import Point
    from ensemble.variants.trial_figures import TrialFigures
    from ensemble.variants.trial_store import TrialStore

MIB = 2**20
LINE_PERIOD_S = 30.0
"""Where no bar can be drawn, long work tells this often where it is."""
_PARAGRAPHS = (
    """A recipe may leave options open: `sparsity: {search: [0.3, 0.5]}` tries each value; `ratio: {search: {from: 0.1,
    to: 0.5, step: 0.05}}` goes from the mildest to the strongest, and tries only those that tell where the limit is
    passed. Each trial makes a variant and measures it beside SOURCE: perplexity on the text, or with --items the
    accuracy, and the decoding speed: on a CPU with one thread by processor time, which other work on the machine
    hardly changes, else by the clock.""",
    """Every other passage and item chooses; what is chosen is measured again on the others, so that its figures are not
    flattered by having been the best of many. It is written to OUTPUT, with its recipe and that evaluation.""",
    """The folder --out gets report.html, pareto.png, figures.json, and each trial's figures: ended by a kill, the same
    command goes on where it was, to the same end. On a Ray cluster (--ray) trials run at once, a GPU each where any
    node has one (or with --device cuda), else a core each; which of them ends first changes nothing. Every node must
    find SOURCE under its name: on the hub, in a package, in a store, or on a path that all share.""",
    "Exit codes: 0 chosen, 1 an engine failed, 2 nothing keeps the limit, or what was typed is at fault.",
)
ADJUST_HELP = "\n\n".join(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS)


def adjust(  # noqa: PLR0913 - a command's options are its arguments
    source: Annotated[str, typer.Argument(help="The float checkpoint to make variants of, as a spec names it.")],
    output: Annotated[str, typer.Argument(help="The folder to write the chosen variant to, or store:NAME.")],
    *,
    recipe: Annotated[
        list[Path],
        typer.Option(help="A recipe that may leave options open, see deploy/templates; may be given several times."),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the trials and of the report.")],
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Find the fastest that loses no more: 0.1 allows 1.1 times the original's perplexity; with --items, "
            "0.02 allows two right answers fewer of a hundred.",
        ),
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(min=0.0, help="Find the one of least loss that decodes so many times as fast.")
    ] = None,
    prefer: Annotated[
        Literal["speed", "size"], typer.Option(help="What is best within --max-loss: the fastest, or the smallest.")
    ] = "speed",
    calibration: Annotated[
        list[str] | None, typer.Option(help="Text for the recipes to learn from, as for `ensemble compress`.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text to judge by, as for `ensemble compare`; left out, the package's own.")
    ] = None,
    items: Annotated[
        list[Path] | None, typer.Option(help="Labelled items with choices, JSON lines: a loss is then of accuracy.")
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out lines of items that cannot be used, and say how many.")
    ] = False,
    ray: Annotated[str, typer.Option(help="A running Ray cluster (host:port, or auto) to run trials on.")] = "",
    at_once: Annotated[
        int, typer.Option(min=1, max=64, help="Try so many values of a range at once: more trials, sooner done.")
    ] = 1,
    device: Annotated[
        DeviceName, typer.Option(help="Where variants are measured; auto takes GPUs where there are any.")
    ] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=256, help="Of each engine; 0 leaves the default.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often speeds are measured.")] = 5,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Time nothing; only with --prefer size.")] = False,
    allow_compressed: Annotated[
        bool, typer.Option("--allow-compressed", help="Make variants of a SOURCE that was compressed already.")
    ] = False,
    replaces: Annotated[bool, typer.Option("--replace", help="Let store:NAME mean what is chosen.")] = False,
) -> None:
    """Search recipes and ratios for the best variant within a loss, or for that of least loss at a speed."""
    # torch, transformers and the libraries of figures take seconds to import.
    from ensemble.variants.adjust import AdjustTask, check_adjustment  # noqa: PLC0415
    from ensemble.variants.adjust_template import load_templates  # noqa: PLC0415
    from ensemble.variants.engine_setup import EngineSetup  # noqa: PLC0415
    from ensemble.variants.trial import prepare_trials  # noqa: PLC0415
    from ensemble.variants.trial_store import TrialStore  # noqa: PLC0415

    limit, named = _read_limit(max_loss, min_speedup), with_store(source)
    place = Output.of(output, replace=replaces, made_from=[named, str(out.absolute()), *map(read_text, recipe)])
    place.check([place.folder])
    _check_out(out, place.folder)
    chains, labelled = load_templates(recipe), read_choice_items(items or [], leave_out=leave_out)
    console = stderr_console()
    with show_work(console) as on_phase, _connected(ray, device, console) as measured_on:
        setup = EngineSetup(device=measured_on, threads=threads, cache_dir=cache_dir() / "checkpoints")
        trial = prepare_trials(
            named,
            setup,
            calibration_texts=calibration or (),
            judging_texts=text or (),
            allow_compressed=allow_compressed,
            on_phase=on_phase,
        )
        speed = None if no_speed else trial.speed
        python = compress_python()
        trial = replace(trial, items=labelled, num_rounds=rounds, speed=speed, compress_python=python)
        task = AdjustTask(chains=chains, limit=limit, aim=prefer, trial=trial, at_once=at_once)
        check_adjustment(task, place.folder)
        trials = TrialStore(folder=out, facts=task.choosing.facts())
        with trials.held():
            adjustment = _run(task, trials, place, is_spread=bool(ray), console=console, on_phase=on_phase)
            where = place.publish(place.folder, source=named, on_phase=on_phase)
    show_adjustment(adjustment, stdout_console())
    stdout_console().print(
        f"\nwritten to {where}; {out}/report.html, pareto.png, figures.json", markup=False, soft_wrap=True
    )


adjust.__doc__ = f"{adjust.__doc__}\n\n{ADJUST_HELP}"


@contextmanager
def show_work(console: Console) -> Iterator[OnPhase]:
    """Show what is being done: a bar in a terminal, elsewhere a line now and then, for there are many phases."""
    if console.is_terminal:
        with show_phases(console, what="adjust") as on_phase:
            yield on_phase
        return
    told_s = time.monotonic()

    def hear(phase: str, share: float) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= LINE_PERIOD_S:
            told_s = time.monotonic()
            console.print(printable(f"{phase}{f', {share:.0%}' if share else ''}"), markup=False, soft_wrap=True)

    yield hear


def _check_out(out: Path, output: Path) -> None:
    """See that the trials' folder does not stand where the choice is to be written."""
    if output.absolute() in (out.absolute(), *out.absolute().parents):
        raise InvalidRequestError("--out", f"{output}, the OUTPUT, would hold it", "give a folder elsewhere")


def _read_limit(max_loss: float | None, min_speedup: float | None) -> Limit:
    from ensemble.variants.adjust_search import Limit  # noqa: PLC0415

    if (max_loss is None) == (min_speedup is None):
        raise InvalidRequestError("--max-loss and --min-speedup", "one of them says what is wanted", "give one")
    return Limit(max_loss=max_loss, min_speedup=min_speedup)


def _run(
    task: AdjustTask, trials: TrialStore, place: Output, *, is_spread: bool, console: Console, on_phase: OnPhase
) -> Adjustment:
    """Search, write the choice, and report; a search that finds nothing is reported, too.

    Raises:
        ConfigError: nothing keeps the limit.
    """
    from ensemble.variants.adjust import finish_choice, search_variants  # noqa: PLC0415
    from ensemble.variants.adjust_report import save_adjustment  # noqa: PLC0415
    from ensemble.variants.adjust_verdict import write_verdict  # noqa: PLC0415

    with _runner(task, trials, is_spread=is_spread, on_phase=on_phase) as runner:
        adjustment = search_variants(task, runner, trials, on_trial=_tell_trials(task, console))
        adjustment = finish_choice(adjustment, place.folder, runner, trials, on_phase=on_phase)
    save_adjustment(adjustment, trials.folder)
    if adjustment.chosen is None:
        where = "--max-loss" if task.limit.max_loss is not None else "--min-speedup"
        remedy = f"allow more, or give other recipes; {trials.folder}/report.html has what was tried"
        raise ConfigError(where, write_verdict(adjustment)[0].rstrip("."), remedy)
    return adjustment


@contextmanager
def _connected(address: str, wanted: DeviceName, console: Console) -> Iterator[DeviceName]:
    """Connect to the cluster, if one is given; gives what trials are measured on there, or here.

    Raises:
        ConfigError: nobody answers there, or a GPU is wanted here and there is none.
    """
    if not address:
        from ensemble.engines.model_loading import choose_device  # noqa: PLC0415

        yield "cuda" if choose_device(wanted) == "cuda" else "cpu"
        return
    # It brings Ray along, which takes a second.
    from ensemble.serving.cluster import ray_cluster  # noqa: PLC0415
    from ensemble.serving.trial_pool import choose_trial_device, has_gpus  # noqa: PLC0415

    with ray_cluster(address):
        if wanted == "cuda" and not has_gpus():
            console.print("no node of the cluster has a GPU: trials wait until one has", soft_wrap=True)
        yield choose_trial_device(wanted)


@contextmanager
def _runner(task: AdjustTask, trials: TrialStore, *, is_spread: bool, on_phase: OnPhase) -> Iterator[TrialRunner]:
    from ensemble.variants.adjust import SerialTrials  # noqa: PLC0415

    if not is_spread:
        yield SerialTrials(task.choosing, trials, on_phase=on_phase)
        return
    from ensemble.compression.calibration_sources import load_calibration_sources  # noqa: PLC0415
    from ensemble.serving.trial_pool import RayTrials  # noqa: PLC0415

    names = task.trial.calibration_texts
    sought = replace(task.choosing, source=name_from_anywhere(task.trial.source))
    texts = [one.text for one in load_calibration_sources(names)] if names else []
    with RayTrials(sought, texts) as spread:
        yield spread


def name_from_anywhere(source: str) -> str:
    """Write a path from the root on: a cluster's processes stand in folders of its own; other references stay."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _tell_trials(task: AdjustTask, console: Console) -> OnTrial:
    """Tell each trial as it ends, in one line."""
    from ensemble.variants.adjust_search import count_most  # noqa: PLC0415

    most, num_told = count_most(task.chains, at_once=task.at_once), 0

    def tell(point: Point, figures: TrialFigures, *, is_kept: bool) -> None:
        nonlocal num_told
        num_told += 1
        when = " (an earlier run's)" if is_kept else ""
        line = f"trial {num_told} of at most {most}{when}: {point.name}: {_describe(figures, task)}"
        console.print(printable(line), markup=False, soft_wrap=True)

    return tell


def _describe(figures: TrialFigures, task: AdjustTask) -> str:
    from ensemble.variants.adjust_verdict import describe_loss  # noqa: PLC0415

    loss, speedup = figures.loss(task.measure), figures.decode_speedup
    if figures.problem or loss is None:
        return figures.problem
    timed = f"{speedup.value:.2f} times as fast, " if speedup else ""
    return f"{describe_loss(loss, task.measure)}, {timed}{figures.file_bytes / MIB:.1f} MiB"


def show_adjustment(adjustment: Adjustment, console: Console) -> None:
    """Show the front and the verdict."""
    from ensemble.variants.adjust_verdict import write_verdict  # noqa: PLC0415

    console.print(_draw_front(adjustment))
    console.print()
    for sentence in write_verdict(adjustment):
        console.print(printable(sentence), markup=False, soft_wrap=True)


def _draw_front(adjustment: Adjustment) -> Table:
    is_perplexity, is_timed = adjustment.task.measure == "perplexity", adjustment.task.trial.speed is not None
    lost = "perplexity, times" if is_perplexity else "accuracy lost"
    table = plain_table("Pareto front", numbers=(lost, *(("decoding, times",) if is_timed else ()), "MiB"))
    for one in adjustment.front:
        is_chosen = adjustment.chosen is not None and one.name == adjustment.chosen.name
        loss = f"{one.loss + 1:.3f}" if is_perplexity else f"{one.loss:.3f}"
        figures = (loss, *((f"{one.speedup:.2f}",) if is_timed else ()), f"{one.num_bytes / MIB:.1f}")
        table.add_row(printable(one.name), *figures, style="bold green" if is_chosen else "")
    return table
