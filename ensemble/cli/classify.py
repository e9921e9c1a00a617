"""``ensemble classify``: a question with given choices."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.cli import options
from ensemble.cli.decision_json import DECISION_HELP
from ensemble.cli.options import DEFAULT_ENDPOINT, VoteCall, read_prompt, run_vote
from ensemble.router.request import QuorumOverrides, VoteOptions


def classify(  # noqa: PLR0913 - a command's options are its arguments
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from stdin.")],
    choices: Annotated[list[str], typer.Argument(help="Two or more choices.")],
    *,
    endpoint: options.Endpoint = DEFAULT_ENDPOINT,
    ensemble: options.EnsembleName = "",
    strategy: options.Strategy = "",
    member: options.Panel = None,
    wait_for_all: options.WaitForAll = False,
    timeout_s: options.Timeout = 60.0,
    as_json: options.AsJson = False,
    no_stream: options.NoStream = False,
    record: options.Record = None,
) -> None:
    """Decide among choices; shows each ballot as it comes, the moment of decision, and who was cancelled."""
    quorum = QuorumOverrides(stop_early=False if wait_for_all else None)
    vote_options = VoteOptions(
        strategy=strategy, panel=tuple(member or ()), quorum=quorum, include_record=record is not None
    )
    text = read_prompt(prompt)
    run_vote(
        VoteCall(
            endpoint=endpoint,
            ensemble=ensemble,
            panel=vote_options.panel,
            timeout_s=timeout_s,
            as_json=as_json,
            streams=not no_stream,
            record=record,
        ),
        choices=choices,
        whole=lambda client: (client.classify_with_record if record else client.classify)(
            text, choices, ensemble=ensemble, options=vote_options
        ),
        stream=lambda client: client.stream_classify(text, choices, ensemble=ensemble, options=vote_options),
    )


classify.__doc__ = f"{classify.__doc__}\n\n{DECISION_HELP}"
