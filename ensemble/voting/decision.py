"""The outcome of a vote, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ensemble.voting.ballot import Abstention, Ballot


class DecidedBy(StrEnum):
    """What ended the vote."""

    ALL = "all"
    """Every member of the panel has voted or abstained."""
    LOSSLESS_QUORUM = "lossless_quorum"
    """No ballot still out could change the answer."""
    DEADLINE = "deadline"
    """Time was up; the ballots that were in decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer that got votes; ``weight`` is the tally's sum for it, ``members`` those whose first choice it was."""

    answer: str
    weight: float
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer and everything that led to it.

    ``agreement`` is the share of the cast weight that backs the answer, in [0, 1]; it is not a probability.
    ``margin`` is the share of the cast weight by which the answer leads the second, in [0, 1] (for mbr: the lead in
    utility). ``confidence`` is a calibrated probability, or None when nothing was calibrated. ``degraded`` says that
    too little weight or too few families took part. Candidates are sorted, the answer first; ballots and abstentions
    are in the panel's order, never in order of arrival.
    """

    answer: str
    strategy: str
    decided_by: DecidedBy
    agreement: float
    margin: float
    confidence: float | None
    degraded: bool
    num_asked: int
    families: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    ballots: tuple[Ballot, ...]
    abstentions: tuple[Abstention, ...]
