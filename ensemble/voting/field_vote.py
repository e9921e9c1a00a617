"""JSON answers, voted on field by field and put together again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import admit_free_text
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.exact import ONE
from ensemble.voting.field_tree import MAX_DEPTH, Field, JsonObject, Sample, assemble, fields_of
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.turnout import Turnout, open_turnout

MAX_STARTS = 64
"""So many braces of a text are tried as the start of its object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldVote:
    """A JSON object whose every field is decided by a weighted vote of its own.

    For the field at path f, S_v = sum of w_i over the members whose object has v there, and the largest wins; a
    member whose object lacks the field votes for leaving it out. (ROVER, Fiscus 1997, aligns hypotheses and votes on
    every slot, absence included; here the paths align them.) An object is a value as a whole, "there is an object
    here", and those who say so vote on what is in it. Lists are values as a whole. Keys are compared as they are.
    Strings are equal when they normalise to the same short answer, numbers when they are equal; among equal values the
    spelling with the most weight wins. A gap within the tie goes to the value of the member of the largest weight,
    then to the one that sorts first; a text's log-probability says nothing of one field.

    The object is the text's first in a code fence, else its first; a text without one is an abstention. The answer is
    JSON with sorted keys. Agreement and margin are those of the least agreed vote among those that made the answer,
    as shares of the whole cast weight. Candidates' weights are of the members who gave exactly that object, so the
    answer itself may have none. There is no calibrated confidence, since no sum speaks for the whole object.
    """

    name: str = "field_vote"
    tasks: frozenset[Task] = frozenset({Task.SHORT_ANSWER})
    is_heavy: bool = False
    second_round: SecondRound | None = None

    def open_tally(self, question: Question) -> FieldTally:
        """Start an empty count; weights must not be negative: no value can be voted out for one that nobody gave."""
        if question.choices:
            raise InvalidRequestError(
                "choices", f"{self.name} votes on JSON texts", "leave them out, or ask for weighted_vote"
            )
        if any(voter.weight < 0 for voter in question.panel):
            raise InvalidRequestError("panel", f"{self.name} cannot use negative weights", "give weights of 0 or more")
        return FieldTally(
            strategy=self.name, turnout=open_turnout(question, [voter.weight for voter in question.panel])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldTally:
    """The objects that are in; a ballot's choice is its object as JSON with sorted keys."""

    strategy: str
    turnout: Turnout

    def add(self, vote: Vote) -> FieldTally:
        """Count one member's ballot or abstention."""
        admitted = _admit_object(vote, self.turnout.question) if isinstance(vote, Ballot) else vote
        return replace(self, turnout=self.turnout.add(admitted))

    def vote_of(self, member: str) -> Vote:
        """Give a member's vote as it was counted."""
        return self.turnout.vote_of(member)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Members who have neither voted nor abstained, in the panel's order."""
        return self.turnout.waiting

    @property
    def num_cast(self) -> int:
        """Ballots counted so far."""
        return self.turnout.num_cast

    def is_decided(self) -> bool:
        """Say whether no completion of the vote can change the answer or whether it is degraded.

        Every vote that makes the answer must be led by more than the weight still out, over values that nobody has
        given as well: a field's value, its spelling, what is in an object, and that an object has no further fields.
        A late ballot moves a gap in any of them by at most its ``|weight|``, so none can be turned.
        """
        turnout = self.turnout
        if turnout.is_complete:
            return True
        if not turnout.question.quorum.stop_early or not turnout.is_soundness_known or not turnout.num_cast:
            return False
        least = turnout.waiting_weight + turnout.tolerance
        return all(field.open_lead > least for field in self._fields())

    def is_certified(self) -> bool:
        """Say no: certificates speak of one answer, not of many fields."""
        return False

    def decide(self, decided_by: DecidedBy) -> Decision:
        """Give the decision with what is in."""
        turnout = self.turnout
        turnout.check_decidable(decided_by, is_decided=decided_by is DecidedBy.LOSSLESS_QUORUM and self.is_decided())
        fields = list(self._fields())
        answer = _to_json(assemble(fields))
        cast = turnout.cast_weight
        return Decision(
            answer=answer,
            strategy=self.strategy,
            decided_by=decided_by,
            agreement=min((_share(field.backing, cast) for field in fields), default=1.0),
            margin=min((_share(field.lead, cast) for field in fields), default=1.0),
            confidence=None,
            degraded=not turnout.is_sound,
            num_asked=len(turnout.weights),
            families=turnout.families,
            candidates=_candidates(turnout, answer),
            ballots=turnout.ballots,
            abstentions=turnout.abstentions(decided_by),
        )

    def _fields(self) -> Iterator[Field]:
        own_weights = {voter.member: voter.weight for voter in self.turnout.question.panel}
        samples = [
            Sample(
                weight=self.turnout.weights[ballot.member],
                own_weight=own_weights[ballot.member],
                value=json.loads(ballot.choice or "{}"),
            )
            for ballot in self.turnout.ballots
        ]
        return fields_of(samples, self.turnout.tolerance)


def find_object(text: str) -> JsonObject | None:
    """Read a text's first JSON object in a code fence, else its first; None when there is none.

    Numbers must be JSON's own (no NaN, no infinity), and objects and lists nested no deeper than ``MAX_DEPTH``.
    """
    fenced = text.split("```")[1::2]
    for part in (*fenced, text):
        start = part.find("{")
        for _ in range(MAX_STARTS):
            if start < 0:
                break
            found = _object_at(part, start)
            if found is not None:
                return found
            start = part.find("{", start + 1)
    return None


def _object_at(text: str, start: int) -> JsonObject | None:
    try:
        found, _ = _DECODER.raw_decode(text, start)
        _to_json(found).encode()  # half a surrogate pair is JSON, and cannot be sent on
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _is_shallow(found, MAX_DEPTH) else None


def _is_shallow(value: object, depth: int) -> bool:
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_shallow(part, depth - 1) for part in inside)
    return True


def _finite(number: str) -> float:
    value = float(number)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(number)
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _admit_object(ballot: Ballot, question: Question) -> Vote:
    admitted = admit_free_text(ballot, question)
    if isinstance(admitted, Abstention):
        return admitted
    found = find_object(admitted.text or "")
    if found is None:
        return Abstention(
            member=ballot.member,
            reason=AbstentionReason.UNPARSEABLE,
            detail="the text has no JSON object",
            latency_s=ballot.latency_s,
        )
    return replace(admitted, choice=_to_json(found))


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _candidates(turnout: Turnout, answer: str) -> tuple[Candidate, ...]:
    members_by_answer: dict[str, tuple[str, ...]] = {answer: ()}
    for ballot in turnout.ballots:
        key = ballot.choice or ""
        members_by_answer[key] = (*members_by_answer.get(key, ()), ballot.member)
    sums = {key: sum(turnout.weights[member] for member in members) for key, members in members_by_answer.items()}
    ranked = sorted(members_by_answer, key=lambda key: (key != answer, -sums[key], key))
    return tuple(Candidate(answer=key, weight=sums[key] / ONE, members=members_by_answer[key]) for key in ranked)


def _share(weight: int, cast_weight: int) -> float:
    return min(weight / cast_weight, 1.0) if cast_weight and weight > 0 else 0.0
