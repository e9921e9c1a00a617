"""What each member's call on each item cost and how long it took, as far as the evaluation knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble.calibration.items import ItemVotes
from ensemble.voting.ballot import Ballot, Vote

GFLOP = "GFLOP"
"""2 x parameters x (prompt + completion tokens) / 10^9: a forward pass (Kaplan et al. 2020, arXiv:2001.08361)."""
MEMBER_SECONDS = "member-seconds"
"""The member's own latency: what is known when nobody counted parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """One item's calls by member: seconds until the vote was in, and the cost of a call that is not cancelled."""

    latency_by_member: Mapping[str, float]
    cost_by_member: Mapping[str, float]

    def arrivals(self, members: Sequence[str]) -> list[str]:
        """Sort members by the moment their votes come in, equal ones by name."""
        return sorted(members, key=lambda member: (self.latency_by_member[member], member))

    def last_s(self, members: Sequence[str]) -> float:
        """Say when the last of the members' votes is in."""
        return max((self.latency_by_member[member] for member in members), default=0.0)

    def spent(self, members: Sequence[str], *, until_s: float = math.inf) -> float:
        """Sum the cost of calls that were cancelled ``until_s`` seconds after their start.

        A cancelled member costs the share of its latency that it worked for.
        """
        return math.fsum(self.cost_by_member[member] * self._share(member, until_s) for member in members)

    def _share(self, member: str, until_s: float) -> float:
        latency_s = self.latency_by_member[member]
        return 1.0 if latency_s <= until_s else until_s / latency_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCosts:
    """The calls on every item, in the items' order, and what the cost is counted in."""

    unit: str
    by_item: tuple[Calls, ...]
    mean_by_member: Mapping[str, float]


def build_call_costs(items: Sequence[ItemVotes], num_parameters_by_member: Mapping[str, int]) -> CallCosts:
    """Count what calls cost: in GFLOP when every member's parameters are known, else in member-seconds.

    A failed call is taken to have cost what the member's calls cost on average.
    """
    members = [vote.member for vote in items[0].votes] if items else []
    has_parameters = all(num_parameters_by_member.get(member, 0) > 0 for member in members)
    costs = [
        {vote.member: _cost(vote, num_parameters_by_member if has_parameters else {}) for vote in item.votes}
        for item in items
    ]
    mean_by_member = {member: _mean([cost[member] for cost in costs]) for member in members}
    return CallCosts(
        unit=GFLOP if has_parameters else MEMBER_SECONDS,
        by_item=tuple(
            Calls(
                latency_by_member={vote.member: vote.latency_s for vote in item.votes},
                cost_by_member={
                    member: mean_by_member[member] if value is None else value for member, value in cost.items()
                },
            )
            for item, cost in zip(items, costs, strict=True)
        ),
        mean_by_member=mean_by_member,
    )


def _cost(vote: Vote, num_parameters_by_member: Mapping[str, int]) -> float | None:
    if not isinstance(vote, Ballot):
        return None
    if not num_parameters_by_member:
        return vote.latency_s
    return forward_gflop(num_parameters_by_member[vote.member], vote.prompt_tokens + vote.completion_tokens)


def forward_gflop(num_parameters: int, num_tokens: int) -> float:
    """Estimate what reading or writing so many tokens costs, in GFLOP."""
    return 2.0 * num_parameters * num_tokens / 1e9


def _mean(costs: Sequence[float | None]) -> float:
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) / len(known) if known else 0.0
