"""``ensemble compare``: variants beside what they were made from, and which of them are worth serving together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ensemble.cli.choice_items import read_choice_items
from ensemble.cli.phases import OnPhase, show_phases
from ensemble.cli.stored import with_store
from ensemble.cli.terminal import stderr_console, stdout_console
from ensemble.engines.prompt_format import ScoringRuleName
from ensemble.environment import cache_dir
from ensemble.errors import ConfigError
from ensemble.variants.engine_setup import DeviceName, DtypeName, EngineName

if TYPE_CHECKING:
    from ensemble.variants.lineage import Candidate, Family

_PARAGRAPHS = (
    """A checkpoint is named as in a spec, or NAME=CHECKPOINT to call it something. Each variant is compared with the
    original that its compression.json leads to, by digests: ORIGINAL, one of --original, or another VARIANT; what the
    record names is never looked up. A checkpoint without a record that nothing was made from counts as a variant of
    ORIGINAL.""",
    """Measured are: perplexity and bits per byte on the text (bits per byte also compare models with different
    tokenizers), the share of tokens after which variant and original hold the same next one likeliest, the divergence
    of their distributions (KL, in nats), the accuracy on labelled items, tokens a second of reading and writing at
    batch 1 and 16, by the clock and by processor time, and sizes. Intervals are 95 % (text: bootstrap over passages;
    items: exact); of speeds the median, slowest and fastest round. Each engine runs in a process of its own; all of a
    family are in memory at once and take turns, and a speed-up is the ratio to the original in the same round.""",
    """The text must be one that no recipe has seen: what a compression.json names as read is refused. With --items
    (JSON lines as for `ensemble evaluate`, with choices) the variants' votes are searched for the panel that pays off,
    as `ensemble select` does, and the report says so when one variant alone does as well. Several --scoring make as
    many voters of each checkpoint: another rule is the cheapest way to err differently.""",
    "What is said of a variant that lies in a store is kept there with it, for `ensemble models` and whoever chooses.",
    "Exit codes: 0 compared, 1 an engine failed, 2 what was typed, a checkpoint or the text is at fault.",
)
COMPARE_HELP = "\n\n".join(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS)


def compare(  # noqa: PLR0913 - a command's options are its arguments
    original: Annotated[str, typer.Argument(help="What the variants were made from.")],
    variants: Annotated[list[str], typer.Argument(metavar="VARIANT...", help="What is compared with it.")],
    *,
    more_originals: Annotated[
        list[str] | None,
        typer.Option("--original", metavar="NAME=CHECKPOINT", help="Another original; may be given several times."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text to judge by: a file, JSON lines or a data set; left out, the package's own."),
    ] = None,
    items: Annotated[
        list[Path] | None, typer.Option(help="Labelled items with choices, JSON lines; may be given several times.")
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out lines of items that cannot be used, and say how many.")
    ] = False,
    scoring: Annotated[
        list[str] | None,
        typer.Option(help="mean_logprob, sum_logprob or pmi, as in a spec; several make as many voters of each."),
    ] = None,
    add_bos: Annotated[
        list[str] | None,
        typer.Option("--add-bos", metavar="NAME", help="This original's tokenizer puts no BOS token: put one."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a report with plots there.")] = None,
    engine: Annotated[EngineName, typer.Option(help="What runs the models for speeds and choices.")] = "embedded",
    device: Annotated[DeviceName, typer.Option(help="Where they run; auto takes a GPU where there is one.")] = "auto",
    dtype: Annotated[DtypeName, typer.Option(help="As in a spec's engine.")] = "float32",
    threads: Annotated[int, typer.Option(min=0, max=256, help="Of each engine; 0 leaves the default.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often speeds are measured.")] = 3,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Time nothing.")] = False,
) -> None:
    """Compare variants with their originals: quality, speed, size, and how differently they err."""
    # torch, transformers and the libraries of figures take seconds to import.
    from ensemble.cli.compare_view import show_comparison  # noqa: PLC0415
    from ensemble.variants.compare import compare_variants  # noqa: PLC0415
    from ensemble.variants.compare_task import CompareTask  # noqa: PLC0415
    from ensemble.variants.engine_setup import EngineSetup  # noqa: PLC0415
    from ensemble.variants.measure_speed import SpeedTask  # noqa: PLC0415
    from ensemble.variants.passages import load_judging_text  # noqa: PLC0415
    from ensemble.variants.report import keep_evaluations, save_figures, save_report  # noqa: PLC0415

    _check_outputs(json_file, html_file)
    checkpoints = cache_dir() / "checkpoints"
    setup = EngineSetup(engine=engine, device=device, dtype=dtype, threads=threads, cache_dir=checkpoints)
    judging = load_judging_text(text or ())
    labelled = read_choice_items(items or [], leave_out=leave_out)
    with show_phases(stderr_console(), what="compare") as on_phase:
        task = CompareTask(
            families=_find_families([original, *(more_originals or [])], variants, checkpoints, on_phase=on_phase),
            text=judging,
            items=labelled,
            scorings=_check_scorings(scoring or ["mean_logprob"]),
            setup=setup,
            bos_families=frozenset(add_bos or ()),
            speed=None if no_speed else SpeedTask(),
            num_rounds=rounds,
        )
        figures = compare_variants(task, on_phase=on_phase)
    if json_file:
        save_figures(figures, json_file)
    if html_file:
        save_report(figures, html_file)
    show_comparison(figures, stdout_console(), kept=keep_evaluations(figures))


compare.__doc__ = f"{compare.__doc__}\n\n{COMPARE_HELP}"


def _check_outputs(*files: Path | None) -> None:
    """Find out before the long work that a file cannot be written."""
    for file in files:
        if file and (not file.parent.is_dir() or file.is_dir()):
            raise ConfigError(str(file), "no file can be written there", "give a path in a folder that is there")


def _check_scorings(names: list[str]) -> tuple[ScoringRuleName, ...]:
    known = get_args(ScoringRuleName)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError("--scoring", f"{unknown[0]!r} is no rule", f"take one of {', '.join(known)}")
    return tuple(dict.fromkeys(rule for name in names for rule in known if rule == name))


def _find_families(
    originals: list[str], variants: list[str], checkpoints: Path, *, on_phase: OnPhase
) -> tuple[Family, ...]:
    from ensemble.variants.lineage import load_candidate, trace_families  # noqa: PLC0415

    def load(typed: str) -> Candidate:
        name, reference = split_name(typed)
        return load_candidate(name, with_store(reference), cache_dir=checkpoints, on_phase=on_phase)

    return trace_families([load(one) for one in originals], [load(one) for one in variants])


def split_name(typed: str) -> tuple[str, str]:
    """Part NAME=CHECKPOINT; without a name it is empty."""
    name, equals, reference = typed.partition("=")
    # An equals sign further on is part of a path.
    is_named = bool(equals) and bool(name) and bool(reference) and not set(name) & set("/:\\")
    return (name, reference) if is_named else ("", typed)
