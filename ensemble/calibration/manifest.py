"""What an evaluation was made of: the data, the members, the versions; votes of other origins never mix with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.errors import ConfigError
from ensemble.files.whole_file import write_whole

MANIFEST_FILE = "manifest.json"


class MemberFacts(BaseModel):
    """A member as it voted: ``fingerprint`` names all that its ballots depend on.

    ``num_parameters`` is 0 when nobody counted them, ``checkpoint_digest`` empty when the checkpoint was not at hand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    family: str
    fingerprint: str
    checkpoint_digest: str = ""
    num_parameters: int = 0


class SetFacts(BaseModel):
    """A data set as it was asked; lines that could not be used and were left out on request are counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    num_items: int
    num_left_out: int = 0


class EvaluationManifest(BaseModel):
    """The origin of stored ballots. ``generation`` has the parameters that completions were drawn with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    ensemble: str
    members: tuple[MemberFacts, ...]
    sets: tuple[SetFacts, ...]
    generation: Mapping[str, str]
    made_by: str
    """This program's version."""

    @property
    def member_names(self) -> tuple[str, ...]:
        """In the panel's order."""
        return tuple(member.name for member in self.members)


def save_manifest(manifest: EvaluationManifest, folder: Path) -> None:
    """Write a manifest into an evaluation's folder, in one step."""
    write_whole(folder / MANIFEST_FILE, (manifest.model_dump_json(indent=2) + "\n").encode())


def load_manifest(folder: Path) -> EvaluationManifest:
    """Read an evaluation's manifest.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = folder / MANIFEST_FILE
    try:
        return EvaluationManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
        raise ConfigError(str(path), problem, "give the folder that `ensemble evaluate` wrote") from error
    except ValidationError as error:
        problem = f"it is no manifest ({error.errors()[0]['msg']})"
        raise ConfigError(str(path), problem, "evaluate again into another folder") from error


def check_same_origin(stored: EvaluationManifest, wanted: EvaluationManifest, *, folder: Path) -> None:
    """Refuse to go on with an evaluation of other data, members or parameters.

    Raises:
        ConfigError: they differ; it tells in what.
    """
    differences = [*_set_differences(stored, wanted), *member_differences(stored.members, wanted.members)]
    for name in ("ensemble", "generation", "made_by"):
        then, now = getattr(stored, name), getattr(wanted, name)
        if then != now:
            differences.append(f"{name} was {then} and is {now}")
    if differences:
        raise ConfigError(
            str(folder),
            f"an evaluation of another origin lies there: {'; '.join(differences)}",
            "give another --out, or what it was made with",
        )


def _set_differences(stored: EvaluationManifest, wanted: EvaluationManifest) -> list[str]:
    if stored.sets == wanted.sets:
        return []
    then, now = (
        ", ".join(f"{one.name} ({one.num_items} items, {one.digest[:12]})" for one in manifest.sets)
        for manifest in (stored, wanted)
    )
    return [f"its data were {then} and are {now}"]


def member_differences(stored: Sequence[MemberFacts], wanted: Sequence[MemberFacts]) -> list[str]:
    """Say in what members differ from those that voted before."""
    names, wanted_names = [one.name for one in stored], [one.name for one in wanted]
    if names != wanted_names:
        return [f"its members were {', '.join(names)} and are {', '.join(wanted_names)}"]
    pairs = zip(stored, wanted, strict=True)
    return [difference for before, after in pairs if (difference := _member_difference(before, after))]


def _member_difference(before: MemberFacts, after: MemberFacts) -> str:
    if (before.family, before.fingerprint) != (after.family, after.fingerprint):
        was, is_now = f"{before.family} {before.fingerprint[:12]}", f"{after.family} {after.fingerprint[:12]}"
        return f"member {before.name} was {was} and is {is_now}"
    then, now = before.checkpoint_digest, after.checkpoint_digest
    # Who has no checkpoint at hand has no digest of it: a running endpoint's lies elsewhere.
    if then and now and then != now:
        return f"the contents of member {before.name}'s checkpoint were {then[:12]} and are {now[:12]}"
    return ""
