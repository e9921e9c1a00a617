"""Online weights: Hedge, whose every member's loss is seen, within a stated bound."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ensemble.errors import InvalidRequestError


def hedge_weights(
    log_weights: Mapping[str, float], losses: Mapping[str, float], *, eta: float, max_shift: float
) -> dict[str, float]:
    """Move log-weights by one round's losses and give the new ones: w_i <- w_i * exp(-eta * loss_i).

    ``log_weights`` (natural logarithm) are relative to the prior: 0 is the weight that the member began with, and
    exp of the result is the factor on it. ``losses`` lie in [0, 1] and there is one for every member, since the rule
    is for full information (Freund & Schapire 1997, Hedge). The mean loss is subtracted first, which changes no ratio
    of weights: a round that all get wrong teaches nothing, and no weight drifts to the bound for company.

    Whatever the losses are, one round moves no log-weight by more than ``eta``, and none leaves
    [-max_shift, max_shift].

    Raises:
        InvalidRequestError: a loss is missing, unknown or not in [0, 1], or eta or max_shift is not a finite number
            of 0 or more.
    """
    _check(log_weights, losses, eta=eta, max_shift=max_shift)
    mean = math.fsum(losses.values()) / len(losses) if losses else 0.0
    return {
        member: min(max(log_weight - eta * (losses[member] - mean), -max_shift), max_shift)
        for member, log_weight in log_weights.items()
    }


def _check(log_weights: Mapping[str, float], losses: Mapping[str, float], *, eta: float, max_shift: float) -> None:
    for field, number in (("eta", eta), ("max_shift", max_shift)):
        if not (math.isfinite(number) and number >= 0):
            raise InvalidRequestError(field, f"it is {number}", "give a finite number of 0 or more")
    if log_weights.keys() != losses.keys():
        odd = ", ".join(sorted(log_weights.keys() ^ losses.keys()))
        raise InvalidRequestError("losses", f"{odd} has no loss, or no weight", "give one loss for every member")
    for member, loss in losses.items():
        if not 0.0 <= loss <= 1.0:
            raise InvalidRequestError(f"losses[{member}]", f"it is {loss}", "give a loss in [0, 1]")
