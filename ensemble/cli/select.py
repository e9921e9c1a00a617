"""``ensemble select``: the panel that pays off, from an evaluation's ballots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.cli.calibrate import EnsembleName, EvaluationDir, Risk, SetNames
from ensemble.cli.terminal import plain_table, printable, stderr_console, stdout_console
from ensemble.cli.validate import SpecPath
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ensemble.calibration.calibration_file import Calibration
    from ensemble.calibration.fit import FitOptions
    from ensemble.calibration.lineup import Lineup
    from ensemble.calibration.panel_lineups import PanelMeter
    from ensemble.calibration.selection import OnPanel, Selection
    from ensemble.cli.stored_votes import StoredVotes

QUIET_S = 2.0
"""Work that takes no longer shows no progress."""
_PARAGRAPHS = (
    """Tried are panels (subsets of the ensemble's members; single members are candidates like any other), strategies,
    who is asked when (all, staged by confidence, cascade) and what ends the vote (lossless, risk). Every
    item is counted by a calibration fitted on other items, and the figures reported for the choice have the optimism of
    choosing taken out, by choosing again on resampled items and measuring on those left out.""",
    """The cost of a request is in GFLOP (2 x parameters x tokens) where the evaluation counted parameters, else in
    seconds of members' work; members that are not asked cost nothing, cancelled ones the share of their time that had
    passed. Its latency is that of the votes waited for, as stored.""",
    """The folder --out then has: report.html, pareto.png, figures.json, and the chosen spec, spec.yaml with its
    calibration.json, for `ensemble serve`.""",
    "Exit codes: 0 chosen, 2 the evaluation, the spec or a limit is at fault.",
)
SELECT_HELP = "\n\n".join(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS)


def select(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    evaluation: EvaluationDir,
    *,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    max_cost: Annotated[
        float | None, typer.Option(min=0.0, help="The most that a request may cost on average.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0.0, help="The most milliseconds that it may take on average.")
    ] = None,
    ensemble: EnsembleName = "",
    set_: SetNames = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Try this strategy alone; may be given several times.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave this member out; may be given several times.")
    ] = None,
    risk: Risk = 0.01,
    exhaustive: Annotated[
        int, typer.Option(min=1, max=16, help="Measure every panel of up to so many members, promising ones beyond.")
    ] = 6,
) -> None:
    """Find the panel, strategy and way of asking with the best accuracy within a cost or latency."""
    # The libraries of figures and plots take a second to import.
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    from ensemble.calibration.lineup import Limits  # noqa: PLC0415
    from ensemble.calibration.selection import select_lineup  # noqa: PLC0415
    from ensemble.calibration.selection_report import save_selection  # noqa: PLC0415
    from ensemble.cli.chosen_spec import drops_feedback, save_chosen_spec  # noqa: PLC0415

    limits = Limits(max_cost=max_cost, max_latency_s=None if max_latency_ms is None else max_latency_ms / 1_000)
    votes, remarks = _load(spec, evaluation, ensemble=ensemble, sets=set_ or [], without=without or [])
    options = votes.fit_options(
        risk=risk, alpha=votes.label_set_alpha, strategies=tuple(strategy or ()) or _strategies_for(votes)
    )
    # Thousands of fits of a few numbers each: threads of a matrix library would only wait for one another.
    with threadpool_limits(1), show_panels(stderr_console()) as on_panel:
        meter = _build_meter(votes, options)
        selection = select_lineup(meter, limits, exhaustive_members=exhaustive, on_panel=on_panel)
        lineup, calibration, remark = _calibrate_choice(selection.chosen.lineup, votes, options)
    if votes.ensemble.feedback and drops_feedback(lineup):
        remark = (*remark, "The chosen spec takes no feedback, which would move the weights that its stops rely on.")
    remarks = (*remarks, *remark)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(str(out), f"it cannot be written ({error.strerror})", "give another --out") from error
    save_selection(selection, out, ensemble=votes.ensemble.name, remarks=remarks)
    save_chosen_spec(spec, votes, lineup, calibration, risk=risk, folder=out)
    show_selection(selection, stdout_console(), remarks=remarks)
    stdout_console().print(f"\nwritten: {out}/report.html, pareto.png, figures.json, spec.yaml", markup=False)


select.__doc__ = f"{select.__doc__}\n\n{SELECT_HELP}"


def _load(
    spec: Path, evaluation: Path, *, ensemble: str, sets: list[str], without: list[str]
) -> tuple[StoredVotes, tuple[str, ...]]:
    """Read the votes, and leave out members that failed, which is told."""
    from ensemble.calibration.counting import failed_members  # noqa: PLC0415
    from ensemble.cli.stored_votes import load_stored_votes  # noqa: PLC0415

    votes = load_stored_votes(spec, evaluation, ensemble=ensemble, sets=sets, without=without)
    failed = [name for name in failed_members(votes.items) if name in {voter.member for voter in votes.voters}]
    if not failed:
        return votes, ()
    votes = load_stored_votes(spec, evaluation, ensemble=ensemble, sets=sets, without=[*without, *failed])
    return votes, (f"Left out, since they gave no ballot on half of the items or more: {', '.join(failed)}.",)


def _strategies_for(votes: StoredVotes) -> tuple[str, ...]:
    """Name the strategies that do what the ensemble's own does, but for those that would ask models again."""
    from ensemble.voting.registry import STRATEGY_NAMES, get_strategy  # noqa: PLC0415
    from ensemble.voting.strategy import task_of  # noqa: PLC0415

    task = task_of(get_strategy(votes.strategy), has_choices=votes.has_choices)
    return tuple(
        name for name in STRATEGY_NAMES if task in get_strategy(name).tasks and get_strategy(name).second_round is None
    )


def _build_meter(votes: StoredVotes, options: FitOptions) -> PanelMeter:
    from ensemble.calibration.call_costs import build_call_costs  # noqa: PLC0415
    from ensemble.calibration.panel_lineups import PanelMeter  # noqa: PLC0415
    from ensemble.voting.strategy import Quorum  # noqa: PLC0415

    quorum = votes.ensemble.quorum
    num_parameters = {member.name: member.num_parameters for member in votes.manifest.members}
    return PanelMeter(
        items=votes.items,
        voters=votes.voters,
        costs=build_call_costs(votes.items, num_parameters),
        options=options,
        quorum=Quorum(min_weight=quorum.min_weight, min_families=quorum.min_families),
    )


def _calibrate_choice(
    lineup: Lineup, votes: StoredVotes, options: FitOptions
) -> tuple[Lineup, Calibration | None, tuple[str, ...]]:
    """Fit the chosen panel on all items; without a certificate on them there is no risk stop, which is told."""
    from dataclasses import replace  # noqa: PLC0415

    from ensemble.calibration.fit import fit_calibration  # noqa: PLC0415
    from ensemble.voting.registry import get_strategy  # noqa: PLC0415
    from ensemble.voting.strategy import Task  # noqa: PLC0415

    if Task.FREE_TEXT in get_strategy(lineup.strategy).tasks:
        return lineup, None, ()
    voters = tuple(voter for voter in votes.voters if voter.member in lineup.members)
    own = {voter.member: options.fingerprint_by_member[voter.member] for voter in voters}
    calibration = fit_calibration(
        votes.items,
        voters,
        options=replace(options, strategies=(lineup.strategy,), fingerprint_by_member=own),
    )
    if lineup.stop == "risk" and not calibration.strategies[lineup.strategy].certificates:
        remark = "The chosen spec has no risk stop: no partial vote can be certified on all items."
        return replace(lineup, stop="lossless"), calibration, (remark,)
    return lineup, calibration, ()


@contextmanager
def show_panels(console: Console) -> Iterator[OnPanel]:
    """Show how many panels are measured once that has taken a while; yields what must hear it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("measuring panels"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("panels", total=None)
    started_s = time.monotonic()

    def hear(num_measured: int, num_panels: int | None) -> None:
        progress.update(task, completed=num_measured, total=num_panels)
        if not progress.live.is_started and time.monotonic() - started_s > QUIET_S and console.is_terminal:
            progress.start()

    try:
        yield hear
    finally:
        progress.stop()


def show_selection(selection: Selection, console: Console, *, remarks: tuple[str, ...]) -> None:
    """Show the front and the verdict."""
    from ensemble.calibration.selection_verdict import write_verdict  # noqa: PLC0415

    for remark in remarks:
        console.print(printable(remark), style="bold yellow", markup=False, soft_wrap=True)
    console.print(_draw_front(selection))
    console.print()
    for sentence in write_verdict(selection):
        console.print(printable(sentence), markup=False, soft_wrap=True)


def _draw_front(selection: Selection) -> Table:
    table = plain_table("Pareto front", "asked, and ended", numbers=("accuracy", selection.cost_unit, "ms"))
    for one in selection.front:
        figures = (f"{one.accuracy:.3f}", f"{one.cost:.4g}", f"{one.latency_s * 1_000:.4g}")
        style = "bold green" if one is selection.chosen else ""
        table.add_row(one.lineup.title, one.lineup.manner, *figures, style=style)
    return table
