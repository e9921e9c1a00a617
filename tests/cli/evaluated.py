"""A spec of echo members with a finished evaluation of them, whose votes are simulated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ensemble.calibration.ballot_store import open_store
from ensemble.calibration.manifest import EvaluationManifest, MemberFacts, SetFacts
from ensemble.fingerprint import fingerprint
from ensemble.spec_file import load_spec
from tests.calibration.evaluations import choice_items, item_set, simulated

ACCURACIES = {"a": 0.7, "b": 0.7, "c": 0.7}
SPEC = """
version: 1
members:
  - {name: a, family: family-a, engine: {type: echo}}
  - {name: b, family: family-b, engine: {type: echo}}
  - {name: c, family: family-c, engine: {type: echo}}
ensembles:
  - {name: default, members: [a, b, c], quorum: {min_families: 3}}
"""


def write_evaluated(
    folder: Path,
    *,
    num_items: int = 90,
    accuracies: Mapping[str, float] = ACCURACIES,
    silent: Mapping[str, float] | None = None,
    spec: str = SPEC,
) -> tuple[Path, Path]:
    """Write the spec and its evaluation; gives the spec's file and the evaluation's folder."""
    spec_path = folder / "spec.yaml"
    spec_path.write_text(spec, "utf-8")
    facts = tuple(
        MemberFacts(
            name=member.name, family=member.family, fingerprint=fingerprint(member), num_parameters=1_000_000 * (n + 1)
        )
        for n, member in enumerate(load_spec(spec_path).members)
    )
    items = choice_items(num_items)
    data = item_set(items, name="quiz")
    manifest = EvaluationManifest(
        ensemble="default",
        members=facts,
        sets=(SetFacts(name=data.name, digest=data.digest, num_items=num_items),),
        generation={},
        made_by="a test",
    )
    votes = simulated(items, dict(accuracies), silent=dict(silent or {})).item_votes()
    with open_store(folder / "evaluation", manifest, [data]) as store:
        for item in votes:
            store.add((data.name, item.item.item_id), item.votes)
        store.finish()
    return spec_path, folder / "evaluation"
