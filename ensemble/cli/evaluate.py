"""``ensemble evaluate``: labelled items through every member, and what that says about the ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.cli.terminal import printable, stderr_console, stdout_console
from ensemble.cli.validate import SpecPath
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from ensemble.calibration.item_file import ItemFile, ItemSet
    from ensemble.config import Spec

_PARAGRAPHS = (
    """DATA are files of JSON lines, each a set of its own in the report: {"id", "prompt", "choices", "answer"} with the
    answer's index from 0, or {"id", "prompt", "reference"} with the right text ("target" is the same). A line without
    "id" is named by its number, line-17; no id may stand twice in a file. Other keys are ignored. Lines that cannot be
    used are told and refused, or with --leave-out counted and left out.""",
    """Every member is asked every item, none is stopped early, and its raw ballot is stored. Without --endpoint the
    spec is served on this machine meanwhile. With it, the endpoint's members must have the spec's names and families,
    and checkpoints of the same names. Their prompt formats (how choices are scored is one of them), engine options and
    generation parameters are not checked, because an endpoint does not tell them: see to it that it serves this spec.
    """,
    """An evaluation that was ended, even by kill -9, goes on where it was when the same command is given again: a vote
    is stored as it comes, and no member is asked again for one that is stored (with --retry-failed those alone where it
    failed or was late). Other data, members, checkpoints,
    parameters or another version of this program are refused.""",
    """The folder --out (left out, "evaluation" in the working directory) then has: report.html (open it in a browser),
    figures.json (the same figures), ballots.parquet (a row an item and member: choice, probabilities or text, tokens,
    or the abstention; the same bytes for the same votes, with six digits of each probability), timings.parquet
    (latencies), items.jsonl, manifest.json (what it was made of), journal.jsonl (the votes as they came). `ensemble
    calibrate` and `ensemble select` read this folder.""",
    "Exit codes: 0 done (whatever the report says), 1 the system failed, 2 the data or the spec is at fault.",
)
EVALUATE_HELP = "\n\n".join(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS)


def evaluate(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="Files of labelled items, JSON lines.")],
    *,
    out: Annotated[Path, typer.Option(help="The folder to write, new or of this same evaluation.")] = Path(
        "evaluation"
    ),
    ensemble: Annotated[str, typer.Option(help="Which ensemble; left out, the only one or default.")] = "",
    endpoint: Annotated[
        str, typer.Option(help="Ask a running endpoint, host:port, that serves this spec (see above).")
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Items under way at a time.")] = 4,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds that an item may take.")] = 120.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask members again where an error or a deadline is stored.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out lines that cannot be used, and report how many.")
    ] = False,
) -> None:
    """Ask every member labelled items; report accuracy, diversity, calibration and savings, and whether it pays off."""
    # The libraries of figures and plots take a second to import.
    from ensemble.calibration.ballot_store import load_evaluation, open_store  # noqa: PLC0415
    from ensemble.cli.evaluation_origin import build_manifest  # noqa: PLC0415
    from ensemble.cli.evaluation_report import write_report  # noqa: PLC0415
    from ensemble.cli.evaluation_run import AskOptions, gather_votes  # noqa: PLC0415
    from ensemble.router.validation import pick_ensemble  # noqa: PLC0415
    from ensemble.spec_file import load_spec  # noqa: PLC0415

    checked = load_spec(spec)
    chosen = pick_ensemble(ensemble, {one.name: one for one in checked.ensembles})
    told = stderr_console()
    files = [_read(path, checked) for path in data]
    item_sets = _usable_sets(files, told, leave_out=leave_out)
    manifest = build_manifest(checked, chosen, files, item_sets, is_local=not endpoint)
    with open_store(out, manifest, item_sets) as store:
        if retry_failed:
            told.print(f"{store.forget_failures()} votes are asked for again", style="dim")
        if store.num_stored < sum(len(one.items) for one in item_sets):
            options = AskOptions(endpoint=endpoint, concurrency=concurrency, timeout_s=timeout_s)
            gather_votes(checked, chosen, item_sets, store=store, options=options)
        store.finish()
    told.print("working out the figures", style="dim")
    write_report(load_evaluation(out), checked, chosen, folder=out, console=stdout_console())


evaluate.__doc__ = f"{evaluate.__doc__}\n\n{EVALUATE_HELP}"


def _read(path: Path, spec: Spec) -> ItemFile:
    from ensemble.calibration.item_file import read_item_file  # noqa: PLC0415
    from ensemble.calibration.items import LabelledItem  # noqa: PLC0415
    from ensemble.router.validation import check_choices, check_prompt  # noqa: PLC0415

    def check(item: LabelledItem) -> None:
        check_prompt(item.prompt, spec.limits)
        if item.choices:
            check_choices(item.choices, spec.limits)

    return read_item_file(path, check=check)


def _usable_sets(files: list[ItemFile], told: Console, *, leave_out: bool) -> tuple[ItemSet, ...]:
    from ensemble.calibration.item_file import MAX_TOLD, check_item_files, without_problems  # noqa: PLC0415

    problems = [problem for file in files for problem in file.problems]
    for problem in problems[:MAX_TOLD]:
        told.print(printable(str(problem)), style="yellow", markup=False, soft_wrap=True)
    if len(problems) > MAX_TOLD:
        told.print(f"and {len(problems) - MAX_TOLD} more", style="yellow")
    if problems and not leave_out:
        num_lines = sum(file.num_lines for file in files)
        raise ConfigError(
            "DATA", f"{len(problems)} of {num_lines} lines cannot be used", "mend them, or give --leave-out"
        )
    if problems:
        told.print(f"{len(problems)} lines are left out", style="bold yellow")
    return check_item_files([without_problems(file) for file in files])
