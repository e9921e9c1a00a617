"""``ensemble evaluate`` asks the endpoint that it is given, writes its folder, and refuses what does not fit."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.calibration.ask_all import Schedule, ask_all
from ensemble.calibration.ballot_store import load_evaluation, open_store
from ensemble.calibration.items import LabelledItem
from ensemble.cli.entry import app
from ensemble.cli.evaluation_origin import count_parameters, digest_checkpoint
from ensemble.cli.evaluation_run import GrpcAsker, private_spec
from ensemble.fingerprint import fingerprint
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.spec_file import load_spec
from ensemble.voting.ballot import Abstention, Ballot
from tests.calibration.evaluations import item_set, manifest_of
from tests.cli.specs import write_spec
from tests.rpc.systems import build_echo, endpoint_running

MEMBERS = """
version: 1
members:
  - {name: a, family: family-a, engine: {type: echo}}
  - {name: b, family: family-b, engine: {type: echo, seed: 1}}
  - {name: broken, family: family-broken, engine: {type: echo, fail: error}}
  - {name: other, family: x, engine: {type: echo}}
"""
SPEC = f"{MEMBERS}ensembles: [{{name: default, members: [a, b, broken]}}, {{name: second, members: [a, other]}}]\n"
BROKEN_ALONE = f"{MEMBERS}ensembles: [{{name: default, members: [broken]}}]\n"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve two echo members and one that always fails, from a thread with a loop of its own."""
    addresses: list[str] = []
    is_up, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        engines = {"a": build_echo("a"), "b": build_echo("b", seed=1), "broken": build_echo("broken", fail="error")}
        async with endpoint_running(engines) as running:
            addresses.append(running.address)
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    is_up.wait()
    yield addresses[0]
    is_over.set()
    thread.join()


def write_data(folder: Path, *, num_items: int = 6, name: str = "data.jsonl", **changes: object) -> Path:
    path = folder / name
    lines = (
        {"id": f"q{n}", "prompt": f"Question {n}?", "choices": ["red", "green", "blue"], "answer": n % 3, **changes}
        for n in range(num_items)
    )
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def evaluate(*args: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, args)])


def test_the_folder_has_ballots_figures_and_a_report_that_stands_alone(endpoint: str, tmp_path: Path) -> None:
    spec, data, out = write_spec(tmp_path, SPEC), write_data(tmp_path), tmp_path / "out"

    result = evaluate(spec, data, "--out", out, "--endpoint", endpoint)

    assert result.exit_code == 0, result.output
    stored = load_evaluation(out)
    assert [vote.member for vote in stored.item_votes()[0].votes] == ["a", "b", "broken"]
    figures = json.loads((out / "figures.json").read_text("utf-8"))
    assert figures["sets"][0]["num_items"] == 6
    report = (out / "report.html").read_text("utf-8")
    assert report.count("<svg") >= 2
    assert 'src="' not in report
    assert "<link" not in report
    assert "@import" not in report


def test_a_member_that_always_fails_is_told_loudly_and_the_exit_code_stays_0(endpoint: str, tmp_path: Path) -> None:
    spec, data, out = write_spec(tmp_path, SPEC), write_data(tmp_path), tmp_path / "out"

    result = evaluate(spec, data, "--out", out, "--endpoint", endpoint)

    assert result.exit_code == 0
    assert "broken gave no ballot on 6 of 6 items (error 6): it FAILED" in result.output
    votes = [item.votes[2] for item in load_evaluation(out).item_votes()]
    assert all(isinstance(vote, Abstention) and "configured to fail" in vote.detail for vote in votes)


def test_texts_are_stored_whole_with_what_they_cost(endpoint: str, tmp_path: Path) -> None:
    spec, out, data = write_spec(tmp_path, SPEC), tmp_path / "out", tmp_path / "texts.jsonl"
    data.write_text('{"id": "t", "prompt": "Paris it is.\\nReally", "target": "Paris"}\n', "utf-8")

    result = evaluate(spec, data, "--out", out, "--endpoint", endpoint)

    assert result.exit_code == 0, result.output
    (item,) = load_evaluation(out).item_votes()
    ballot = item.votes[0]
    assert not isinstance(ballot, Abstention)
    assert ballot.text == "Paris it is.\nReally"
    assert ballot.completion_tokens == 4


