"""Every command that takes --endpoint, against one that lets in only those with a certificate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from tests.certificates import Authority, Mount, client_tls
from tests.cli.specs import write_spec
from tests.rpc.systems import Endpoint, endpoint_running

SPEC = """
version: 1
members:
  - {name: a, family: family-a, engine: {type: echo}}
  - {name: b, family: family-b, engine: {type: echo, seed: 1}}
  - {name: c, family: family-c, engine: {type: echo, seed: 2}}
ensembles: [{name: default, members: [a, b, c], generate_strategy: majority}]
"""
ROW = {"id": "q", "prompt": "Is it safe?", "choices": ["yes", "no"], "answer": 0}


async def run(*args: object) -> Result:
    """Run the command line in a thread: the endpoint answers from this loop."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(map(str, args)))


@pytest.fixture
async def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    """Serve with TLS, and put a client's files into the environment."""
    authority, mount = Authority(), Mount(tmp_path / "server")
    mount.put_identity(authority.issue(hosts=("ensemble.example",)), client_ca=authority)
    tls = client_tls(tmp_path / "client", authority, own=authority.issue("client"))
    monkeypatch.setenv("ENSEMBLE_TLS_CA", str(tls.ca))
    monkeypatch.setenv("ENSEMBLE_TLS_CERTIFICATE", str(tls.certificate))
    monkeypatch.setenv("ENSEMBLE_TLS_KEY", str(tls.key))
    monkeypatch.setenv("ENSEMBLE_TLS_NAME", "ensemble.example")
    async with endpoint_running(tls=mount.config(with_clients=True)) as running:
        yield running


@pytest.mark.parametrize(
    "command",
    [
        ("health",),
        ("status",),
        ("ask", "Hello there"),
        ("classify", "Is it safe?", "yes", "no"),
        ("classify", "Is it safe?", "yes", "no", "--json"),
    ],
)
async def test_a_command_gets_its_answer(endpoint: Endpoint, command: tuple[str, ...]) -> None:
    result = await run(*command, "--endpoint", endpoint.address, "--timeout", 30)

    assert result.exit_code == 0, result.output


async def test_a_batch_gets_its_answers(endpoint: Endpoint, tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows.write_text(f"{json.dumps(ROW)}\n", "utf-8")

    result = await run("batch", spec, rows, out, "--endpoint", endpoint.address, "--patience", 5)

    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text("utf-8"))["answer"] in ROW["choices"]  # type: ignore[operator]


async def test_an_evaluation_gets_its_votes(endpoint: Endpoint, tmp_path: Path) -> None:
    spec, data, out = write_spec(tmp_path, SPEC), tmp_path / "data.jsonl", tmp_path / "evaluation"
    data.write_text(
        "".join(f"{json.dumps({**ROW, 'id': f'q{n}', 'prompt': f'Question {n}?'})}\n" for n in range(4)), "utf-8"
    )

    result = await run("evaluate", spec, data, "--endpoint", endpoint.address, "--out", out)

    assert result.exit_code == 0, result.output
    assert (out / "figures.json").is_file()


async def test_a_caller_without_a_certificate_of_its_own_is_told_what_may_be_missing(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENSEMBLE_TLS_CERTIFICATE")
    monkeypatch.delenv("ENSEMBLE_TLS_KEY")

    result = await run("health", "--endpoint", endpoint.address, "--timeout", 30)

    assert result.exit_code == 1
    assert "a client's certificate that it trusts" in result.output


async def test_a_probe_without_tls_asks_the_port_for_probes(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("CA", "CERTIFICATE", "KEY", "NAME"):
        monkeypatch.delenv(f"ENSEMBLE_TLS_{part}")

    result = await run("health", "--endpoint", endpoint.health_address, "--timeout", 30)

    assert (result.exit_code, result.stdout.strip()) == (0, "SERVING")


def test_a_file_that_cannot_be_read_is_the_callers_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLE_TLS_CA", str(tmp_path / "none.pem"))

    result = CliRunner().invoke(app, ["status", "--endpoint", "localhost:1"])

    assert result.exit_code == 2
    assert "none.pem): it cannot be read (No such file or directory)" in result.output


def test_help_says_how_an_endpoint_is_reached_with_tls() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert "ENSEMBLE_TLS_CA" in result.output
