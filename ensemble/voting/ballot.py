"""What a member says on one request: a ballot, or an abstention with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """One member of the panel, with what its ballot counts for.

    ``weight`` is finite and may be negative only for stacking; the sum of all ``|weight|`` of a panel is above 0.
    """

    member: str
    family: str
    weight: float = 1.0


class AbstentionReason(StrEnum):
    """Why a member gave no ballot."""

    DEADLINE = "deadline"
    ERROR = "error"
    REFUSAL = "refusal"
    UNPARSEABLE = "unparseable"
    CANCELLED = "cancelled"
    """The vote was decided before this member answered."""


OF_THE_WORLD = frozenset({AbstentionReason.ERROR, AbstentionReason.DEADLINE})
"""Silence that another try may end; a refusal or an unreadable text would come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """One member's vote.

    Among given choices: ``choice`` is the member's first choice and ``probabilities`` has one entry a choice, in the
    declared order, summing to 1. For texts: ``text`` is the completion; the strategy makes the choice from it.
    ``logprob`` (natural logarithm) is the choice's score by the member's scoring rule, or the text's mean per token,
    and None when unknown. ``family`` is filled in where a vote is told to a client; a tally takes it from the panel.
    """

    member: str
    family: str = ""
    choice: str | None = None
    probabilities: tuple[float, ...] = ()
    text: str | None = None
    logprob: float | None = None
    latency_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """A member's silence, and why. ``detail`` is one sentence for a person; it never votes."""

    member: str
    family: str = ""
    reason: AbstentionReason
    detail: str = ""
    latency_s: float = 0.0


Vote = Ballot | Abstention
