"""``ensemble calibrate``: from an evaluation's ballots to a calibration file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.cli.terminal import plain_table, printable, stderr_console, stdout_console
from ensemble.cli.validate import SpecPath

if TYPE_CHECKING:
    from rich.table import Table

    from ensemble.calibration.calibration_file import Calibration, StageRecord, StrategyRecord

EvaluationDir = Annotated[
    Path, typer.Argument(metavar="EVALUATION_DIR", help="What `ensemble evaluate --out` wrote, finished.")
]
EnsembleName = Annotated[str, typer.Option(help="Which ensemble; left out, the only one or default.")]
SetNames = Annotated[
    list[str] | None, typer.Option("--set", help="Use this data set alone; may be given several times.")
]
Risk = Annotated[
    float,
    typer.Option(min=0.0, max=0.5, help="Certify partial votes that change at most this share of answers; 0: none."),
]


def calibrate(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    evaluation: EvaluationDir,
    *,
    out: Annotated[Path, typer.Option(help="The calibration file to write, JSON.")],
    ensemble: EnsembleName = "",
    set_: SetNames = None,
    risk: Risk = 0.01,
    alpha: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.5, help="Error rate of the label sets, 0: none; left out, the spec's or 0.1."),
    ] = None,
) -> None:
    """Learn weights, temperatures, confidence, certificates and label sets from an evaluation, and write them.

    What is reported was measured on items that were not fitted on; what is written was fitted on all of them. Where
    members are asked in stages, the threshold is the one that saves most while losing at most 1 point of accuracy, and
    not significantly; the figures beside it are of thresholds chosen without the items that they are measured on.
    Certificates that do not hold on held-out items are left out, which is told. The spec's ensemble then takes
    `calibration: FILE`. It is refused where the ballots are of other members than the spec's, where there are fewer
    than 20 items, and where a member gave no ballot on half of them.

    Exit codes: 0 written (whatever the figures say), 2 the evaluation or the spec is at fault.
    """
    # scipy takes a second to import.
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    from ensemble.calibration.calibration_file import save_calibration  # noqa: PLC0415
    from ensemble.calibration.call_costs import build_call_costs  # noqa: PLC0415
    from ensemble.calibration.fit import fit_calibration  # noqa: PLC0415
    from ensemble.cli.stored_votes import load_stored_votes  # noqa: PLC0415

    votes = load_stored_votes(spec, evaluation, ensemble=ensemble, sets=set_ or ())
    # Many fits of a few numbers each: threads of a matrix library would only wait for one another.
    num_parameters = {member.name: member.num_parameters for member in votes.manifest.members}
    options = replace(
        votes.fit_options(risk=risk, alpha=votes.label_set_alpha if alpha is None else alpha),
        cost_by_member=build_call_costs(votes.items, num_parameters).mean_by_member,
    )
    doing = f"fitting {len(votes.voters)} members on {len(votes.items)} items"
    with threadpool_limits(1), stderr_console().status(doing):
        calibration = fit_calibration(votes.items, votes.voters, options=options)
    save_calibration(calibration, out)
    print_calibration(calibration, votes.strategy)
    written = f"\n{out}: calibration {calibration.digest} of {calibration.num_items} items"
    stdout_console().print(written, style="dim", markup=False)


def print_calibration(calibration: Calibration, strategy: str) -> None:
    """Print what was learned, and whether it pays off; ``strategy`` is the spec's."""
    console = stdout_console()
    told = dict.fromkeys((strategy, calibration.gate.strategy))
    for table in (
        draw_members(calibration, strategy),
        draw_strategies(calibration),
        draw_sure_answers(calibration),
        draw_stages(calibration, [name for name in told if name in calibration.strategies]),
    ):
        if table.row_count:
            console.print(table)
            console.print()
    for line in warning_lines(calibration):
        console.print(line, style="bold yellow", markup=False, soft_wrap=True)
    style = "bold green" if calibration.gate.is_gain_claimed else "bold red"
    console.print(f"{printable(calibration.gate.sentence)}", style=style, markup=False, soft_wrap=True)


