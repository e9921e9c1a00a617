"""The contract of a voting rule and of its running count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ensemble.voting.ballot import Vote, Voter
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.short_answer import AnswerRule


class Task(StrEnum):
    """What kind of ballots a strategy counts."""

    CHOICE = "choice"
    """Among choices that the caller gives."""
    SHORT_ANSWER = "short_answer"
    """Short texts that are extracted, normalised and clustered."""
    FREE_TEXT = "free_text"
    """Whole texts, one of which is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """How much of the panel a decision needs to be sound.

    ``min_weight`` is a share of the panel's weight in [0, 1]; ``min_families`` counts families with a ballot, at
    least 1. ``stop_early`` False waits for everyone, which never changes the answer, only the evidence.
    """

    min_weight: float = 0.5
    min_families: int = 1
    stop_early: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A partial vote that may end the vote, because it was seen to agree with the full panel (VOTING part 5).

    It applies when exactly ``backers`` and ``others`` have voted, the first for the leader and the second not, nobody
    has abstained, the leader's margin (as in Decision, of the cast weight) is at least ``min_margin``, and votes still
    out could change the answer. ``num_items`` labelled items looked so and would have been stopped there in any order
    of arrival, or in some order wrongly; the full panel gave another answer to ``num_disagreements`` of them. ``bound``
    is the one-sided 95 % Clopper-Pearson limit of that share.
    """

    backers: frozenset[str]
    others: frozenset[str]
    min_margin: float
    num_items: int
    num_disagreements: int
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCalibration:
    """What was learned about a strategy's sums on labelled items.

    The probability of candidate y is softmax(kappa * S)_y, S_y being the strategy's sum with ``log_priors`` (one a
    choice, natural logarithm; empty for none) added; where ``kappa`` is None nobody knows it. ``withhold_below`` is the
    confidence under which an answer is a guess; an unknown one is below every threshold but 0. A choice is in the label
    set when its probability is at least ``1 - conformal_threshold``; None gives no set. Each of ``certificates`` may
    end a vote. ``digest`` names the calibration.
    """

    kappa: float | None
    log_priors: tuple[float, ...] = ()
    withhold_below: float = 0.0
    conformal_threshold: float | None = None
    certificates: tuple[Certificate, ...] = ()
    digest: str = ""


class SecondRound(StrEnum):
    """What a strategy asks of models once the ballots are in."""

    EMBED = "embed"
    """An embedding of every text, by the ensemble's embedder."""
    SCORE_TEXTS = "score_texts"
    """Every member's log-probability of every text."""
    JUDGE = "judge"
    """The judge's log-probabilities of the texts being the best."""
    FUSE = "fuse"
    """A text that the fuser writes from all texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What models said in the second round, about ``texts``: the distinct texts of the ballots, in the panel's order.

    ``source`` is the member that judged, fused or embedded. ``embeddings`` and ``verdict`` (log-probabilities) have an
    entry a text; ``logprobs_by_scorer`` has by member one mean log-probability a text. What was not asked for is empty.
    """

    texts: tuple[str, ...]
    source: str = ""
    embeddings: tuple[tuple[float, ...], ...] = ()
    logprobs_by_scorer: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    verdict: tuple[float, ...] = ()
    fused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is voted on: the declared choices (empty for texts) and how a short answer is read from a text.

    ``evidence`` is there when a strategy with a second round decides.
    """

    panel: tuple[Voter, ...]
    quorum: Quorum
    choices: tuple[str, ...] = ()
    answer_rule: AnswerRule = AnswerRule()
    calibration: VoteCalibration | None = None
    evidence: Evidence | None = None


class Tally(Protocol):
    """The running count of one vote: a value, so adding gives a new tally. Votes may come in any order.

    The same votes give the same decision, whatever the order they came in.
    """

    def add(self, vote: Vote) -> Tally:
        """Count one member's ballot or abstention.

        Raises:
            InvalidRequestError: the member is not on the panel or has voted already, or the ballot does not fit the
                question (an unknown choice, probabilities that are not finite or do not sum to 1, no text).
        """
        ...

    def vote_of(self, member: str) -> Vote:
        """Give a member's vote as it was counted: a short answer normalised, an unreadable text as an abstention.

        Raises:
            KeyError: the member is still out.
        """
        ...

    @property
    def waiting(self) -> tuple[str, ...]:
        """Members who have neither voted nor abstained, in the panel's order."""
        ...

    @property
    def num_cast(self) -> int:
        """Ballots counted so far; an unparseable one counts as an abstention."""
        ...

    def is_decided(self) -> bool:
        """Say whether no completion of the vote can change the answer or whether it is degraded."""
        ...

    def is_certified(self) -> bool:
        """Say whether a certificate of the question's calibration lets the votes that are in end the vote."""
        ...

    def decide(self, decided_by: DecidedBy) -> Decision:
        """Give the decision with what is in; members still out become cancelled or late abstentions.

        Raises:
            QuorumError: no ballot was cast at all.
        """
        ...


class Strategy(Protocol):
    """A voting rule. A new one is one file and one line in the registry."""

    @property
    def name(self) -> str:
        """The rule's name in specs and requests."""
        ...

    @property
    def tasks(self) -> frozenset[Task]:
        """The kinds of ballots that the rule can count."""
        ...

    @property
    def is_heavy(self) -> bool:
        """Whether counting costs more than a network hop, so that the voting deployment does it."""
        ...

    @property
    def second_round(self) -> SecondRound | None:
        """What models are asked once the ballots are in, if anything; the answer comes as the question's evidence."""
        ...

    def open_tally(self, question: Question) -> Tally:
        """Start an empty count.

        Raises:
            InvalidRequestError: the rule cannot count this question (no choices where it needs some, say).
        """
        ...


def task_of(strategy: Strategy, *, has_choices: bool) -> Task | None:
    """Name the task a strategy would do for a request, or None when it cannot do any."""
    wanted: Sequence[Task] = (Task.CHOICE,) if has_choices else (Task.SHORT_ANSWER, Task.FREE_TEXT)
    return next((task for task in wanted if task in strategy.tasks), None)
