"""Which checkpoint was made from which: families, each an original and its variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.checkpoints import DEFAULT_CACHE_DIR, resolve_checkpoint
from ensemble.checkpoints.content import digest_folder
from ensemble.checkpoints.folder import read_config
from ensemble.checkpoints.load import names_classifier
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.reference import DIGEST_CHARACTERS, STORE_PREFIX, parse_stored
from ensemble.compression.record import RECORD_NAME
from ensemble.errors import CheckpointError, ConfigError

_GIVE_ORIGINAL = (
    "give that one with --original NAME=CHECKPOINT (where it was compressed itself, as a VARIANT), or compress again"
)


class CompressionFacts(BaseModel):
    """What a comparison needs of a ``compression.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    source: str
    source_digest: str
    calibration: dict[str, Any] = {}
    steps: tuple[dict[str, Any], ...] = ()

    @property
    def text_digests(self) -> frozenset[str]:
        """The digests of the texts that its steps have read."""
        return frozenset(str(text.get("digest")) for text in self.calibration.get("texts", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint that is compared; ``facts`` are None where no compression of ours wrote it."""

    name: str
    reference: str
    folder: Path
    digest: str
    facts: CompressionFacts | None

    @property
    def is_classifier(self) -> bool:
        """Whether it gives labels to texts, instead of continuing them."""
        return names_classifier(read_config(self.folder))

    @property
    def made_by(self) -> str:
        """Name the steps of its recipe."""
        return ", ".join(str(step.get("type", "?")) for step in self.facts.steps) if self.facts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An original and what was made from it, however many steps lie between; its name is the original's."""

    original: Candidate
    variants: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """The original's name."""
        return self.original.name

    @property
    def members(self) -> tuple[Candidate, ...]:
        """All of them, the original first."""
        return (self.original, *self.variants)


def load_candidate(
    name: str,
    reference: str,
    *,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_phase: OnPhase = ignore_phase,
    digest: str = "",
) -> Candidate:
    """Find a checkpoint and see what it is; an empty name is made from the reference.

    All of it is read for its digest, unless the caller has that already.

    Raises:
        CheckpointError: it is missing or damaged, or its record cannot be read.
    """
    folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    return Candidate(
        name=name or _name_of(reference),
        reference=reference,
        folder=folder,
        digest=digest or digest_folder(folder, on_phase=on_phase),
        facts=_read_facts(folder),
    )


def trace_families(originals: Sequence[Candidate], variants: Sequence[Candidate]) -> tuple[Family, ...]:
    """Find each variant's original: the one that its compression started from, however long ago.

    Records are compared with what was given, by digests; nothing is looked up where a record says, since whoever wrote
    it may name what would be fetched, or imported. What no compression of ours wrote is an original where another was
    made from it, and else a variant of the first original.

    Raises:
        ConfigError: an original was not given, records lead in a circle, or two checkpoints have one name.
    """
    tree = _Tree(originals, variants)
    root_by_name = {variant.name: tree.root_of(variant) for variant in variants}
    roots = {root.digest: root for root in (*originals, *root_by_name.values())}
    families = tuple(
        Family(
            original=root,
            variants=tuple(
                variant
                for variant in variants
                if root_by_name[variant.name].digest == root.digest and variant.name != root.name
            ),
        )
        for root in roots.values()
    )
    _check_names([member for family in families for member in family.members])
    return families


class _Tree:
    """What is known of who was made from whom."""

    def __init__(self, originals: Sequence[Candidate], variants: Sequence[Candidate]) -> None:
        self._first = originals[0]
        self._originals = {one.digest for one in originals}
        self._by_digest = {one.digest: one for one in (*variants, *originals)}
        self._sources = {one.facts.source_digest for one in variants if one.facts}

    def root_of(self, variant: Candidate) -> Candidate:
        one, passed = variant, set[str]()
        while one.digest not in self._originals:
            if one.facts is None:
                return one if one.digest in self._sources else self._first
            if one.digest in passed:
                raise ConfigError(variant.reference, "its record leads back to itself", _GIVE_ORIGINAL)
            passed.add(one.digest)
            one = self._source_of(one, one.facts)
        return self._by_digest[one.digest]

    def _source_of(self, one: Candidate, facts: CompressionFacts) -> Candidate:
        source = self._by_digest.get(facts.source_digest)
        if source is None:
            is_given = facts.source in [given.reference for given in self._by_digest.values()]
            why = "is another checkpoint now" if is_given else "is not among what was given"
            problem = f"it was made from {facts.source} ({facts.source_digest[:DIGEST_CHARACTERS]}), which {why}"
            raise ConfigError(one.reference, problem, _GIVE_ORIGINAL)
        return source


def _read_facts(folder: Path) -> CompressionFacts | None:
    path = folder / RECORD_NAME
    if not path.is_file():
        return None
    try:
        return CompressionFacts.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise CheckpointError(str(path), f"it is no record of a compression ({error})", "compress again") from error


def _name_of(reference: str) -> str:
    """Give the last part of a reference, without what says that it is a file or which store it lies in."""
    if reference.startswith(STORE_PREFIX):
        stored = parse_stored(reference)
        return stored.name or stored.digest[:DIGEST_CHARACTERS]
    last = reference.rstrip("/").replace(":", "/").split("/")[-1]
    return last.removesuffix(".gguf") or reference


def _check_names(members: Sequence[Candidate]) -> None:
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("VARIANT", f"two checkpoints are named {name!r}", "name one otherwise: NAME=CHECKPOINT")