def test_two_files_are_two_sets_of_the_report(endpoint: str, tmp_path: Path) -> None:
    spec, out = write_spec(tmp_path, SPEC), tmp_path / "out"
    files = [write_data(tmp_path, name=name) for name in ("first.jsonl", "second.jsonl")]

    result = evaluate(spec, *files, "--out", out, "--endpoint", endpoint)

    assert result.exit_code == 0, result.output
    sets = json.loads((out / "figures.json").read_text("utf-8"))["sets"]
    assert [one["name"] for one in sets][:2] == ["first", "second"]


def test_bad_lines_are_told_with_their_places_and_end_with_2(endpoint: str, tmp_path: Path) -> None:
    spec, data = write_spec(tmp_path, SPEC), write_data(tmp_path, answer=7)

    result = evaluate(spec, data, "--out", tmp_path / "out", "--endpoint", endpoint)

    assert result.exit_code == 2
    assert f"{data}:1: its answer is 7, but choices go from 0 to 2" in result.output
    assert "6 of 6 lines cannot be used" in result.output
    assert not (tmp_path / "out").exists()


def test_bad_lines_can_be_left_out_and_are_counted_in_the_report(endpoint: str, tmp_path: Path) -> None:
    spec, data, out = write_spec(tmp_path, SPEC), write_data(tmp_path), tmp_path / "out"
    with data.open("a", encoding="utf-8") as stream:
        stream.write("{}\n")

    result = evaluate(spec, data, "--out", out, "--endpoint", endpoint, "--leave-out")

    assert result.exit_code == 0, result.output
    assert "1 lines of the data could not be used and were left out" in result.output
    assert load_evaluation(out).manifest.sets[0].num_left_out == 1


def test_a_prompt_that_the_spec_does_not_allow_is_a_bad_line(endpoint: str, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, f"{SPEC}limits: {{max_prompt_chars: 5}}\n")

    result = evaluate(spec, write_data(tmp_path), "--out", tmp_path / "out", "--endpoint", endpoint)

    assert result.exit_code == 2
    assert "data.jsonl:1: prompt: it has 11 characters" in result.output


def test_an_endpoint_with_other_members_is_refused(endpoint: str, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, BROKEN_ALONE)

    result = evaluate(spec, write_data(tmp_path), "--out", tmp_path / "out", "--endpoint", endpoint)

    assert result.exit_code == 2
    assert "but the spec's has broken (family-broken)" in result.output


def test_going_on_with_other_data_is_refused_with_the_facts(endpoint: str, tmp_path: Path) -> None:
    spec, out = write_spec(tmp_path, SPEC), tmp_path / "out"
    evaluate(spec, write_data(tmp_path), "--out", out, "--endpoint", endpoint)

    result = evaluate(spec, write_data(tmp_path, num_items=7), "--out", out, "--endpoint", endpoint)

    assert result.exit_code == 2
    assert "an evaluation of another origin lies there: its data were data (6 items" in result.output


def test_a_finished_evaluation_is_reported_again_without_asking_anybody(endpoint: str, tmp_path: Path) -> None:
    spec, data, out = write_spec(tmp_path, SPEC), write_data(tmp_path), tmp_path / "out"
    evaluate(spec, data, "--out", out, "--endpoint", endpoint)
    ballots = (out / "ballots.parquet").read_bytes()

    result = evaluate(spec, data, "--out", out, "--endpoint", "127.0.0.1:1")

    assert result.exit_code == 0, result.output
    assert (out / "ballots.parquet").read_bytes() == ballots


