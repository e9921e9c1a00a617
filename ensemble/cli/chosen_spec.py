"""Writes the spec of a chosen lineup: what it was chosen from, with one ensemble changed and its calibration beside."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from ensemble.calibration.calibration_file import Calibration, save_calibration
from ensemble.calibration.lineup import Lineup
from ensemble.cli.stored_votes import StoredVotes
from ensemble.config import Spec
from ensemble.files.whole_file import write_whole
from ensemble.router.config import EnsembleConfig
from ensemble.spec_file import CACHE_PREFIX, load_calibrations, load_spec

SPEC_FILE = "spec.yaml"
CALIBRATION_FILE = "calibration.json"


def save_chosen_spec(
    source: Path, votes: StoredVotes, lineup: Lineup, calibration: Calibration | None, *, risk: float, folder: Path
) -> Spec:
    """Write ``spec.yaml`` and, with a calibration, ``calibration.json``; gives the spec as it is read again.

    Members that no ensemble needs any more are left out. Paths are absolute, but for the calibration's.

    Raises:
        ConfigError: it cannot be written, or does not hold; nothing is written then.
    """
    ensemble = _ensemble_document(votes, lineup, calibration, risk=risk)
    document = votes.spec.model_dump(mode="json", exclude_unset=True)
    document["ensembles"] = [
        ensemble if one["name"] == votes.ensemble.name else one for one in document.get("ensembles", [])
    ]
    needed = {name for one in document["ensembles"] for name in _members_of(one)}
    document["members"] = [
        {**member, **_own_checkpoint(member["name"], source)}
        for member in document["members"]
        if member["name"] in needed
    ]
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    title = f"# Chosen by `ensemble select`: {lineup.title} ({lineup.manner}).\n"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as aside:
        # What does not hold is not published.
        _write(Path(aside), title + text, calibration)
        load_calibrations(load_spec(Path(aside) / SPEC_FILE))
    _write(folder, title + text, calibration)
    return load_spec(folder / SPEC_FILE)


def _write(folder: Path, spec: str, calibration: Calibration | None) -> None:
    if calibration:
        save_calibration(calibration, folder / CALIBRATION_FILE)
    write_whole(folder / SPEC_FILE, spec.encode())


def _ensemble_document(
    votes: StoredVotes, lineup: Lineup, calibration: Calibration | None, *, risk: float
) -> dict[str, Any]:
    """Give the ensemble as the spec says it, with what the lineup says about it instead."""
    families = {voter.family for voter in votes.voters if voter.member in lineup.members}
    quorum = votes.ensemble.quorum.model_dump(mode="json", exclude_unset=True)
    quorum["min_families"] = min(votes.ensemble.quorum.min_families, len(families))
    quorum["stop_early"] = True
    quorum["risk"] = risk if lineup.stop == "risk" else 0.0
    kept = votes.ensemble.model_dump(mode="json", exclude_unset=True, exclude={"calibration", "asking", "quorum"})
    if calibration is None:
        kept = {key: value for key, value in kept.items() if key not in {"abstain_below", "label_set_alpha"}}
    if drops_feedback(lineup):
        kept.pop("feedback", None)
    strategy_key = "classify_strategy" if votes.has_choices else "generate_strategy"
    changed: dict[str, Any] = {
        "members": list(lineup.members),
        strategy_key: lineup.strategy,
        "quorum": quorum,
        "asking": _asking_document(lineup),
    }
    if calibration:
        changed["calibration"] = CALIBRATION_FILE
    return EnsembleConfig(**{**kept, **changed}).model_dump(mode="json", exclude_unset=True)


def drops_feedback(lineup: Lineup) -> bool:
    """Say whether a lineup relies on its calibrated weights, which feedback would move."""
    return lineup.stop == "risk" or (lineup.asking is not None and lineup.asking.min_confidence < 1.0)


def _asking_document(lineup: Lineup) -> dict[str, Any]:
    if lineup.asking is None:
        return {"policy": "all"}
    document: dict[str, Any] = {
        "policy": lineup.asking.rule,
        "stages": [list(stage) for stage in lineup.asking.stages],
    }
    if lineup.asking.rule == "staged":
        document["min_confidence"] = lineup.asking.min_confidence
    return document


def _members_of(ensemble: dict[str, Any]) -> list[str]:
    return [*ensemble["members"], *(name for name in ensemble.get("assistants", {}).values() if name)]


def _own_checkpoint(member: str, source: Path) -> dict[str, str]:
    """Keep a reference into the cache as it was written: it is another path on another machine."""
    written = yaml.safe_load(source.read_text("utf-8"))
    for one in written["members"]:
        checkpoint = one.get("checkpoint", "")
        if one["name"] == member and checkpoint.startswith(CACHE_PREFIX):
            return {"checkpoint": checkpoint}
    return {}
