"""What a batch came to: answers, agreement, abstentions, cost and throughput.

Cost is in tokens, and in GFLOP (2 x parameters x tokens) where the checkpoints are at hand. It counts the ballots in
the answers: tokens that a prefix cache saved are in it, attempts that failed and the choices' own tokens are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ensemble.batch.answers import Answer
from ensemble.calibration.call_costs import forward_gflop
from ensemble.calibration.manifest import MemberFacts

NUM_BINS = 10
"""Agreement is counted by tenths; the last bin has 1.0, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What this run did; the rest was there already."""

    num_asked: int
    duration_s: float

    @property
    def items_per_s(self) -> float:
        """Items answered a second."""
        return self.num_asked / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(slots=True)
class BatchReport:
    """Running figures; ``add`` every answer once, then ``to_dict``."""

    num_rejects: int
    num_answered: int = 0
    num_unanswered: int = 0
    num_withheld: int = 0
    num_degraded: int = 0
    _agreement_sum: float = 0.0
    _bins: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    _abstentions: Counter[tuple[str, str]] = field(default_factory=Counter)
    _prompt_tokens: Counter[str] = field(default_factory=Counter)
    _completion_tokens: Counter[str] = field(default_factory=Counter)
    _ballots: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        columns = answer.columns
        if columns["answer"] is None:
            self.num_unanswered += 1
        else:
            self.num_answered += 1
            self.num_withheld += bool(columns["withheld"])
            self.num_degraded += bool(columns["degraded"])
            self._agreement_sum += columns["agreement"]
            self._bins[min(int(columns["agreement"] * NUM_BINS), NUM_BINS - 1)] += 1
        self._abstentions.update((one["member"], one["reason"]) for one in columns["abstentions"])
        for member, (prompt_tokens, completion_tokens) in answer.tokens_by_member.items():
            self._ballots[member] += 1
            self._prompt_tokens[member] += prompt_tokens
            self._completion_tokens[member] += completion_tokens

    def to_dict(self, effort: Effort, members: Sequence[MemberFacts]) -> dict[str, Any]:
        """Give the figures as programs read them; what is not known is None."""
        figures = {member.name: self._member(member) for member in members}
        return {
            "num_items": self.num_answered + self.num_unanswered,
            "num_answered": self.num_answered,
            "num_unanswered": self.num_unanswered,
            "num_withheld": self.num_withheld,
            "num_degraded": self.num_degraded,
            "num_rejects": self.num_rejects,
            "agreement": {
                "mean": self._agreement_sum / self.num_answered if self.num_answered else 0.0,
                "num_by_tenth": list(self._bins),
            },
            "members": figures,
            "tokens": {"prompt": self._prompt_tokens.total(), "completion": self._completion_tokens.total()},
            "gflop": _sum([one["gflop"] for one in figures.values()]),
            "this_run": {
                "num_asked": effort.num_asked,
                "duration_s": round(effort.duration_s, 3),
                "items_per_s": round(effort.items_per_s, 3),
            },
        }

    def _member(self, member: MemberFacts) -> dict[str, Any]:
        name = member.name
        prompt_tokens, completion_tokens = self._prompt_tokens[name], self._completion_tokens[name]
        gflop = forward_gflop(member.num_parameters, prompt_tokens + completion_tokens)
        return {
            "num_ballots": self._ballots[name],
            "abstentions": {reason: n for (silent, reason), n in sorted(self._abstentions.items()) if silent == name},
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "gflop": round(gflop, 3) if member.num_parameters else None,
        }


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return round(sum(known), 3) if len(known) == len(parts) else None
