"""Works out an evaluation's figures, writes its files, and shows the figures in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from ensemble.calibration.ballot_store import StoredEvaluation
from ensemble.calibration.counting import CountOptions
from ensemble.calibration.figures import EvaluationFigures, SetFigures
from ensemble.calibration.report import save_figures, save_report, worth_telling
from ensemble.calibration.set_figures import build_figures
from ensemble.cli.stored_votes import digests_of
from ensemble.cli.terminal import plain_table, printable, seconds
from ensemble.config import Spec
from ensemble.router.config import EnsembleConfig
from ensemble.spec_file import load_calibrations
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration
from ensemble.voting.short_answer import AnswerRule


def write_report(
    stored: StoredEvaluation, spec: Spec, ensemble: EnsembleConfig, *, folder: Path, console: Console
) -> None:
    """Write the report's files into the folder and show the figures."""
    member_by_name = {member.name: member for member in spec.members}
    voters = tuple(
        Voter(member=name, family=member_by_name[name].family, weight=member_by_name[name].weight)
        for name in ensemble.members
    )
    options = CountOptions(
        ensemble=ensemble.name,
        voters=voters,
        strategy_by_kind={True: ensemble.classify_strategy, False: ensemble.generate_strategy},
        answer_rule=AnswerRule(extract=ensemble.answer.extract, pattern=ensemble.answer.pattern),
        withhold_below=ensemble.abstain_below or 0.0,
        served=_served(stored, spec, ensemble, console),
    )
    # Fits are small: threads of BLAS would wait for each other.
    with threadpool_limits(1):
        figures = build_figures(stored, options)
    paths = (save_report(figures, folder), save_figures(figures, folder))
    show_figures(figures, console)
    console.print(f"\nwritten: {', '.join(map(str, paths))}", style="dim", markup=False, soft_wrap=True)


def _served(
    stored: StoredEvaluation, spec: Spec, ensemble: EnsembleConfig, console: Console
) -> EnsembleCalibration | None:
    """Read the calibration that the spec names, unless it was made on these very items, which is told."""
    if not ensemble.calibration:
        return None
    calibration = load_calibrations(spec)[ensemble.name]
    if calibration.data_digest in digests_of(stored.manifest):
        told = "The spec's calibration was fitted on these items, so the ensemble is not judged as it is served."
        console.print(Text(told, style="bold yellow"), soft_wrap=True)
        return None
    return calibration.to_voting()


def show_figures(figures: EvaluationFigures, console: Console) -> None:
    """Show the figures, a data set after another."""
    for one in figures.sets:
        console.print()
        console.print(Rule(Text(f"{printable(one.name)}: {one.num_items} items"), align="left"))
        for warning in one.warnings:
            console.print(Text(printable(warning), style="bold yellow"), soft_wrap=True)
        for verdict in one.verdicts:
            style = "bold green" if verdict.is_gain else "bold red"
            console.print(Text(verdict.sentence, style=style), soft_wrap=True)
        for table in (_draw_members(one, figures.cost_unit), _draw_strategies(one), _draw_savings(one)):
            if table.row_count:
                console.print()
                console.print(table)


def _draw_members(figures: SetFigures, cost_unit: str) -> Table:
    measures = [score.measure for score in figures.members[0].scores]
    table = plain_table("member", numbers=(*measures, "no ballot", "tokens", f"{cost_unit}/item", "p50", "p95"))
    for one in figures.members:
        table.add_row(
            Text(one.member),
            *(Text(f"{score.value:.3f} [{score.interval.low:.3f}, {score.interval.high:.3f}]") for score in one.scores),
            Text(str(one.num_abstained), style="bold red" if one.has_failed else ""),
            f"{one.prompt_tokens:.0f}+{one.completion_tokens:.0f}",
            f"{one.cost:.3g}",
            seconds(one.latency_p50_s),
            seconds(one.latency_p95_s),
        )
    return table


def _draw_strategies(figures: SetFigures) -> Table:
    table = plain_table("strategy", "measure", numbers=("score", "against best member", "p", "ECE before", "after"))
    for one in figures.strategies:
        table.add_row(
            Text(one.title),
            Text(one.score.measure),
            f"{one.score.value:.3f}",
            f"{one.comparison.difference:+.3f}",
            f"{one.comparison.p_value:.2g}",
            "" if one.ece_before is None else f"{one.ece_before:.3f}",
            "" if one.ece_after is None else f"{one.ece_after:.3f}",
        )
    return table


def _draw_savings(figures: SetFigures) -> Table:
    table = plain_table("saving", "strategy", "how", numbers=("saved", "accuracy", "full panel", ""))
    for one in worth_telling(figures.savings):
        table.add_row(
            Text(one.way),
            Text(one.strategy),
            Text(one.detail),
            f"{one.saving:.1%}",
            f"{one.accuracy:.3f}",
            f"{one.full_accuracy:.3f}",
            "refused" if one.is_refused else "",
            style="dim" if one.is_refused else "",
        )
    return table
