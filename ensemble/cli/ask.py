"""``ensemble ask``: a prompt, answered with a text."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.cli import options
from ensemble.cli.decision_json import DECISION_HELP
from ensemble.cli.options import DEFAULT_ENDPOINT, VoteCall, read_prompt, run_vote
from ensemble.router.request import ParameterOverrides, QuorumOverrides, StreamMode, VoteOptions


def ask(  # noqa: PLR0913 - a command's options are its arguments
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from stdin.")],
    *,
    endpoint: options.Endpoint = DEFAULT_ENDPOINT,
    ensemble: options.EnsembleName = "",
    strategy: options.Strategy = "",
    member: options.Panel = None,
    wait_for_all: options.WaitForAll = False,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens of each completion.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 (greedy) to 2.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Share of the probability mass sampled from.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Completions end before this; may be given several times.")
    ] = None,
    timeout_s: options.Timeout = 60.0,
    as_json: options.AsJson = False,
    no_stream: options.NoStream = False,
    stream: Annotated[StreamMode, typer.Option(help="Whose text is shown while it is written.")] = StreamMode.ALL,
    record: options.Record = None,
) -> None:
    """Answer a prompt with the text that the members' vote chose; shows what each of them writes."""
    parameters = ParameterOverrides(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=tuple(stop or ())
    )
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
        choices=(),
        whole=lambda client: (client.generate_with_record if record else client.generate)(
            text, ensemble=ensemble, parameters=parameters, options=vote_options
        ),
        stream=lambda client: client.stream_generate(
            text, ensemble=ensemble, parameters=parameters, options=vote_options, mode=stream
        ),
    )


ask.__doc__ = f"{ask.__doc__}\n\n{DECISION_HELP}"
