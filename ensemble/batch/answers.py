"""What a batch keeps of each vote, and which of it becomes a column of the output.

Columns that are always there do not depend on who came first, on the machine, or on the hour: the same votes give the
same bytes. Margin, confidence and some strategies' agreement are sums of probabilities, whose last digits move with
whatever shares a forward pass. What is near a tie or a threshold may tip for the same reason, in any column.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.calibration.vote_rows import rounded
from ensemble.voting.decision import Decision

AT_ANY_TIME = ("id", "answer", "degraded")
"""What an early stop leaves as it is."""
AGREEMENT = ("agreement",)
OF_ALL_BALLOTS = ("withheld", "abstentions")
"""What needs every member's vote to be the same each time."""
SUMS = ("margin", "confidence")
BALLOTS = ("ballots",)
SUMMING_STRATEGIES = frozenset({"soft_vote", "mbr_embedding", "mbr_mix", "judge"})
"""Strategies whose agreement is a sum of what models compute, and not of the weights behind what members said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One item's outcome, by the output's column, and the tokens that the ballots in it took, by member.

    ``answer`` is None when there is none, and the abstentions say why; a member without a name stands for the request.
    """

    columns: Mapping[str, Any]
    tokens_by_member: Mapping[str, tuple[int, int]]

    def to_json(self) -> bytes:
        """Write it as a line."""
        fields = {"columns": dict(self.columns), "tokens": dict(self.tokens_by_member)}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Answer:
        """Read a line.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        fields = json.loads(line)
        tokens = {member: (prompt, completion) for member, (prompt, completion) in fields["tokens"].items()}
        return cls(columns=fields["columns"], tokens_by_member=tokens)

    def row(self, columns: Sequence[str]) -> dict[str, Any]:
        """Give the output's row."""
        return {name: self.columns[name] for name in columns}


def columns_of(
    strategies: Collection[str], *, stop_early: bool, with_confidence: bool, with_ballots: bool
) -> tuple[str, ...]:
    """Name the output's columns where answers are decided by these strategies."""
    if stop_early:
        return AT_ANY_TIME
    has_agreement = with_confidence or SUMMING_STRATEGIES.isdisjoint(strategies)
    return (
        *AT_ANY_TIME,
        *(AGREEMENT if has_agreement else ()),
        *OF_ALL_BALLOTS,
        *(SUMS if with_confidence else ()),
        *(BALLOTS if with_ballots else ()),
    )


def answer_from_decision(item_id: str, decision: Decision) -> Answer:
    """Keep what does not depend on the hour."""
    columns = {
        "id": item_id,
        "answer": decision.answer,
        "degraded": decision.degraded,
        "agreement": rounded(decision.agreement),
        "withheld": decision.withheld,
        "abstentions": [{"member": one.member, "reason": one.reason.value} for one in decision.abstentions],
        "margin": rounded(decision.margin),
        "confidence": None if decision.confidence is None else rounded(decision.confidence),
        "ballots": [
            {"member": one.member, "answer": one.text if one.choice is None else one.choice} for one in decision.ballots
        ],
    }
    tokens = {one.member: (one.prompt_tokens, one.completion_tokens) for one in decision.ballots}
    return Answer(columns=columns, tokens_by_member=tokens)


def no_answer(item_id: str, reason_by_member: Mapping[str, str]) -> Answer:
    """Note that there is none, and why."""
    columns = {
        "id": item_id,
        "answer": None,
        "degraded": True,
        "agreement": 0.0,
        "withheld": True,
        "abstentions": [{"member": member, "reason": reason} for member, reason in reason_by_member.items()],
        "margin": 0.0,
        "confidence": None,
        "ballots": [],
    }
    return Answer(columns=columns, tokens_by_member={})
