"""Reading references."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.checkpoints.check_reference import check_reference
from ensemble.checkpoints.reference import (
    FolderReference,
    GgufReference,
    HubReference,
    PackageReference,
    parse_reference,
)
from ensemble.errors import CheckpointError


def test_an_existing_path_wins_over_a_repository_of_the_same_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert parse_reference("org/name") == FolderReference(folder=Path("org/name"))


def test_a_gguf_file_is_told_by_its_ending(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")

    assert parse_reference(str(file)) == GgufReference(file=file)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("org/name", HubReference(repository="org/name", revision=None)),
        ("org/name@abc123", HubReference(repository="org/name", revision="abc123")),
        ("package:some_module", PackageReference(module="some_module", inside="")),
        ("package:a.b/data/x.gguf", PackageReference(module="a.b", inside="data/x.gguf")),
    ],
)
def test_references_without_a_path_are_parsed(reference: str, expected: object) -> None:
    assert parse_reference(reference) == expected


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("", "not a Hugging Face id"),
        ("/nowhere/at/all", "not a Hugging Face id"),
        ("./nowhere", "not a Hugging Face id"),
        ("/nowhere/x.gguf", "no such GGUF file"),
        ("package:", "not a Python module's name"),
        ("package:../evil/x.gguf", "not a Python module's name"),
        ("package:module/../../x.gguf", "not a GGUF file inside"),
        ("package:module//etc/x.gguf", "not a GGUF file inside"),
        ("package:module/x.bin", "not a GGUF file inside"),
    ],
)
def test_a_reference_that_means_nothing_is_refused_with_the_reason(reference: str, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        parse_reference(reference)


@pytest.mark.parametrize("reference", ["x" * 5000, "/" + "x" * 300, "x" * 300 + ".gguf", "~no-such-user/x"])
def test_a_name_that_no_file_can_have_is_refused(reference: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be looked up as a path"):
        parse_reference(reference)
    with pytest.raises(CheckpointError, match="cannot be looked up as a path"):
        check_reference(reference)


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")

    with pytest.raises(CheckpointError, match="not a GGUF file"):
        parse_reference(str(file))
