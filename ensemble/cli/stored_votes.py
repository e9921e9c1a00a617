"""What ``calibrate`` and ``select`` begin with: a spec's ensemble and the votes its members gave in an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path

from ensemble.calibration.ballot_store import StoredEvaluation, load_evaluation
from ensemble.calibration.fit import FitOptions
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.manifest import EvaluationManifest
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.fingerprint import fingerprint
from ensemble.router.config import EnsembleConfig
from ensemble.router.validation import pick_ensemble
from ensemble.spec_file import generation_facts, load_spec, text_facts
from ensemble.voting.ballot import Voter
from ensemble.voting.short_answer import AnswerRule

USUAL_ALPHA = 0.1
"""Error rate of label sets where nobody says another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVotes:
    """An ensemble of a spec and everything its members voted, set after set.

    Of several sets, an item's id begins with its set's name, so that ids stay unique.
    """

    spec: Spec
    ensemble: EnsembleConfig
    voters: tuple[Voter, ...]
    items: tuple[ItemVotes, ...]
    manifest: EvaluationManifest
    data_digest: str

    @property
    def answer_rule(self) -> AnswerRule:
        """How the ensemble reads short answers."""
        return AnswerRule(extract=self.ensemble.answer.extract, pattern=self.ensemble.answer.pattern)

    @property
    def has_choices(self) -> bool:
        """Whether the items have choices; otherwise they have reference texts."""
        return bool(self.items[0].item.choices)

    @property
    def strategy(self) -> str:
        """What the ensemble decides such items by."""
        return self.ensemble.classify_strategy if self.has_choices else self.ensemble.generate_strategy

    @property
    def label_set_alpha(self) -> float:
        """The error rate that the ensemble's label sets are wanted with, or the usual one."""
        return self.ensemble.label_set_alpha or USUAL_ALPHA

    def fit_options(self, *, risk: float | None, alpha: float | None, strategies: tuple[str, ...] = ()) -> FitOptions:
        """Say what a calibration is made for; a risk or an error rate of 0 is none."""
        member_by_name = {member.name: member for member in self.spec.members}
        return FitOptions(
            ensemble=self.ensemble.name,
            data_digest=self.data_digest,
            fingerprint_by_member={voter.member: fingerprint(member_by_name[voter.member]) for voter in self.voters},
            spec_facts={
                "name": self.spec.name,
                "evaluated_by": self.manifest.made_by,
                **({} if self.has_choices else text_facts(self.ensemble)),
            },
            strategies=strategies,
            answer_rule=self.answer_rule,
            conformal_alpha=alpha or None,
            risk_delta=risk or None,
            withhold_below=self.ensemble.abstain_below or 0.0,
        )


def load_stored_votes(
    spec_path: Path, folder: Path, *, ensemble: str = "", sets: Sequence[str] = (), without: Sequence[str] = ()
) -> StoredVotes:
    """Read a spec and an evaluation of its members; ``without`` leaves members out.

    Raises:
        ConfigError: one cannot be read, a member was not evaluated or has changed since, or there are no items.
        UnknownNameError: there is no such ensemble.
    """
    spec = load_spec(spec_path)
    chosen = pick_ensemble(ensemble, {one.name: one for one in spec.ensembles})
    unknown = [name for name in without if name not in chosen.members]
    if unknown:
        raise ConfigError("--without", f"{unknown[0]!r} is no member", f"name some of {', '.join(chosen.members)}")
    names = [name for name in chosen.members if name not in without]
    stored = load_evaluation(folder)
    member_by_name = {member.name: member for member in spec.members}
    voters = tuple(
        Voter(member=name, family=member_by_name[name].family, weight=member_by_name[name].weight) for name in names
    )
    check_members(
        stored.manifest,
        voters,
        fingerprint_by_member={name: fingerprint(member_by_name[name]) for name in names},
        folder=folder,
    )
    items = _qualified(stored, sets)
    if items and not items[0].item.choices:
        _check_generation(stored.manifest, chosen, folder=folder)
    if not items or not voters:
        raise ConfigError(str(folder), "there is nothing to calibrate", "evaluate items, and leave members in")
    return StoredVotes(
        spec=spec,
        ensemble=chosen,
        voters=voters,
        items=items,
        manifest=stored.manifest,
        data_digest=_digest(stored.manifest, sets),
    )


def check_members(
    manifest: EvaluationManifest, voters: Sequence[Voter], *, fingerprint_by_member: Mapping[str, str], folder: Path
) -> None:
    """Refuse ballots of other members than the spec's.

    Raises:
        ConfigError: members were not evaluated, or were other ones then; all of them are named.
    """
    then_by_name = {member.name: member for member in manifest.members}
    problems = []
    if missing := [voter.member for voter in voters if voter.member not in then_by_name]:
        problems.append(
            f"{len(missing)} of {len(voters)} members were not evaluated: {', '.join(missing)} "
            f"(it has {', '.join(then_by_name)})"
        )
    for voter in voters:
        then = then_by_name.get(voter.member)
        now = fingerprint_by_member[voter.member]
        if then and (then.family, then.fingerprint) != (voter.family, now):
            problems.append(
                f"{voter.member} was {then.family} {then.fingerprint[:12]} and is {voter.family} {now[:12]}"
            )
    if problems:
        raise ConfigError(str(folder), "; ".join(problems), "run `ensemble evaluate` with this spec")


def _check_generation(manifest: EvaluationManifest, ensemble: EnsembleConfig, *, folder: Path) -> None:
    """Refuse texts that were drawn with other parameters than the ensemble's."""
    now = generation_facts(ensemble)
    changed = [name for name in now if manifest.generation.get(name, now[name]) != now[name]]
    if changed:
        told = "; ".join(f"{name} was {manifest.generation[name]} and is {now[name]}" for name in changed)
        raise ConfigError(
            str(folder), f"its texts were drawn otherwise: {told}", "run `ensemble evaluate` with this spec"
        )


def _qualified(stored: StoredEvaluation, sets: Sequence[str]) -> tuple[ItemVotes, ...]:
    if len(sets or stored.sets) == 1:
        return stored.item_votes(sets)
    stored.item_votes(sets)  # refuses an unknown set
    return tuple(
        replace(item, item=replace(item.item, item_id=f"{one.name}/{item.item.item_id}"))
        for one in stored.sets
        if not sets or one.name in sets
        for item in one.item_votes
    )


def digests_of(manifest: EvaluationManifest) -> set[str]:
    """Give the digest that a calibration made on any of an evaluation's sets, or on several of them, has."""
    names = [one.name for one in manifest.sets]
    chosen = chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))
    return {_digest(manifest, sets) for sets in chosen}


def _digest(manifest: EvaluationManifest, sets: Sequence[str]) -> str:
    digests = [one.digest for one in manifest.sets if not sets or one.name in sets]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
