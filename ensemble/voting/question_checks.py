"""What a panel, a quorum and a calibration must be before votes are counted with them; else InvalidRequestError."""

from __future__ import annotations

from math import isfinite

from ensemble.errors import InvalidRequestError
from ensemble.voting.ballot import Voter
from ensemble.voting.strategy import Quorum, VoteCalibration

HEAVIEST = 1e300
"""Far above every sensible weight: with more, sums of a few dozen could not be told as numbers."""


def check_panel(panel: tuple[Voter, ...], members: list[str]) -> None:
    """Refuse an empty panel, a member on it twice, and a weight that is not finite."""
    if not panel:
        raise InvalidRequestError("panel", "it has no members", "ask at least one")
    if len(set(members)) < len(members):
        raise InvalidRequestError("panel", "a member is on it twice", "name each member once")
    for voter in panel:
        if not abs(voter.weight) <= HEAVIEST:
            problem = f"the weight of {voter.member!r} is {voter.weight}"
            raise InvalidRequestError("panel", problem, f"give a finite weight, from {-HEAVIEST:g} to {HEAVIEST:g}")


def check_quorum(quorum: Quorum) -> None:
    """Refuse a share outside [0, 1] and fewer than one family."""
    if not 0.0 <= quorum.min_weight <= 1.0:
        raise InvalidRequestError("quorum.min_weight", f"{quorum.min_weight} is not a share", "give one in [0, 1]")
    if quorum.min_families < 1:
        raise InvalidRequestError("quorum.min_families", f"{quorum.min_families} is below 1", "give 1 or more")


def check_calibration(calibration: VoteCalibration, num_choices: int) -> None:
    """Refuse a kappa that is negative or not finite, and priors that are not one finite number a choice."""
    if calibration.kappa is not None and not (isfinite(calibration.kappa) and calibration.kappa >= 0):
        problem = f"it is {calibration.kappa}"
        raise InvalidRequestError("calibration.kappa", problem, "give a finite number of 0 or more")
    priors = calibration.log_priors
    if priors and len(priors) != num_choices:
        problem = f"there are {len(priors)} for {num_choices} choices"
        raise InvalidRequestError("calibration.log_priors", problem, "give one a choice, or none")
    if not all(map(isfinite, priors)):
        raise InvalidRequestError("calibration.log_priors", "one is not finite", "give finite ones")
