"""``health`` against a real endpoint."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from tests.rpc.systems import NOBODY, endpoint_running


async def run(*args: str) -> Result:
    """Run the command line in a thread: the endpoint answers from this loop."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["health", *args])


@pytest.mark.parametrize("service", ["", "ensemble.v1.EnsembleService"])
async def test_an_endpoint_that_serves_is_told_by_word_and_exit_status(service: str) -> None:
    async with endpoint_running() as endpoint:
        result = await run("--endpoint", endpoint.address, "--service", service, "--timeout", "30")

    assert (result.exit_code, result.stdout.strip()) == (0, "SERVING")


async def test_an_endpoint_that_drains_fails_the_probe() -> None:
    async with endpoint_running() as endpoint:
        await endpoint.server._health.drain()
        result = await run("--endpoint", endpoint.address, "--timeout", "30")

    assert (result.exit_code, result.stdout.strip()) == (1, "NOT_SERVING")


async def test_a_service_that_the_endpoint_has_not_fails_the_probe() -> None:
    async with endpoint_running() as endpoint:
        result = await run("--endpoint", endpoint.address, "--service", "no.such.Service", "--timeout", "30")

    assert result.exit_code == 1
    assert "NOT_FOUND" in result.output


async def test_nobody_there_fails_the_probe() -> None:
    result = await run("--endpoint", NOBODY, "--timeout", "5")

    assert result.exit_code == 1
    assert "UNAVAILABLE" in result.output