def draw_members(calibration: Calibration, strategy: str) -> Table:
    """Draw each member's accuracy, its correction, and its weight in a strategy, the first one where that has none."""
    weighed = strategy if strategy in calibration.strategies else next(iter(calibration.strategies), "")
    weights = calibration.strategies[weighed].weight_by_member if weighed else {}
    figures = ("accuracy", "95 % interval", "corrected", "no ballot", "temperature")
    table = plain_table("member", "family", numbers=figures, style="bold")
    table.add_column(f"weight ({weighed})", justify="right")
    for name, member in calibration.members.items():
        table.add_row(
            name,
            member.family,
            f"{member.accuracy:.3f}",
            f"{member.accuracy_low:.3f} to {member.accuracy_high:.3f}",
            f"{member.corrected_accuracy:.3f}",
            f"{member.num_abstained} of {member.num_items}",
            f"{member.temperature:.2f}",
            f"{weights[name]:.3f}" if name in weights else "",
        )
    return table


def draw_strategies(calibration: Calibration) -> Table:
    """Draw what each strategy came to on held-out items."""
    table = plain_table(
        "strategy",
        numbers=("held-out accuracy", "95 % interval", "p", "ECE before", "ECE after", "kappa", "certificates"),
        style="bold",
    )
    table.add_column("risk stop: changed")
    for name, strategy in calibration.strategies.items():
        held_out = strategy.held_out
        table.add_row(
            name,
            f"{held_out.accuracy:.3f}",
            f"{held_out.accuracy_low:.3f} to {held_out.accuracy_high:.3f}",
            f"{held_out.p_value:.2g}",
            f"{held_out.ece_before:.3f}",
            f"{held_out.ece_after:.3f}",
            f"{strategy.kappa:.2f}",
            str(len(strategy.certificates)),
            _describe_risk(strategy),
        )
    return table


def draw_sure_answers(calibration: Calibration) -> Table:
    """Draw how many held-out answers are at least so sure, and how many of those are right."""
    thresholds = [one.min_confidence for one in next(iter(calibration.strategies.values())).held_out.sure]
    sureness = tuple(f"{threshold:.2f}" for threshold in thresholds)
    table = plain_table("answers at least this sure", numbers=sureness, style="bold")
    for name, strategy in calibration.strategies.items():
        table.add_row(
            name,
            *(
                f"{one.share:.1%}" + ("" if one.accuracy is None else f", right {one.accuracy:.3f}")
                for one in strategy.held_out.sure
            ),
        )
    return table


def draw_stages(calibration: Calibration, strategies: Sequence[str]) -> Table:
    """Draw what asking the cheapest members first came to on held-out items, by some of the strategies."""
    table = plain_table("in stages", "how", numbers=("cost saved", "accuracy", "full panel", "p", ""), style="bold")
    for name in strategies:
        for one in calibration.strategies[name].stages:
            table.add_row(
                name,
                _describe_stages(one),
                f"{one.saving:.1%}",
                f"{one.accuracy:.3f}",
                f"{one.full_accuracy:.3f}",
                f"{one.p_value:.2g}",
                "refused" if one.is_refused else "",
                style="dim" if one.is_refused else "",
            )
    return table


def _describe_stages(record: StageRecord) -> str:
    from ensemble.calibration.stages import describe_plan  # noqa: PLC0415
    from ensemble.voting.asking import AskPlan  # noqa: PLC0415

    threshold = 1.0 if record.min_confidence is None else record.min_confidence
    return describe_plan(AskPlan(stages=record.stages, rule=record.rule, min_confidence=threshold))


def warning_lines(calibration: Calibration) -> list[str]:
    """Name what should not be overlooked."""
    from ensemble.calibration.held_out import risk_stops_of  # noqa: PLC0415

    below = [name for name, member in calibration.members.items() if member.is_below_chance]
    lines = [f"not better than guessing: {', '.join(below)}"] if below else []
    for name, strategy in calibration.strategies.items():
        risk = risk_stops_of(strategy.held_out)
        if risk.is_beyond:
            lines.append(
                f"{name} has no certificates: on held-out items {risk.share:.2%} of the votes that they ended got "
                f"another answer, significantly more than the {risk.bound:.2%} certified"
            )
    return lines


def _describe_risk(strategy: StrategyRecord) -> str:
    held_out = strategy.held_out
    if not held_out.num_risk_stops:
        return "no vote was stopped"
    share = held_out.num_risk_disagreements / held_out.num_risk_stops
    return (
        f"{held_out.num_risk_disagreements} of {held_out.num_risk_stops} votes stopped ({share:.2%}, "
        f"certified {held_out.risk_bound:.2%})"
    )
