"""``ensemble weigh``: members' weights from their agreement alone, without looking at answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemble.cli.calibrate import EnsembleName, EvaluationDir, SetNames
from ensemble.cli.terminal import plain_table, printable, stdout_console
from ensemble.cli.validate import SpecPath
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from ensemble.calibration.dawid_skene import LabelFreeFit
    from ensemble.cli.stored_votes import StoredVotes

_PROMISE = (
    "Uncalibrated: nothing was checked against an answer, and members that err together look right together. "
    "Where there are labels, use `ensemble calibrate`."
)


def weigh(spec: SpecPath, evaluation: EvaluationDir, *, ensemble: EnsembleName = "", set_: SetNames = None) -> None:
    """Estimate members' weights from how they agree on an evaluation's items; the answers given there are not read.

    By one-coin Dawid-Skene, with each family first made one worker. The weights are for the spec's own `weight:` of
    each member; one that agrees no better than by chance has none, and is better left out. Items must have choices.

    Exit codes: 0 told, 2 the evaluation or the spec is at fault.
    """
    # scipy takes a second to import.
    from ensemble.calibration.dawid_skene import fit_without_labels  # noqa: PLC0415
    from ensemble.cli.stored_votes import load_stored_votes  # noqa: PLC0415
    from ensemble.voting.ballot import Ballot  # noqa: PLC0415

    votes = load_stored_votes(spec, evaluation, ensemble=ensemble, sets=set_ or ())
    if not votes.has_choices:
        raise ConfigError(str(evaluation), "its items have no choices", "evaluate items with choices")
    choices = [
        {vote.member: vote.choice for vote in item.votes if isinstance(vote, Ballot) and vote.choice is not None}
        for item in votes.items
    ]
    voted = [item for item in choices if item]
    if not voted:
        raise ConfigError(str(evaluation), "no member gave a ballot", "mend the members and evaluate again")
    num_choices = max(len(item.item.choices) for item in votes.items)
    fit = fit_without_labels(voted, votes.voters, num_choices=num_choices)
    console = stdout_console()
    console.print(draw_weights(fit, votes))
    console.print()
    console.print(printable(_PROMISE), style="bold yellow", soft_wrap=True)


def draw_weights(fit: LabelFreeFit, votes: StoredVotes) -> Table:
    """Draw each member's estimated accuracy, and the weight that follows from it."""
    table = plain_table("member", "family", numbers=("estimated accuracy", "weight"))
    for voter in votes.voters:
        weight = fit.weight_by_member[voter.member]
        told = f"{weight:.3f}" if weight > 0 else "none: leave it out"
        table.add_row(voter.member, voter.family, f"{fit.accuracy_by_family[voter.family]:.3f}", told)
    return table
