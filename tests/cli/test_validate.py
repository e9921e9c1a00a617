"""``ensemble validate`` and ``ensemble schema`` say what is wrong, where, and what to do; never a traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from tests.cli.specs import ENSEMBLES, GOOD, MEMBERS, write_spec

BAD_SPECS = {
    "a mistyped key": (GOOD.replace("family: x", "famly: x"), ("members[0].famly", "did you mean 'family'")),
    "an unknown key": (f"{GOOD}\nzzz: 1", ("zzz", "no such key")),
    "a wrong type": (GOOD.replace("family: x,", "family: x, replicas: many,"), ("members[0].replicas", "integer")),
    "a missing key": (GOOD.replace("family: x, ", ""), ("members[0].family", "required")),
    "a future version": (GOOD.replace("version: 1", "version: 2"), ("version", "it is 2", "reads 1")),
    "broken YAML": ("version: [1", ("not valid YAML", "line 1")),
    "a list": ("- 1\n- 2", ("not a mapping", "version: 1")),
    "an empty file": ("", ("not a mapping",)),
    "a key that stands twice": (f"{GOOD}\nversion: 1", ("'version'", "twice")),
    "two members of one name": (GOOD.replace("name: b", "name: a"), ("members", "'a' twice")),
    "an unknown member": (GOOD.replace("[a, b]", "[a, c]"), ("ensembles[0].members", "'c'", "a, b")),
    "an unknown strategy": (
        GOOD.replace("[a, b]", "[a, b], classify_strategy: plurality"),
        ("ensembles[0].classify_strategy", "plurality", "weighted_vote"),
    ),
    "a strategy for texts only": (
        GOOD.replace("[a, b]", "[a, b], classify_strategy: mbr"),
        ("ensembles[0].classify_strategy", "mbr"),
    ),
    "more families than there are": (
        GOOD.replace("[a, b]", "[a, b], quorum: {min_families: 3}"),
        ("ensembles[0].quorum.min_families", "3"),
    ),
    "a weight that is no number": (GOOD.replace("family: x,", "family: x, weight: .nan,"), ("members[0].weight",)),
    "an infinite weight": (GOOD.replace("family: x,", "family: x, weight: .inf,"), ("members[0].weight",)),
    "a port out of range": (f"{GOOD}\nrouter: {{port: 70000}}", ("router.port", "65535")),
    "an unknown engine": (GOOD.replace("type: echo", "type: abacus", 1), ("members[0].engine", "abacus")),
    "a model without a checkpoint": (
        GOOD.replace("engine: {type: echo}", "engine: {type: embedded}", 1),
        ("members[0]", "needs a checkpoint"),
    ),
    "a missing folder": (
        GOOD.replace("engine: {type: echo}", "checkpoint: ./nowhere", 1),
        ("members[0].checkpoint", "nowhere", "ensemble compress"),
    ),
    "a missing cached checkpoint": (
        GOOD.replace("engine: {type: echo}", "checkpoint: 'cache:nowhere'", 1),
        ("members[0].checkpoint", "nowhere", "ensemble compress"),
    ),
    "a missing folder in a fused group": (
        GOOD.replace(
            "engine: {type: echo}", "checkpoint: org/name, engine: {type: fused, others: [org/other, ./nowhere]}", 1
        ),
        ("members[0].engine.others[1]", "nowhere", "ensemble compress"),
    ),
    "a missing adapter": (
        GOOD.replace("engine: {type: echo}", "checkpoint: org/name, engine: {type: vllm, lora: ./nowhere}", 1),
        ("members[0].engine.lora", "nowhere", "adapter_model.safetensors"),
    ),
    "an option of vLLM's with a field of its own": (
        GOOD.replace(
            "engine: {type: echo}", "checkpoint: org/name, engine: {type: vllm, options: {max_model_len: 9}}", 1
        ),
        ("members[0].engine.options.max_model_len", "engine.max_context"),
    ),
    "a missing package": (
        GOOD.replace("engine: {type: echo}", "checkpoint: 'package:no_such_package/x.gguf'", 1),
        ("members[0].checkpoint", "no_such_package", "install it"),
    ),
    "a file missing in a package": (
        GOOD.replace("engine: {type: echo}", "checkpoint: 'package:ensemble/x.gguf'", 1),
        ("members[0].checkpoint", "x.gguf"),
    ),
}


def run(*args: str | Path) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def check_fails(result: Result, *, exit_code: int = 2) -> None:
    """See that a command failed with one line of explanation."""
    assert result.exit_code == exit_code
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("ensemble: ")


def test_a_good_spec_is_shown(tmp_path: Path) -> None:
    path = write_spec(tmp_path, GOOD.replace("family: x,", "family: x, weight: 2.5,"))

    result = run("validate", path)

    assert result.exit_code == 0
    assert "2.5" in result.stdout
    assert "weighted_vote" in result.stdout
    assert "127.0.0.1:9000" in result.stdout


def test_an_ipv6_endpoint_is_shown_as_clients_write_it(tmp_path: Path) -> None:
    result = run("validate", write_spec(tmp_path, f"{GOOD}\nrouter: {{host: '::1'}}"))

    assert "it answers on [::1]:9000" in result.stdout.replace("\n", " ")


@pytest.mark.parametrize("what", BAD_SPECS)
def test_a_bad_spec_is_explained_in_one_line(what: str, tmp_path: Path) -> None:
    text, expected = BAD_SPECS[what]

    result = run("validate", write_spec(tmp_path, text))

    check_fails(result)
    assert [fact for fact in expected if fact not in result.stderr] == []


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    result = run("validate", tmp_path / "absent.yaml")

    check_fails(result)
    assert "absent.yaml" in result.stderr
    assert "No such file" in result.stderr


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = write_spec(tmp_path, f"version: 1{MEMBERS}{ENSEMBLES}router: {{port: 0}}\nlimits: {{max_choices: 1}}")

    result = run("validate", path)

    assert "router.port" in result.stderr
    assert "limits.max_choices" in result.stderr


def test_checkpoints_of_another_machine_can_be_left_alone(tmp_path: Path) -> None:
    path = write_spec(tmp_path, GOOD.replace("engine: {type: echo}", "checkpoint: ./nowhere", 1))

    assert run("validate", path, "--skip-checkpoints").exit_code == 0


def test_a_folder_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    path = write_spec(tmp_path, GOOD.replace("engine: {type: echo}", "checkpoint: ./half", 1))

    result = run("validate", path)

    check_fails(result)
    assert "model.safetensors" in result.stderr


@pytest.mark.parametrize("kind", ["spec", "recipe"])
def test_the_committed_schema_is_the_printed_one(kind: str) -> None:
    committed = Path(__file__).parents[2] / "deploy" / f"{kind}.schema.json"

    printed = run("schema", kind).stdout

    assert printed == committed.read_text("utf-8"), f"run: ensemble schema {kind} > deploy/{kind}.schema.json"


def test_the_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        result = run("serve", write_spec(tmp_path, f"{GOOD}\nrouter: {{port: {port}}}"))

    check_fails(result)
    assert "router.port" in result.stderr
    assert str(port) in result.stderr


def test_detaching_needs_a_cluster_to_detach_from(tmp_path: Path) -> None:
    result = run("serve", write_spec(tmp_path, GOOD), "--detach")

    check_fails(result)
    assert "--address" in result.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str, tmp_path: Path) -> None:
    result = run("serve", write_spec(tmp_path, GOOD), "--address", address, "--detach")

    check_fails(result)
    assert result.stderr.startswith(f"ensemble: address: nobody answers on {address}")


def test_serving_looks_for_checkpoints_before_it_starts_anything(tmp_path: Path) -> None:
    path = write_spec(tmp_path, GOOD.replace("engine: {type: echo}", "checkpoint: ./nowhere", 1))

    result = run("serve", path)

    check_fails(result)
    assert "members[0].checkpoint" in result.stderr
