"""Specs from YAML: what is read, where paths lead, and that the example specs hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.spec_file import load_spec, parse_spec, spec_schema
from tests.cli.specs import GOOD, write_spec

README = Path(__file__).parents[1] / "README.md"
SPECS = README.parent / "deploy" / "specs"


def load(folder: Path, text: str) -> Spec:
    """Write a spec and load it."""
    return load_spec(write_spec(folder, text))


def with_checkpoint(reference: str) -> str:
    """Give the good spec with a first member that runs a model."""
    return GOOD.replace("engine: {type: echo}", f"checkpoint: {json.dumps(reference)}", 1)


def test_the_readmes_specs_hold() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    whole, ensemble = (yaml.safe_load(block) for block in blocks)

    spec = parse_spec(whole, source="README.md", folder=README.parent)
    more = parse_spec({**whole, "ensembles": ensemble}, source="README.md", folder=README.parent)

    assert spec.ensembles[0].name == more.ensembles[0].name == "default"
    assert more.ensembles[0].abstain_below == 0.5


def test_a_relative_checkpoint_is_taken_from_the_specs_folder(tmp_path: Path) -> None:
    spec = load(tmp_path, with_checkpoint("./weights"))

    assert spec.members[0].checkpoint == str(tmp_path / "weights")


def test_a_path_can_lead_out_of_the_specs_folder(tmp_path: Path) -> None:
    spec = load(tmp_path, with_checkpoint("../weights"))

    assert spec.members[0].checkpoint == str(tmp_path.parent / "weights")


def test_what_exists_in_the_specs_folder_is_taken_from_there(tmp_path: Path) -> None:
    (tmp_path / "weights" / "small").mkdir(parents=True)

    spec = load(tmp_path, with_checkpoint("weights/small"))

    assert spec.members[0].checkpoint == str(tmp_path / "weights" / "small")


def test_a_gguf_file_is_taken_from_the_specs_folder_though_it_is_missing(tmp_path: Path) -> None:
    spec = load(tmp_path, with_checkpoint("weights/small.gguf"))

    assert spec.members[0].checkpoint == str(tmp_path / "weights" / "small.gguf")


def test_a_member_without_checkpoint_does_not_get_the_specs_folder(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).members[0].checkpoint == ""


@pytest.mark.parametrize("reference", ["~nosuchuser/x", "x" * 5_000, "./a\0b"])
def test_a_reference_that_cannot_be_a_path_is_the_operators_mistake(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a path") as caught:
        load(tmp_path, with_checkpoint(reference))

    assert caught.value.where == "members[0].checkpoint"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    spec = load(tmp_path, with_checkpoint("~/weights"))

    assert spec.members[0].checkpoint == str(tmp_path / "weights")


def test_a_cached_checkpoint_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))

    spec = load(tmp_path, with_checkpoint("cache:compressed/a"))

    assert spec.members[0].checkpoint == str(tmp_path / "cache" / "compressed" / "a")


def test_an_adapter_is_a_folder_wherever_the_spec_says_and_never_where_a_worker_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folders = ("adapters/x", "./x", "cache:adapters/x", "~/x", "/x")

    specs = [
        load(
            tmp_path,
            GOOD.replace("engine: {type: echo}", f"checkpoint: a/b, engine: {{type: vllm, lora: {json.dumps(it)}}}", 1),
        )
        for it in folders
    ]

    loras = [getattr(spec.members[0].engine, "lora", "") for spec in specs]
    assert loras == [
        *(str(tmp_path / lies) for lies in ("adapters/x", "x", "cache/adapters/x", "home/x")),
        "/x",
    ]


@pytest.mark.parametrize("reference", ["org/name", "org/name@main", "package:module/file.gguf", "package:module"])
def test_other_references_stay_as_they_are(reference: str, tmp_path: Path) -> None:
    assert load(tmp_path, with_checkpoint(reference)).members[0].checkpoint == reference


def test_a_key_that_stands_twice_is_refused_at_any_depth(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'name' stands twice"):
        load(tmp_path, GOOD.replace("name: a,", "name: a, name: c,"))


def test_a_mapping_can_be_merged_into_others_which_change_it(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        """
        version: 1
        members:
          - &first {name: a, family: x, engine: {type: echo}}
          - &second {<<: *first, name: b}
          - {<<: *second, name: c, family: y}
        ensembles: [{name: default, members: [a, b, c]}]
        """,
    )

    assert [(member.name, member.family, member.engine.type) for member in spec.members] == [
        ("a", "x", "echo"),
        ("b", "x", "echo"),
        ("c", "y", "echo"),
    ]


def test_a_merged_mappings_own_key_cannot_stand_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'name' stands twice"):
        load(tmp_path, "version: 1\na: &a {x: 1}\nb: {<<: *a, name: b, name: c}\n")


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "a: &a {<<: *a}"])
def test_endless_nesting_is_no_crash(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, text)


def test_a_key_that_cannot_be_one_is_no_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, "? [1, 2]\n: 3\n")


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path, "!!python/object/apply:os.getcwd []")


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="UTF-8"):
        load_spec(path)


def test_an_anchor_can_be_used_again(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        """
        version: 1
        members:
          - {name: a, family: x, engine: &echo {type: echo, seed: 7}}
          - {name: b, family: y, engine: *echo}
        ensembles: [{name: default, members: [a, b]}]
        """,
    )

    assert spec.members[0].engine == spec.members[1].engine


def test_a_pattern_that_is_no_expression_is_the_operators_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        load(tmp_path, GOOD.replace("[a, b]", "[a, b], answer: {extract: pattern, pattern: '('}"))


@pytest.mark.parametrize(
    "answer", ["{extract: pattern}", "{pattern: x}", "{extract: pattern, pattern: '('}", "{pattern: x, extract: auto}"]
)
def test_a_pattern_that_does_not_fit_is_named_by_its_place(answer: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace("[a, b]", f"[a, b], answer: {answer}"))

    assert caught.value.problem.startswith("ensembles[0].answer.pattern: ")
    assert "answer_rule" not in caught.value.problem


def test_a_list_whose_only_item_is_bad_is_not_called_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            "version: 1\nmembers: [{name: a, family: x, weight: -1}]\nensembles: [{name: default, members: [a]}]",
        )

    assert caught.value.problem == "members[0].weight: input should be greater than 0"


def test_a_list_without_items_is_called_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="members: tuple should have at least 1 item"):
        load(tmp_path, "version: 1\nmembers: []\nensembles: [{name: default, members: [a]}]")


def test_a_spec_that_was_read_elsewhere_names_its_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec({"version": 1}, source="the Serve config", folder=tmp_path)

    assert caught.value.where == "the Serve config"
    assert "members: field required" in caught.value.problem


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_example_specs_hold_and_name_their_schema(path: Path) -> None:
    spec = load_spec(path)

    first_line = path.read_text("utf-8").splitlines()[0]
    assert first_line == "# yaml-language-server: $schema=../spec.schema.json"
    assert {name for ensemble in spec.ensembles for name in ensemble.members} == {
        member.name for member in spec.members
    }


def test_the_laptop_fits_two_cores_and_has_two_families() -> None:
    spec = load_spec(SPECS / "laptop.yaml")

    assert sum(member.resources.cpus * member.replicas for member in spec.members) <= 2.0
    assert len({member.family for member in spec.members}) == 2
    assert len(spec.members) >= 4


def test_the_schema_describes_every_key_of_a_member() -> None:
    schema = json.loads(spec_schema())

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$defs"]["MemberConfig"]["additionalProperties"] is False
    assert {"name", "family", "checkpoint", "engine", "weight"} <= set(schema["$defs"]["MemberConfig"]["properties"])


def test_a_spec_of_another_version_is_told_which_one_is_read(tmp_path: Path) -> None:
    text = (
        "version: 0\nmembers: [{name: a, family: x, engine: {type: echo}}]\nensembles: [{name: default, members: [a]}]"
    )

    with pytest.raises(ConfigError, match="version: it is 0, and this program reads 1"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("reference", "environment", "expected"),
    [
        ("store:a", "s3://bucket/models", "store:a@s3://bucket/models"),
        ("store:a", "/shared/models", "store:a@/shared/models"),
        ("store:a", "", "store:a@{folder}/cache/store"),
        ("store:a@gs://other", "s3://bucket/models", "store:a@gs://other"),
        ("store:a@./models", "s3://bucket/models", "store:a@{folder}/models"),
        (f"store:sha256:{'0' * 64}", "s3://x", f"store:sha256:{'0' * 64}@s3://x"),
    ],
)
def test_a_stored_checkpoint_is_told_its_store_where_the_spec_is_read(
    reference: str, environment: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ENSEMBLE_STORE", environment)

    spec = load(tmp_path, with_checkpoint(reference))

    assert spec.members[0].checkpoint == expected.format(folder=tmp_path)


def test_a_faulty_reference_into_a_store_is_the_members_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a name in a store") as caught:
        load(tmp_path, with_checkpoint("store:a/b"))

    assert caught.value.where == "members[0].checkpoint"
