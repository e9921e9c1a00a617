"""Every variant is compared with what it was made from, however many compressions ago."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ensemble.errors import CheckpointError, ConfigError
from ensemble.variants.lineage import Candidate, load_candidate, trace_families
from tests.checkpoints.tiny_models import build_gemma3, save
from tests.variants.made_models import save_original, save_variant, write_record


@pytest.fixture
def original(tmp_path: Path) -> Candidate:
    return load_candidate("", save_original(tmp_path / "base"))


def names_by_family(originals: list[Candidate], variants: list[Candidate]) -> dict[str, list[str]]:
    families = trace_families(originals, variants)
    return {family.name: [variant.name for variant in family.variants] for family in families}


def test_a_variant_belongs_to_the_original_whose_weights_its_record_names(tmp_path: Path, original: Candidate) -> None:
    other = load_candidate("gemma", save(build_gemma3(), tmp_path / "other"))
    first = load_candidate("", save_variant(tmp_path / "int8", original.reference))
    second = load_candidate("", save_variant(tmp_path / "int4", other.reference))

    families = trace_families([original, other], [first, second])

    assert [(one.name, [two.name for two in one.variants]) for one in families] == [
        ("base", ["int8"]),
        ("gemma", ["int4"]),
    ]
    assert families[0].variants[0].made_by == "prune_width, quantize_int8"


def test_a_variant_of_a_variant_belongs_to_the_first_ones_original(tmp_path: Path, original: Candidate) -> None:
    pruned = load_candidate("", save_variant(tmp_path / "pruned", original.reference))
    rounded = load_candidate("", save_variant(tmp_path / "rounded", pruned.reference, seed=2))

    assert names_by_family([original], [pruned, rounded]) == {"base": ["pruned", "rounded"]}


@pytest.mark.parametrize("source", ["package:imported.inside/x.gguf", "org/name", "store:x@/nowhere", "{tmp_path}"])
def test_what_a_record_names_is_neither_imported_nor_fetched_nor_opened(
    source: str, tmp_path: Path, original: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    named = source.format(tmp_path=save(build_gemma3(), tmp_path / "other"))
    folder = save_variant(tmp_path / "int8", original.reference)
    record = {"source": named, "source_digest": "sha256:0", "steps": []}
    (Path(folder) / "compression.json").write_text(json.dumps(record))
    variant = load_candidate("", folder)

    with pytest.raises(ConfigError, match="which is not among what was given") as told:
        trace_families([original], [variant])

    assert named in told.value.problem
    assert not (tmp_path / "ran").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_records_that_lead_in_a_circle_are_told(length: int, tmp_path: Path, original: Candidate) -> None:
    folders = [tmp_path / f"v{number}" for number in range(length)]
    for number, folder in enumerate(folders):
        save_variant(folder, original.reference, seed=number + 1)
    for folder, source in zip(folders, [*folders[1:], folders[0]], strict=True):
        write_record(folder, str(source))
    variants = [load_candidate("", str(folder)) for folder in folders]

    with pytest.raises(ConfigError, match="v0: its record leads back to itself"):
        trace_families([original], variants)


def test_a_copy_of_the_original_is_the_original(tmp_path: Path, original: Candidate) -> None:
    variant = load_candidate("", save_variant(tmp_path / "int8", original.reference))
    copy = load_candidate("copy", str(shutil.copytree(original.folder, tmp_path / "moved")))
    shutil.rmtree(original.folder)

    assert names_by_family([copy], [variant]) == {"copy": ["int8"]}


def test_one_without_a_record_is_an_original_where_another_was_made_from_it_and_else_a_variant(
    tmp_path: Path, original: Candidate
) -> None:
    other = load_candidate("", save(build_gemma3(), tmp_path / "other"))
    variant = load_candidate("", save_variant(tmp_path / "int4", other.reference))
    stray = load_candidate("", save(build_gemma3(num_layers=2), tmp_path / "stray"))

    assert names_by_family([original], [other, variant, stray]) == {"base": ["stray"], "other": ["int4"]}


def test_an_original_that_has_changed_is_told(tmp_path: Path, original: Candidate) -> None:
    variant = load_candidate("", save_variant(tmp_path / "int4", original.reference))
    save(build_gemma3(), Path(original.reference))
    changed = load_candidate("", original.reference)

    remedy = r"give that one with --original NAME=CHECKPOINT .*, or compress again"
    with pytest.raises(ConfigError, match=f"which is another checkpoint now; {remedy}"):
        trace_families([changed], [variant])


def test_two_checkpoints_of_one_name_are_refused(tmp_path: Path, original: Candidate) -> None:
    variants = [load_candidate("", save_variant(tmp_path / part / "int8", original.reference)) for part in "ab"]

    with pytest.raises(ConfigError, match="two checkpoints are named 'int8'"):
        trace_families([original], variants)


def test_a_record_that_is_none_is_refused(tmp_path: Path, original: Candidate) -> None:
    variant = save_variant(tmp_path / "int8", original.reference)
    (tmp_path / "int8" / "compression.json").write_text("{}")

    with pytest.raises(CheckpointError, match="no record of a compression"):
        load_candidate("", variant)


def test_names_come_from_references(tmp_path: Path) -> None:
    reference = save_original(tmp_path / "smol.v1")

    assert load_candidate("", f"{reference}/").name == "smol.v1"
    assert load_candidate("x", reference).name == "x"


def test_hashing_a_candidate_tells_how_far_it_is(tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []

    load_candidate("", save_original(tmp_path / "base"), on_phase=lambda name, share: heard.append((name, share)))

    assert heard[-1] == ("check digest", 1.0)
