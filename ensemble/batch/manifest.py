"""What a batch is made of; answers of another input, ensemble or version never mix with it.

Checkpoints count by their names, and by their contents where they are this machine's own: what a cluster or an
endpoint reads under the same name is not looked at.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.batch.item_source import Format
from ensemble.calibration.manifest import MemberFacts, member_differences
from ensemble.errors import ConfigError
from ensemble.files.location import Location

_SHOWN_DIGITS = 12


class BatchManifest(BaseModel):
    """The facts on which the output's bytes depend.

    ``input_digest`` names what the usable items say and ``rules_digest`` how the ensemble decides: strategies, quorum,
    parameters, weights and calibration. With ``by_endpoint`` a running endpoint decided, which tells its members and
    strategies alone. ``accept_missing`` may be given later: then it is noted for good, and the run stays the same one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    made_by: str
    input_digest: str
    num_items: int
    num_rejects: int
    shard_items: int
    ensemble: str
    rules_digest: str
    members: tuple[MemberFacts, ...]
    by_endpoint: bool = False
    stop_early: bool
    accept_missing: bool
    columns: tuple[str, ...]
    output_format: Format

    @property
    def num_shards(self) -> int:
        """Shards that the items make."""
        return -(-self.num_items // self.shard_items)

    @property
    def run_id(self) -> str:
        """Name the run, the same one wherever it goes on."""
        not_at_hand = {"__all__": {"checkpoint_digest", "num_parameters"}}
        facts = self.model_dump_json(exclude={"members": not_at_hand, "accept_missing": True})
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def num_items_of(self, shard: int) -> int:
        """Say how many items a shard has."""
        return min(self.shard_items, self.num_items - shard * self.shard_items)


def save_batch_manifest(manifest: BatchManifest, location: Location) -> None:
    """Write it, in one step."""
    location.write(f"{manifest.model_dump_json(indent=2)}\n".encode())


def go_on_with(location: Location, wanted: BatchManifest, *, output: Location) -> None:
    """Refuse to go on with a batch of other facts; missing votes that are accepted from now on are noted.

    Raises:
        ConfigError: they differ (it tells in what), or the stored manifest is none.
    """
    try:
        stored = BatchManifest.model_validate_json(location.read())
    except ValidationError as error:
        problem = f"it is no batch's manifest ({error.errors()[0]['msg']})"
        raise ConfigError(str(location), problem, "give another OUTPUT, or remove that folder") from error
    differences = member_differences(stored.members, wanted.members)
    for name in sorted(set(BatchManifest.model_fields) - {"members"}):
        then, now = (_shown(getattr(one, name)) for one in (stored, wanted))
        if getattr(stored, name) != getattr(wanted, name) and not (name == "accept_missing" and wanted.accept_missing):
            differences.append(f"{name} was {then} and is {now}")
    if differences:
        raise ConfigError(
            str(output),
            f"a batch of other facts was begun there: {'; '.join(differences)}",
            "give another OUTPUT, or what it was begun with",
        )
    if stored.accept_missing != wanted.accept_missing:
        save_batch_manifest(stored.model_copy(update={"accept_missing": True}), location)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    text = str(value)
    return text[:_SHOWN_DIGITS] if len(text) == hashlib.sha256().digest_size * 2 else text
