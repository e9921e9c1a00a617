"""The options that ``ask`` and ``classify`` share, and what they make of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ensemble.cli.decision_json import decision_to_json
from ensemble.cli.live_vote import LiveVote, Shown
from ensemble.cli.replay import save_record
from ensemble.cli.terminal import stdout_console
from ensemble.cli.vote_view import follow_vote
from ensemble.environment import client_tls_variables
from ensemble.errors import ConfigError, InvalidRequestError
from ensemble.router.request import Event
from ensemble.rpc.client import ClientTls, EnsembleClient
from ensemble.voting.ballot import Voter
from ensemble.voting.decision import Decision
from ensemble.voting.record import VoteRecord

DEFAULT_ENDPOINT = "localhost:9000"
TLS_HELP = (
    "An endpoint is reached with TLS when ENSEMBLE_TLS_CA names a PEM file with the authorities that its certificate "
    "must come from. ENSEMBLE_TLS_CERTIFICATE and ENSEMBLE_TLS_KEY name the caller's own, for an endpoint that wants "
    "one. ENSEMBLE_TLS_NAME is whom the endpoint's certificate must be for, where that is not the host of --endpoint."
)

Endpoint = Annotated[str, typer.Option(help="Where the ensemble answers, host:port; with TLS, see `ensemble --help`.")]
EnsembleName = Annotated[str, typer.Option(help="Which ensemble; left out, the only one or the one named default.")]
Strategy = Annotated[str, typer.Option(help="The voting rule; left out, the ensemble's own.")]
Panel = Annotated[list[str] | None, typer.Option("--member", help="Ask only this member; may be given several times.")]
WaitForAll = Annotated[bool, typer.Option("--all", help="Wait for every member, even when the vote is decided.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds that the answer may take.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (see above).")]
Record = Annotated[
    Path | None, typer.Option(help="Write all that led to the decision into this file, for `ensemble replay`.")
]
NoStream = Annotated[bool, typer.Option("--no-stream", help="Show nothing before the decision is there.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCall:
    """Whom to ask, how to show the answer, and where to keep its record, if anywhere."""

    endpoint: str
    ensemble: str
    panel: tuple[str, ...]
    timeout_s: float
    as_json: bool
    streams: bool
    record: Path | None


def endpoint_tls() -> ClientTls | None:
    """Read from the environment how endpoints are reached; None is without TLS."""
    said = client_tls_variables()
    if said and "ca" not in said:
        problem = f"it is not set, and ENSEMBLE_TLS_{next(iter(said)).upper()} is"
        raise ConfigError("ENSEMBLE_TLS_CA", problem, "set it to a PEM file, or unset the other")
    paths = {part: Path(value) for part, value in said.items() if part != "name"}
    return ClientTls(**paths, name=said.get("name", "")) if said else None


def read_prompt(prompt: str) -> str:
    """Give the prompt as typed, or from stdin when it is ``-``."""
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidRequestError("prompt", "stdin is not UTF-8 text", "give text") from error


def run_vote(
    call: VoteCall,
    *,
    choices: Sequence[str],
    whole: Callable[[EnsembleClient], Decision | VoteRecord],
    stream: Callable[[EnsembleClient], Iterable[Event]],
) -> None:
    """Ask, and print the vote the way that was asked for; a call that keeps a record must ask for it."""
    with EnsembleClient(call.endpoint, timeout_s=call.timeout_s, tls=endpoint_tls()) as client:
        if call.as_json:
            for decision in _without_record(_only_one(client, whole), call.record):
                if isinstance(decision, Decision):
                    typer.echo(decision_to_json(decision))
            return
        vote = LiveVote.of(find_panel(client, call.ensemble, call.panel), choices)
        events: Iterable[Event] = stream(client) if call.streams else _only_one(client, whole)
        follow_vote(_without_record(events, call.record), vote, stdout_console())


def find_panel(client: EnsembleClient, ensemble: str, panel: Sequence[str]) -> tuple[Voter, ...]:
    """Look up who will be asked, for showing them from the start; an unknown name is the server's to refuse."""
    summaries = {summary.name: summary for summary in client.list_ensembles()}
    default = next(iter(summaries)) if len(summaries) == 1 else "default"
    found = summaries.get(ensemble or default)
    members = found.members if found else ()
    return tuple(voter for voter in members if not panel or voter.member in panel)


def _only_one(client: EnsembleClient, whole: Callable[[EnsembleClient], Decision | VoteRecord]) -> Iterable[Event]:
    # A generator, so that the clock runs while the call does.
    outcome = whole(client)
    if isinstance(outcome, VoteRecord):
        yield outcome
        yield outcome.decision
    else:
        yield outcome


def _without_record(events: Iterable[Event], path: Path | None) -> Iterable[Shown]:
    """Pass events on, and keep the record in its file."""
    for event in events:
        if not isinstance(event, VoteRecord):
            yield event
        elif path is not None:
            save_record(event, path)
