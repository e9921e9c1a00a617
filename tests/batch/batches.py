"""Batches for tests: items, decisions and stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ensemble.batch.answers import columns_of
from ensemble.batch.items import BatchItem
from ensemble.batch.manifest import BatchManifest
from ensemble.batch.shard_store import ShardStore
from ensemble.calibration.manifest import MemberFacts
from ensemble.files.location import Location
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot
from ensemble.voting.decision import Candidate, DecidedBy, Decision

MEMBERS = ("a", "b")


def build_items(count: int) -> tuple[BatchItem, ...]:
    """Make questions."""
    return tuple(BatchItem(item_id=f"q{n}", prompt=f"Question {n}?", choices=("red", "blue")) for n in range(count))


def build_decision(answer: str = "red", *, silent: Sequence[tuple[str, AbstentionReason]] = ()) -> Decision:
    """Make a decision of two members, some of whom are silent."""
    names = {member for member, _ in silent}
    ballots = tuple(
        Ballot(member=member, choice=answer, prompt_tokens=3, completion_tokens=1, latency_s=0.5)
        for member in MEMBERS
        if member not in names
    )
    return Decision(
        answer=answer,
        strategy="majority",
        decided_by=DecidedBy.ALL,
        agreement=1.0,
        margin=1.0,
        confidence=None,
        degraded=False,
        num_asked=len(MEMBERS),
        families=("x",),
        candidates=(Candidate(answer=answer, weight=1.0, members=MEMBERS),),
        ballots=ballots,
        abstentions=tuple(Abstention(member=member, reason=reason, detail="why") for member, reason in silent),
    )


def build_manifest(num_items: int, *, shard_items: int = 4, **changes: object) -> BatchManifest:
    """Describe a batch."""
    facts: dict[str, object] = {
        "made_by": "a test",
        "input_digest": "0" * 64,
        "num_items": num_items,
        "num_rejects": 0,
        "shard_items": shard_items,
        "ensemble": "default",
        "rules_digest": "1" * 64,
        "members": tuple(MemberFacts(name=name, family=name, fingerprint="f") for name in MEMBERS),
        "stop_early": False,
        "accept_missing": False,
        "columns": columns_of((), stop_early=False, with_confidence=False, with_ballots=False),
        "output_format": "jsonl",
        **changes,
    }
    return BatchManifest.model_validate(facts)


def build_store(folder: Path, manifest: BatchManifest, *, name: str = "out.jsonl") -> ShardStore:
    """Make a store without taking its lock."""
    store = ShardStore(output=Location.of(str(folder / name)), manifest=manifest)
    store.folder.child("shards").make_folder()
    return store
