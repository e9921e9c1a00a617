"""``ensemble batch`` answers every row once, refuses what does not fit, and says by its exit code how it went."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from tests.cli.specs import write_spec
from tests.rpc.systems import endpoint_running

SPEC = """
version: 1
members:
  - {name: a, family: family-a, engine: {type: echo}}
  - {name: b, family: family-b, engine: {type: echo, seed: 1}}
  - {name: c, family: family-c, engine: {type: echo, seed: 2}}
ensembles: [{name: default, members: [a, b, c], generate_strategy: majority}]
"""
CHOICES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve three echo members from a thread with a loop of its own."""
    addresses: list[str] = []
    is_up, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with endpoint_running() as running:
            addresses.append(running.address)
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    is_up.wait()
    yield addresses[0]
    is_over.set()
    thread.join()


def write_rows(folder: Path, *extra: str, count: int = 9) -> Path:
    """Write questions and, every third, a prompt to be completed; then the extra lines."""
    path = folder / "in.jsonl"
    rows = (
        {"id": f"q{n}", "prompt": f"Question {n}?", **({"choices": CHOICES} if n % 3 else {})} for n in range(count)
    )
    path.write_text("".join(f"{line}\n" for line in (*map(json.dumps, rows), *extra)), "utf-8")
    return path


def batch(*args: object) -> Result:
    return CliRunner().invoke(app, ["batch", *map(str, args)])


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_row_is_answered_in_order_and_the_figures_are_told(endpoint: str, tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), write_rows(tmp_path), tmp_path / "out.jsonl"

    result = batch(spec, rows, out, "--endpoint", endpoint, "--shard-items", 4)

    assert result.exit_code == 0, result.output
    answered = read_rows(out)
    assert [row["id"] for row in answered] == [f"q{n}" for n in range(9)]
    assert answered[0]["answer"] == "question 0"
    assert answered[1]["answer"] in CHOICES
    assert tuple(answered[1]) == ("id", "answer", "degraded", "agreement", "withheld", "abstentions")
    assert "9 of 9 items answered, 0 lines rejected" in result.output
    report = json.loads((tmp_path / "out.jsonl.batch" / "report.json").read_text("utf-8"))
    assert sum(report["agreement"]["num_by_tenth"]) == 9
    assert report["members"]["b"] == {
        "num_ballots": 9,
        "abstentions": {},
        "prompt_tokens": 18,
        "completion_tokens": 6,
        "gflop": None,
    }
    assert report["tokens"] == {"prompt": 54, "completion": 18}
    assert "cost: 54 tokens read, 18 written" in result.output
    assert report["this_run"]["num_asked"] == 9


def test_bad_lines_go_to_the_rejects_file_and_the_exit_code_says_so(endpoint: str, tmp_path: Path) -> None:
    spec, out = write_spec(tmp_path, SPEC), tmp_path / "out.jsonl"
    rows = write_rows(tmp_path, "nonsense", '{"id": "x"}', '{"id": "q1", "prompt": "again"}')

    result = batch(spec, rows, out, "--endpoint", endpoint)

    assert result.exit_code == 3, result.output
    assert len(read_rows(out)) == 9
    assert read_rows(tmp_path / "out.jsonl.batch" / "rejects.jsonl") == [
        {"line": 10, "reason": "it is not JSON (Expecting value at column 1)"},
        {"line": 11, "reason": "it has no prompt"},
        {"line": 12, "reason": "its id 'q1' stands on line 2 already"},
    ]
    assert "in.jsonl:11: it has no prompt" in result.output


def test_rejects_that_are_accepted_are_told_and_no_failure(endpoint: str, tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), write_rows(tmp_path, "nonsense"), tmp_path / "out.jsonl"

    result = batch(spec, rows, out, "--endpoint", endpoint, "--accept-rejects")

    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out.jsonl.batch" / "report.json").read_text("utf-8"))["num_rejects"] == 1


def test_the_same_command_again_changes_nothing_and_tells_the_figures_again(endpoint: str, tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), write_rows(tmp_path, "nonsense"), tmp_path / "out.jsonl"
    first = batch(spec, rows, out, "--endpoint", endpoint, "--json")
    written = out.read_bytes(), out.stat().st_mtime_ns

    # Nobody is there who could be asked.
    again = batch(spec, rows, out, "--endpoint", "127.0.0.1:1", "--json")

    assert (first.exit_code, again.exit_code) == (3, 3)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert (out.read_bytes(), out.stat().st_mtime_ns) == written


