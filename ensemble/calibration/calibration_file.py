"""The calibration file: what was learned on labelled items, the figures that say how good it is, and for whom it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.errors import ConfigError
from ensemble.files.whole_file import write_whole
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.strategy import Certificate

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_REMEDY = "run `ensemble calibrate` again and refer to the file that it writes"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MemberRecord(_Record):
    """One member: who it is, how good it was as it is, and its own correction.

    ``accuracy`` is of all ``num_items`` items, an abstention being wrong, with its exact 95 % interval;
    ``corrected_accuracy`` is the same after the correction, measured on items that the correction was not fitted on.
    ``fingerprint`` is what the spec said about it.
    """

    family: str
    fingerprint: str
    num_items: Count
    num_abstained: Count
    accuracy: Share
    accuracy_low: Share
    accuracy_high: Share
    corrected_accuracy: Share
    is_below_chance: bool
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    bias_by_label: dict[str, Finite] = {}


class CertificateRecord(_Record):
    """A certificate, as in voting/strategy.py."""

    backers: tuple[str, ...]
    others: tuple[str, ...]
    min_margin: Finite
    num_items: Count
    num_disagreements: Count
    bound: Share


class SureRecord(_Record):
    """The share of held-out answers that are at least so sure, and the accuracy of those (None of no answers)."""

    min_confidence: Share
    share: Share
    accuracy: Share | None


class StageRecord(_Record):
    """A way of asking in stages: what it saves of the full panel's cost on held-out items, and at what accuracy.

    ``min_confidence`` is the threshold of ``staged``, chosen on all items, None for a ``cascade``; the figures are of
    thresholds chosen without the items at hand. ``num_gained`` and ``num_lost`` are items
    that only it, and only the full panel, had right; ``is_refused``: it loses significantly, or too much.
    """

    rule: Literal["staged", "cascade"]
    stages: tuple[tuple[str, ...], ...]
    min_confidence: Share | None
    mean_asked: Annotated[float, Field(ge=0.0)]
    saving: Share
    accuracy: Share
    full_accuracy: Share
    num_gained: Count
    num_lost: Count
    p_value: Share
    is_refused: bool


class HeldOutRecord(_Record):
    """How a strategy did on items that its parameters were not fitted on (cross-fitted).

    ``ece_before`` is the calibration error of the independence formula (raw ballots, log-odds weights without the
    family discount, kappa 1), ``ece_after`` that of what was fitted; both over bins of equal mass. ``num_gained`` and
    ``num_lost`` are items that only the ensemble, and only the best member, had right; ``p_value`` is McNemar's. The
    best member is taken as it is or (``is_best_corrected``) by its own correction, whichever is better.
    ``num_risk_stops`` counts votes that certificates ended in a random order of arrival or in the stored one, whichever
    is worse, ``num_risk_disagreements`` those among them that the full panel answers otherwise, and ``risk_bound`` is
    the largest bound of a certificate. Where the share is significantly above it, the strategy's are left out.
    """

    num_items: Count
    accuracy: Share
    accuracy_low: Share
    accuracy_high: Share
    ece_before: Share
    ece_after: Share
    best_member: str
    is_best_corrected: bool = False
    num_gained: Count
    num_lost: Count
    p_value: Share
    label_set_coverage: Share | None = None
    mean_label_set_size: Annotated[float, Field(ge=0.0)] | None = None
    num_risk_stops: Count = 0
    num_risk_disagreements: Count = 0
    risk_bound: Share = 0.0
    sure: tuple[SureRecord, ...] = ()


class StrategyRecord(_Record):
    """What a strategy uses, and how it did on held-out items."""

    weight_by_member: dict[str, Finite]
    kappa: Annotated[float, Field(gt=0.0)]
    log_prior_by_label: dict[str, Finite] = {}
    withhold_below: Share = 0.0
    conformal_alpha: Share | None = None
    conformal_threshold: Share | None = None
    risk_delta: Share | None = None
    certificates: tuple[CertificateRecord, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    held_out: HeldOutRecord


class GateRecord(_Record):
    """Whether any strategy beat the best single member, in one sentence too.

    ``p_value`` is that of ``strategy``, the best on held-out items, times the number of strategies tried (Bonferroni);
    a gain is claimed when it is more accurate and the p-value is below ``significance``. ``best_member`` is the best
    one as it is or (``is_best_corrected``) by its own correction.
    """

    strategy: str
    best_member: str
    is_best_corrected: bool = False
    p_value: Share
    significance: Share
    is_gain_claimed: bool
    sentence: str


class Calibration(_Record):
    """A calibration of one ensemble, as it is written to a file.

    It is for items with choices (``has_choices``) or for short answers; ``labels`` are the choices when every item had
    the same ones, else empty. ``collision`` is the probability that two
    wrong members give the same wrong answer. ``spec_facts`` and ``data_digest`` say what it was made from.
    """

    version: Literal[1] = 1
    ensemble: str
    spec_facts: dict[str, str] = {}
    data_digest: str
    num_items: Count
    has_choices: bool = True
    labels: tuple[str, ...] = ()
    collision: Annotated[float, Field(gt=0.0, le=1.0)]
    error_correlation_by_family: dict[str, Share] = {}
    members: Annotated[dict[str, MemberRecord], Field(min_length=1)]
    strategies: dict[str, StrategyRecord]
    gate: GateRecord

    @model_validator(mode="after")
    def _knows_its_members(self) -> Calibration:
        for name, strategy in self.strategies.items():
            if strategy.weight_by_member.keys() != self.members.keys():
                raise ValueError(f"the weights of {name} are not for the members of the calibration")
            if any({*chain(*one.stages)} != self.members.keys() for one in strategy.stages):
                raise ValueError(f"stages of {name} do not name the members of the calibration")
            named = {member for one in strategy.certificates for member in (*one.backers, *one.others)}
            if not named <= self.members.keys():
                raise ValueError(f"a certificate of {name} names a member that the calibration lacks")
        return self

    @property
    def digest(self) -> str:
        """Name the calibration: SHA-256 of its content, 16 hexadecimal digits."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_voting(self) -> EnsembleCalibration:
        """Give what the vote needs."""
        return EnsembleCalibration(
            digest=self.digest,
            by_member={
                name: MemberCalibration(temperature=member.temperature, bias_by_label=dict(member.bias_by_label))
                for name, member in self.members.items()
            },
            by_strategy={
                name: StrategyCalibration(
                    weight_by_member=dict(strategy.weight_by_member),
                    kappa=strategy.kappa,
                    log_prior_by_label=dict(strategy.log_prior_by_label),
                    withhold_below=strategy.withhold_below,
                    conformal_threshold=strategy.conformal_threshold,
                    certificates=tuple(_certificate(one) for one in strategy.certificates),
                )
                for name, strategy in self.strategies.items()
            },
            has_choices=self.has_choices,
            labels=self.labels,
        )


