"""What sha256sum says of the volume of models: every checkpoint that a spec names there must be among it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ensemble.errors import ConfigError
from ensemble.manifests.volumes import MODELS

_LINE = re.compile(r"[0-9a-f]{64} [ *](?P<path>[^/\s].*)")
_REMEDY = "write it in the volume's root, as deploy/OPERATING.md does"


def read_digests(path: Path | None, reference_by_field: Mapping[str, str]) -> bytes:
    """Read the lines, which must cover what fields of the spec name below /models.

    Raises:
        ConfigError: there are none, one is none of sha256sum's, or a checkpoint would start on bytes that nobody
            compared.
    """
    if path is None:
        problem = "checkpoints lie on the volume of models, and nothing says what they must be"
        raise ConfigError("--models", problem, "give the file of their digests, which deploy/OPERATING.md makes")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give a file that is there") from error
    where, compared = f"--models {path}", _paths(f"--models {path}", content)
    for field, reference in reference_by_field.items():
        wanted = PurePosixPath(reference).relative_to(MODELS)
        if not any(one.is_relative_to(wanted) for one in compared):
            raise ConfigError(where, f"no line is about {reference}, which {field} names", _REMEDY)
    return content


def _paths(where: str, content: bytes) -> list[PurePosixPath]:
    paths = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if not found or ".." in PurePosixPath(found["path"]).parts:
            raise ConfigError(where, f"line {number} is none of sha256sum's about a file in the volume", _REMEDY)
        paths.append(PurePosixPath(found["path"]))
    if not paths:
        raise ConfigError(where, "it is empty", _REMEDY)
    return paths