async def test_an_item_on_which_everybody_fails_has_everybodys_silence(tmp_path: Path) -> None:
    items = item_set([LabelledItem(item_id="q", prompt="P", choices=("x", "y"), answer=0)])
    async with (
        endpoint_running({"x": build_echo("x", fail="error"), "y": build_echo("y", fail="error")}) as running,
        AsyncEnsembleClient(running.address) as client,
    ):
        with open_store(tmp_path, manifest_of(items, members=("x", "y")), (items,)) as store:
            await ask_all((items,), store, GrpcAsker(client, "default"), schedule=Schedule(concurrency=1))
            store.finish()

    votes = load_evaluation(tmp_path).item_votes()[0].votes
    assert [vote.member for vote in votes] == ["x", "y"]
    assert all(isinstance(vote, Abstention) for vote in votes)


def test_the_private_spec_has_the_ensembles_members_alone_and_waits_for_all(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, SPEC))

    served = private_spec(spec, spec.ensembles[1])

    assert [member.name for member in served.members] == ["a", "other"]
    assert [ensemble.name for ensemble in served.ensembles] == ["second"]
    assert served.ensembles[0].quorum.stop_early is False
    assert [fingerprint(member) for member in served.members] == [
        fingerprint(spec.members[0]),
        fingerprint(spec.members[3]),
    ]


def write_weights(path: Path, shapes: dict[str, list[int]], *, fill: int = 0) -> None:
    """Write a safetensors file of float32 zeros (or of another byte); a ``.weight_shape`` says what it lists."""
    header: dict[str, dict[str, object]] = {}
    body = b""
    for name, shape in shapes.items():
        is_shape = name.endswith(".weight_shape")
        raw = struct.pack(f"<{len(shape)}q", *shape) if is_shape else bytes([fill]) * (4 * math.prod(shape))
        offsets = [len(body), len(body) + len(raw)]
        dtype, extents = ("I64", [len(shape)]) if is_shape else ("F32", shape)
        header[name] = {"dtype": dtype, "shape": extents, "data_offsets": offsets}
        body += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("words", [2, 1], ids=["8 bits", "4 bits"])
def test_parameters_are_counted_without_reading_weights_and_packed_ones_by_their_shape(
    words: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    shapes = {
        "embed.weight": [10, 4],
        "x.weight_packed": [5, words],
        "x.weight_scale": [5, 1],
        "x.weight_shape": [5, 7],
    }
    write_weights(path, shapes)

    assert count_parameters(path) == 10 * 4 + 5 * 7


def test_two_trainings_of_one_architecture_have_different_digests(tmp_path: Path) -> None:
    digests = []
    for name, fill in (("one", 0), ("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", "utf-8")
        path = tmp_path / name / "model.safetensors"
        write_weights(path, {"x.weight": [100, 1000]}, fill=fill)
        digests.append(digest_checkpoint(path.parent, [path]))

    assert digests[0] == digests[1] != digests[2]


def test_another_tokenizer_gives_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, {"x.weight": [2, 2]})
    before = digest_checkpoint(tmp_path, [path])

    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")

    assert digest_checkpoint(tmp_path, [path]) != before


def test_without_out_the_folder_is_named_evaluation(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = evaluate(write_spec(tmp_path, SPEC), write_data(tmp_path), "--endpoint", endpoint)

    assert result.exit_code == 0, result.output
    assert len(load_evaluation(tmp_path / "evaluation").item_votes()) == 6


async def test_only_the_members_that_are_missing_are_asked() -> None:
    item = LabelledItem(item_id="q", prompt="P", choices=("x", "y"), answer=0)
    async with endpoint_running() as running, AsyncEnsembleClient(running.address) as client:
        votes = [vote async for vote in GrpcAsker(client, "default").ask(item, ("b",))]
        finished = {name: engine.stats().finished_requests for name, engine in running.engines.items()}

    assert [vote.member for vote in votes] == ["b"]
    assert finished == {"a": 0, "b": 1, "c": 0}


async def test_a_text_that_is_asked_of_one_member_alone_has_its_log_probability_all_the_same() -> None:
    item = LabelledItem(item_id="q", prompt="a b", reference="a")
    async with endpoint_running() as running, AsyncEnsembleClient(running.address) as client:
        votes = [vote async for vote in GrpcAsker(client, "default").ask(item, ("b",))]

    assert [vote.logprob for vote in votes if isinstance(vote, Ballot)] == [pytest.approx(-math.log(2.0))]
