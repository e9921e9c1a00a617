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
    RISK_QUORUM = "risk_quorum"
    """A certificate bounds how often the ballots still out would change the answer."""
    STAGE = "stage"
    """The members asked so far were agreed or sure enough; the others were not asked."""
    FIRST_TOKEN = "first_token"  # noqa: S105 - no password
    """The member whose text began first answered alone: no vote was held."""
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
    ``margin`` is the share of the cast weight by which the answer leads the second, in [0, 1]; where ballots do not
    split their weight (log_pool, stacking, borda) it is the lead's share of the largest that they could make, and for
    mbr the lead in utility. Log-priors count for the margin and not for the agreement. ``confidence`` is a calibrated
    probability, or None when nothing was calibrated. ``withheld`` says that it is below what the ensemble answers
    with: the answer is then a guess. ``label_set`` has the choices that cannot be ruled out at the calibrated error
    rate, likeliest first; empty when none was calibrated. ``degraded`` says that too little weight or too few families
    took part. Candidates are sorted, the answer first; ballots and abstentions are in the panel's order, never in
    order of arrival. ``streamed_member`` is the one whose text alone was streamed, empty when there is none, and
    ``replaces_stream`` says that the answer is not what was streamed.
    """

    answer: str
    strategy: str
    decided_by: DecidedBy
    agreement: float
    margin: float
    confidence: float | None
    withheld: bool = False
    label_set: tuple[str, ...] = ()
    degraded: bool
    num_asked: int
    families: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    ballots: tuple[Ballot, ...]
    abstentions: tuple[Abstention, ...]
    streamed_member: str = ""
    replaces_stream: bool = False
