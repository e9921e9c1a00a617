"""What an evaluation is made of, from the spec and the data: the facts that a resumed one must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path

from ensemble import __version__
from ensemble.calibration.item_file import ItemFile, ItemSet
from ensemble.calibration.manifest import EvaluationManifest, MemberFacts, SetFacts
from ensemble.cli.phases import show_phases
from ensemble.cli.terminal import stderr_console
from ensemble.config import MemberConfig, Spec
from ensemble.environment import cache_dir
from ensemble.errors import ConfigError
from ensemble.fingerprint import fingerprint
from ensemble.router.config import EnsembleConfig
from ensemble.spec_file import generation_facts

_LENGTH_BYTES = 8
"""A safetensors file begins with its header's length."""
_SHAPE_OF_PACKED = ".weight_shape"
_ABOUT_WEIGHTS = (".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_g_idx")
"""Codes, which are counted by the shape they unpack to, and what turns them into weights."""
_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_NUM_BLOCKS = 64
_BLOCK_BYTES = 65_536


def build_manifest(
    spec: Spec, ensemble: EnsembleConfig, files: Sequence[ItemFile], item_sets: Sequence[ItemSet], *, is_local: bool
) -> EvaluationManifest:
    """Collect the facts; parameters are counted where the checkpoints are this machine's own (``is_local``)."""
    member_by_name = {member.name: member for member in spec.members}
    members = tuple(member_facts(member_by_name[name], is_local=is_local) for name in ensemble.members)
    sets = tuple(
        SetFacts(
            name=one.name, digest=one.digest, num_items=len(one.items), num_left_out=file.num_lines - len(one.items)
        )
        for one, file in zip(item_sets, files, strict=True)
    )
    return EvaluationManifest(
        ensemble=ensemble.name,
        members=members,
        sets=sets,
        generation=generation_facts(ensemble),
        made_by=f"ensemble {__version__}",
    )


def member_facts(member: MemberConfig, *, is_local: bool) -> MemberFacts:
    """Collect what a member's votes depend on; the checkpoint is looked at where it is this machine's own."""
    facts = MemberFacts(name=member.name, family=member.family, fingerprint=fingerprint(member))
    if not is_local or not member.checkpoint:
        return facts
    # They bring heavy libraries along; the member's own process would resolve the checkpoint otherwise.
    from ensemble.checkpoints.folder import find_weight_files  # noqa: PLC0415
    from ensemble.checkpoints.resolve import resolve_checkpoint  # noqa: PLC0415

    with show_phases(stderr_console(), what=member.name) as on_phase:
        folder = resolve_checkpoint(member.checkpoint, cache_dir=cache_dir() / "checkpoints", on_phase=on_phase)
    files = find_weight_files(folder)
    try:
        num_parameters, digest = sum(map(count_parameters, files)), digest_checkpoint(folder, files)
    except (OSError, ValueError, KeyError) as error:
        problem = f"its weights cannot be read ({error!r})"
        raise ConfigError(str(folder), problem, "fetch or write it again") from error
    return facts.model_copy(update={"checkpoint_digest": digest, "num_parameters": num_parameters})


def count_parameters(path: Path) -> int:
    """Count a safetensors file's parameters by its header; of packed weights, what they unpack to."""
    total = 0
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = json.loads(stream.read(header_bytes))
        for name, tensor in header.items():
            if name == "__metadata__" or name.endswith(_ABOUT_WEIGHTS):
                continue
            if name.endswith(_SHAPE_OF_PACKED):
                begin, end = tensor["data_offsets"]
                stream.seek(_LENGTH_BYTES + header_bytes + begin)
                total += prod(_read_integers(stream.read(end - begin), count=tensor["shape"][0]))
            else:
                total += prod(tensor["shape"])
    return total


def digest_checkpoint(folder: Path, weight_files: Sequence[Path]) -> str:
    """Name what a checkpoint contains, by a SHA-256 of its small files and of a sample of its weights.

    The sample is each weights file's size, its beginning, where the header is, and blocks spread evenly over the rest.
    Training moves every weight, so that a look at some of them tells two trainings apart; what changed a few weights
    alone may go unseen.
    """
    digest = hashlib.sha256()
    for name in _SMALL_FILES:
        if (folder / name).is_file():
            _update(digest, name, (folder / name).read_bytes())
    for path in weight_files:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            for index in range(_NUM_BLOCKS):
                stream.seek(max(0, size_bytes - _BLOCK_BYTES) * index // (_NUM_BLOCKS - 1))
                _update(digest, f"{path.name} {size_bytes} {index}", stream.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, content: bytes) -> None:
    digest.update(f"{name} {len(content)}\n".encode())
    digest.update(content)


def _read_integers(raw: bytes, *, count: int) -> list[int]:
    width = len(raw) // count
    return [int.from_bytes(raw[place * width : (place + 1) * width], "little") for place in range(count)]
