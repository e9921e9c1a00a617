"""Votes as rows of plain values, for journals and tables, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote

Row = Mapping[str, Any]
SIGNIFICANT_DIGITS = 6
"""Digits kept of probabilities and log-probabilities.

What shares a forward pass with a question moves them in the eighth digit or so, so that two runs of one model would
never store the same. A value at the border of two roundings can still fall to either side. Probabilities move by
at most 5e-6 of themselves, and so does their sum.
"""


def vote_to_row(vote: Vote) -> dict[str, Any]:
    """Write a vote, rounded; an abstention has a reason and its detail, a ballot has neither."""
    if isinstance(vote, Abstention):
        return {
            "member": vote.member,
            "abstention": vote.reason.value,
            "detail": vote.detail,
            "latency_s": vote.latency_s,
        }
    return {
        "member": vote.member,
        "choice": vote.choice,
        "probabilities": [rounded(probability) for probability in vote.probabilities],
        "text": vote.text,
        "logprob": None if vote.logprob is None else rounded(vote.logprob),
        "prompt_tokens": vote.prompt_tokens,
        "completion_tokens": vote.completion_tokens,
        "latency_s": vote.latency_s,
    }


def vote_from_row(row: Row) -> Vote:
    """Read a vote.

    Raises:
        KeyError, ValueError, TypeError: it is no vote.
    """
    if row.get("abstention"):
        return Abstention(
            member=row["member"],
            reason=AbstentionReason(row["abstention"]),
            detail=row["detail"],
            latency_s=float(row["latency_s"]),
        )
    return Ballot(
        member=row["member"],
        choice=row["choice"],
        probabilities=tuple(map(float, row["probabilities"])),
        text=row["text"],
        logprob=row["logprob"],
        latency_s=float(row["latency_s"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
    )


def rounded(value: float) -> float:
    """Keep the digits that two runs share."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