def _certificate(record: CertificateRecord) -> Certificate:
    return Certificate(
        backers=frozenset(record.backers),
        others=frozenset(record.others),
        min_margin=record.min_margin,
        num_items=record.num_items,
        num_disagreements=record.num_disagreements,
        bound=record.bound,
    )


def load_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        ConfigError: it cannot be read, or is no calibration of this version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give a calibration file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "it is not UTF-8 text", "give a calibration file") from error
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(str(path), f"it is no calibration: {where}: {first['msg']}{more}", _REMEDY) from error


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration file whole or not at all: a reader never sees half of it.

    Raises:
        ConfigError: it cannot be written there.
    """
    text = json.dumps(calibration.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def _changes(member: str, record: MemberRecord, family: str, fingerprint: str) -> list[str]:
    problems = []
    if record.family != family:
        problems.append(f"{member} was of family {record.family!r} and is of {family!r}")
    if record.fingerprint != fingerprint:
        problems.append(f"{member} has changed (it was {record.fingerprint}, it is {fingerprint})")
    return problems


def check_fits(
    calibration: Calibration,
    *,
    ensemble: str,
    fingerprint_by_member: Mapping[str, str],
    family_by_member: Mapping[str, str],
    facts: Mapping[str, str],
) -> None:
    """Refuse a calibration that was made for another ensemble, other members, or members that have changed since.

    ``facts`` are the spec's of now; of those that the calibration has, all must be the same.

    Raises:
        ConfigError: it does not fit; the facts say in what.
    """
    problems = []
    if calibration.ensemble != ensemble:
        problems.append(f"it was made for ensemble {calibration.ensemble!r}, not {ensemble!r}")
    made_for, given = calibration.members.keys(), fingerprint_by_member.keys()
    if missing := sorted(given - made_for):
        problems.append(f"it knows nothing about {', '.join(missing)}")
    if surplus := sorted(made_for - given):
        problems.append(f"it was made with {', '.join(surplus)}, which the ensemble lacks")
    for member in sorted(made_for & given):
        problems += _changes(
            member, calibration.members[member], family_by_member[member], fingerprint_by_member[member]
        )
    for name, now in facts.items():
        then = calibration.spec_facts.get(name, now)
        if then != now:
            problems.append(f"{name} was {then} and is {now}")
    if problems:
        raise ConfigError(f"ensembles.{ensemble}.calibration", "; ".join(problems), _REMEDY)
