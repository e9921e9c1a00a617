"""``ensemble health``: one question to an endpoint's health service, for probes and scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.cli import options
from ensemble.cli.failure import EXIT_WORLD
from ensemble.cli.options import DEFAULT_ENDPOINT


def health(
    *,
    endpoint: options.Endpoint = DEFAULT_ENDPOINT,
    service: Annotated[str, typer.Option(help="A service of the endpoint; left out, all of it.")] = "",
    timeout_s: options.Timeout = 3.0,
) -> None:
    """Print what an endpoint says of its health; exits with 0 only when that is SERVING."""
    from ensemble.rpc.health_client import check_health  # noqa: PLC0415 - a probe with a bad option need not load gRPC

    state = check_health(endpoint, service=service, timeout_s=timeout_s, tls=options.endpoint_tls())
    typer.echo(state)
    if state != "SERVING":
        raise typer.Exit(EXIT_WORLD)