def test_parquet_in_and_out_has_the_rows_of_json_lines(endpoint: str, tmp_path: Path) -> None:
    spec, rows = write_spec(tmp_path, SPEC), write_rows(tmp_path)
    batch(spec, rows, tmp_path / "out.jsonl", "--endpoint", endpoint, "--with-confidence", "--with-ballots")
    read = [{"choices": None, **row} for row in read_rows(rows)]
    import pyarrow as pa  # noqa: PLC0415 - heavy

    parquet.write_table(pa.Table.from_pylist(read), tmp_path / "in.parquet")

    out = tmp_path / "out.parquet"
    options = ("--endpoint", endpoint, "--with-confidence", "--with-ballots")
    result = batch(spec, tmp_path / "in.parquet", out, *options)

    assert result.exit_code == 0, result.output
    assert parquet.read_table(out).to_pylist() == read_rows(tmp_path / "out.jsonl")


def test_an_early_stop_leaves_the_columns_that_it_cannot_change(endpoint: str, tmp_path: Path) -> None:
    spec, rows = write_spec(tmp_path, SPEC), write_rows(tmp_path, count=30)
    whole, early = tmp_path / "whole.jsonl", tmp_path / "early.jsonl"

    results = [
        batch(spec, rows, whole, "--endpoint", endpoint),
        batch(spec, rows, early, "--endpoint", endpoint, "--stop-early"),
    ]

    assert [result.exit_code for result in results] == [0, 0], results
    kept = ("id", "answer", "degraded")
    assert read_rows(early) == [{name: row[name] for name in kept} for row in read_rows(whole)]


@pytest.mark.parametrize(
    ("spec", "options", "problem"),
    [
        (SPEC, ("--stop-early", "--with-ballots"), "--stop-early: the wanted columns depend on who came first"),
        (SPEC, ("--address", "auto"), "--endpoint: --address is given, too"),
        (
            SPEC.replace("members: [a, b, c]", "members: [a, b, c], asking: {policy: cascade, stages: [[a, b], [c]]}"),
            ("--stop-early",),
            "--stop-early: default stops at a risk or in stages",
        ),
        (
            SPEC.replace("generate_strategy: majority", "classify_strategy: log_pool"),
            (),
            "its ensemble 'default' decides by weighted_vote and majority, the spec's by log_pool and mbr",
        ),
        (SPEC.replace("family-c", "other"), (), "its ensemble 'default' has a (family-a), b (family-b), c (family-c)"),
        (
            f"{SPEC}limits: {{max_concurrent: 8}}",
            ("--concurrency", "9"),
            "--concurrency: it is 9, and the spec's routers take 8 requests at a time",
        ),
        (SPEC, ("--ensemble", "none"), "ensemble: there is no 'none'; use one of: default"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(
    endpoint: str, tmp_path: Path, spec: str, options: tuple[str, ...], problem: str
) -> None:
    out = tmp_path / "out.jsonl"

    result = batch(write_spec(tmp_path, spec), write_rows(tmp_path), out, "--endpoint", endpoint, *options)

    assert result.exit_code == 2, result.output
    assert problem in result.output
    assert not out.exists()


def test_an_output_that_exists_is_refused_and_left_alone(endpoint: str, tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), write_rows(tmp_path), tmp_path / "out.jsonl"
    out.write_text("precious", "utf-8")

    result = batch(spec, rows, out, "--endpoint", endpoint)

    assert result.exit_code == 2
    assert "out.jsonl: it exists, and this batch did not write it; give another OUTPUT, or remove it" in result.output
    assert out.read_text("utf-8") == "precious"


def test_a_run_over_other_rows_does_not_go_on_with_the_first_one(endpoint: str, tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), write_rows(tmp_path), tmp_path / "out.jsonl"
    batch(spec, rows, out, "--endpoint", endpoint)
    before = out.read_bytes()

    result = batch(spec, write_rows(tmp_path, count=10), out, "--endpoint", endpoint)

    assert result.exit_code == 2
    assert "num_items was 9 and is 10" in result.output
    assert out.read_bytes() == before


def test_an_endpoint_that_is_gone_ends_the_batch_with_what_to_do(tmp_path: Path) -> None:
    spec, rows, out = write_spec(tmp_path, SPEC), write_rows(tmp_path), tmp_path / "out.jsonl"

    result = batch(spec, rows, out, "--endpoint", "127.0.0.1:1", "--patience", 0)

    assert result.exit_code == 1
    assert "127.0.0.1:1: UNAVAILABLE" in result.output
    assert not out.exists()
