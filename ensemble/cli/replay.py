"""``ensemble replay``: counts the votes of a recorded decision again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.cli.failure import EXIT_WORLD
from ensemble.cli.terminal import one_line, printable, stdout_console
from ensemble.errors import ConfigError, EnsembleError, InvalidRequestError
from ensemble.voting.ballot import Ballot
from ensemble.voting.decision import DecidedBy, Decision

if TYPE_CHECKING:
    from ensemble.voting.record import VoteRecord

TEXT_WIDTH = 64
LARGEST_RECORD_BYTES = 64 << 20
_COMPARED = (
    "answer",
    "strategy",
    "decided_by",
    "agreement",
    "margin",
    "confidence",
    "withheld",
    "label_set",
    "degraded",
    "num_asked",
    "families",
    "candidates",
)


def replay(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="What `ensemble ask` or `classify` --record wrote.")],
    *,
    strategy: Annotated[str, typer.Option(help="Say instead what this voting rule would have decided.")] = "",
) -> None:
    """Count the votes of a recorded decision again, without any server; exits with 1 when the outcome differs.

    With --strategy the recorded ballots are counted by another rule, with the recorded weights and without the
    calibration, which belongs to the recorded rule's sums. Where the recorded rule ended the vote early, that is on the
    ballots that were in by then: the other rule might have waited for more.

    Exit codes: 0 the same decision (or told what the other rule decides), 1 another one, 2 no usable record.
    """
    recorded = load_record(record)
    console = stdout_console()
    console.print(f"recorded: {describe_outcome(recorded.decision)}", markup=False, soft_wrap=True)
    counted = count_again(recorded, strategy, path=record)
    if strategy and strategy != recorded.strategy:
        console.print(f"{strategy}: {describe_outcome(counted)}", markup=False, soft_wrap=True)
        verdict = "the same answer" if counted.answer == recorded.decision.answer else "ANOTHER ANSWER"
        console.print(f"{verdict}{tell_unseen(recorded.decision)}", style="bold", markup=False, soft_wrap=True)
        return
    differences = find_differences(recorded.decision, counted)
    if not differences:
        console.print("the votes give the same decision", style="bold green")
        return
    console.print(f"counted again: {describe_outcome(counted)}", markup=False, soft_wrap=True)
    console.print("THE VOTES GIVE ANOTHER DECISION:", style="bold red")
    for line in differences:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    raise typer.Exit(EXIT_WORLD)


def load_record(path: Path) -> VoteRecord:
    """Read a record from a file.

    Raises:
        ConfigError: it cannot be read, or is no record.
    """
    # Protobuf takes a moment to import.
    from ensemble.rpc.convert_record import record_from_json  # noqa: PLC0415

    remedy = "give a file that --record wrote"
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_RECORD_BYTES + 1)
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", remedy) from error
    if len(content) > LARGEST_RECORD_BYTES:
        raise ConfigError(str(path), f"it is larger than {LARGEST_RECORD_BYTES >> 20} MiB", remedy)
    try:
        return record_from_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "it is not UTF-8 text", remedy) from error
    except InvalidRequestError as error:
        raise ConfigError(str(path), f"{error.field}: {error.problem}", remedy) from error


def save_record(record: VoteRecord, path: Path) -> None:
    """Write a record for ``ensemble replay``.

    Raises:
        ConfigError: it cannot be written there.
    """
    from ensemble.rpc.convert_record import record_to_json  # noqa: PLC0415

    try:
        path.write_text(record_to_json(record), "utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be written ({error.strerror})", "give another --record") from error


def count_again(record: VoteRecord, strategy: str, *, path: Path) -> Decision:
    """Count by the record's own rule, or by another one.

    Raises:
        ConfigError: the record's votes cannot be counted by its own rule: it is damaged.
        InvalidRequestError: the other rule is unknown, or cannot count such votes.
        QuorumError: the other rule can read none of the ballots.
    """
    from ensemble.voting.record import recount  # noqa: PLC0415

    if strategy and strategy != record.strategy:
        return recount(record, strategy=strategy)
    try:
        return recount(record)
    except EnsembleError as error:
        raise ConfigError(
            str(path), f"its votes cannot be counted: {error}", "give the record as it was told"
        ) from error


def describe_outcome(decision: Decision) -> str:
    """Tell a decision in one line."""
    confidence = "" if decision.confidence is None else f", confidence {decision.confidence:.3f}"
    marks = "".join(f", {mark}" for mark in ("degraded", "withheld") if getattr(decision, mark))
    return (
        f"{one_line(decision.answer, width=TEXT_WIDTH)!r} by {decision.strategy} ({decision.decided_by}, "
        f"{len(decision.ballots)} of {decision.num_asked} ballots), agreement {decision.agreement:.3f}, "
        f"margin {decision.margin:.3f}{confidence}{marks}"
    )


def tell_unseen(decision: Decision) -> str:
    """Say on how many ballots another rule was tried, when the recorded rule did not wait for everyone's."""
    if decision.decided_by in {DecidedBy.ALL, DecidedBy.DEADLINE}:
        return ""
    num_in = len(decision.ballots)
    ballots = "1 ballot" if num_in == 1 else f"{num_in} ballots"
    return f", on the {ballots} in when {decision.strategy} ended the vote ({decision.decided_by})"


def find_differences(recorded: Decision, counted: Decision) -> list[str]:
    """List what differs, a line each; times do not count, and floats only beyond rounding."""
    pairs = [(name, getattr(recorded, name), getattr(counted, name)) for name in _COMPARED]
    pairs += [
        ("ballots", _facts_of_ballots(recorded), _facts_of_ballots(counted)),
        ("abstentions", _facts_of_silence(recorded), _facts_of_silence(counted)),
    ]
    return [
        f"{name}: recorded {_shown(then)}, counted {_shown(now)}"
        for name, then, now in pairs
        if not _is_same(then, now)
    ]


def _facts_of_ballots(decision: Decision) -> tuple[tuple[object, ...], ...]:
    def facts(ballot: Ballot) -> tuple[object, ...]:
        return ballot.member, ballot.choice, ballot.text, ballot.probabilities, ballot.logprob

    return tuple(map(facts, decision.ballots))


def _facts_of_silence(decision: Decision) -> tuple[tuple[object, ...], ...]:
    return tuple((one.member, one.reason) for one in decision.abstentions)


def _is_same(then: object, now: object) -> bool:
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(then, tuple) and isinstance(now, tuple):
        return len(then) == len(now) and all(map(_is_same, then, now))
    if hasattr(then, "weight") and hasattr(now, "weight"):
        return all(_is_same(getattr(then, name), getattr(now, name)) for name in ("answer", "weight", "members"))
    return then == now


def _shown(value: object) -> str:
    return printable(one_line(str(value), width=2 * TEXT_WIDTH))
