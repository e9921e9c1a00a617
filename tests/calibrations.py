"""Calibration files of two members, as tests of specs and of serving need them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ensemble.calibration.calibration_file import (
    Calibration,
    CertificateRecord,
    GateRecord,
    HeldOutRecord,
    MemberRecord,
    StrategyRecord,
    save_calibration,
)
from ensemble.config import MemberConfig
from ensemble.fingerprint import fingerprint

STRATEGY = "weighted_vote"


def write_calibration(
    path: Path, members: Iterable[MemberConfig], *, weights: Iterable[float] = (), strategy: str = STRATEGY
) -> Calibration:
    """Write a calibration of these members, the first of which alone may end a vote; weights are 1 without a word."""
    members = tuple(members)
    names = [member.name for member in members]
    record = StrategyRecord(
        weight_by_member=dict(zip(names, tuple(weights) or (1.0,) * len(names), strict=True)),
        kappa=1.0,
        withhold_below=0.4,
        conformal_alpha=0.1,
        conformal_threshold=0.7,
        risk_delta=0.01,
        certificates=(
            CertificateRecord(
                backers=(names[0],), others=(), min_margin=0.9, num_items=299, num_disagreements=0, bound=0.009969
            ),
        ),
        held_out=_held_out(names[0]),
    )
    calibration = Calibration(
        ensemble="default",
        data_digest="0" * 16,
        num_items=100,
        collision=1.0,
        members={member.name: _record(member) for member in members},
        strategies={strategy: record},
        gate=GateRecord(
            strategy=strategy, best_member=names[0], p_value=1.0, significance=0.05, is_gain_claimed=False, sentence="-"
        ),
    )
    save_calibration(calibration, path)
    return calibration


def _record(member: MemberConfig) -> MemberRecord:
    return MemberRecord(
        family=member.family,
        fingerprint=fingerprint(member),
        num_items=100,
        num_abstained=0,
        accuracy=0.8,
        accuracy_low=0.7,
        accuracy_high=0.9,
        corrected_accuracy=0.8,
        is_below_chance=False,
        temperature=2.0,
    )


def _held_out(best_member: str) -> HeldOutRecord:
    return HeldOutRecord(
        num_items=100,
        accuracy=0.8,
        accuracy_low=0.7,
        accuracy_high=0.9,
        ece_before=0.2,
        ece_after=0.05,
        best_member=best_member,
        num_gained=5,
        num_lost=5,
        p_value=1.0,
    )
