"""What a stored checkpoint must be: the files that decide what the model says, each with its digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ensemble.checkpoints.content import digest_content, find_content, hash_files
from ensemble.checkpoints.folder import check_folder
from ensemble.checkpoints.progress import OnPhase
from ensemble.errors import CheckpointError

MANIFEST = "object.json"
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=255)]


class FileFacts(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: int = Field(ge=0)


class ObjectManifest(BaseModel):
    """The files that decide what the model says, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    files: Mapping[FileName, FileFacts] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """The checkpoint's digest, which a spec may pin."""
        return digest_content({name: facts.sha256 for name, facts in self.files.items()})

    @property
    def num_bytes(self) -> int:
        """The size of all."""
        return sum(facts.num_bytes for facts in self.files.values())

    def to_bytes(self) -> bytes:
        """Write it down."""
        return f"{self.model_dump_json(indent=2)}\n".encode()


def describe_folder(folder: Path, on_phase: OnPhase) -> ObjectManifest:
    """Read all that counts of a checkpoint's folder, and say what it is.

    Raises:
        CheckpointError: it is no whole checkpoint.
    """
    check_folder(folder)
    files = find_content(folder)
    elsewhere = [str(path) for path in files if path.parent != folder]
    if elsewhere:
        raise CheckpointError(str(folder), f"its index names weights in other folders: {elsewhere[0]}", "join them")
    digests = hash_files(files, on_phase)
    return ObjectManifest(
        files={
            path.name: FileFacts(sha256=sha256, num_bytes=path.stat().st_size)
            for path, sha256 in zip(files, digests, strict=True)
        }
    )
