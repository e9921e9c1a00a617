#!/usr/bin/env python
"""What the demo measured, added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ensemble.engines.engine import EngineStats
from ensemble.voting.decision import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the engines did: forward passes, tokens read and written, requests cut short."""

    steps: int
    prompt_tokens: int
    completion_tokens: int
    aborted_requests: int

    @property
    def num_tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def between(cls, before: Iterable[EngineStats], after: Iterable[EngineStats]) -> Work:
        """Subtract the counters of all replicas."""
        done = [cls._total(before), cls._total(after)]
        return cls(**{name: getattr(done[1], name) - getattr(done[0], name) for name in cls.__slots__})

    @classmethod
    def _total(cls, stats: Iterable[EngineStats]) -> Work:
        every = tuple(stats)
        return cls(**{name: sum(getattr(one, name) for one in every) for name in cls.__slots__})

    @classmethod
    def sum(cls, works: Iterable[Work]) -> Work:
        """Add up."""
        every = tuple(works)
        return cls(**{name: sum(getattr(one, name) for one in every) for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One vote: its decision, the time to it, and the engines' work until all of them were idle again."""

    decision: Decision
    elapsed_s: float
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question asked twice: decided early, and with everyone waited for."""

    question: str
    expected: str
    early: Run
    full: Run

    @property
    def is_right(self) -> bool:
        """Say whether the early decision is the expected answer."""
        return is_answer(self.early.decision.answer, self.expected)


def is_answer(answer: str | None, expected: str) -> bool:
    """Compare answers; those in a member's own words are normalised before they are counted."""
    return answer is not None and answer.strip().casefold() == expected.casefold()


def right_by_member(answered: Sequence[Answered]) -> dict[str, int]:
    """Count each member's own right answers, from the runs in which everyone voted."""
    counts: dict[str, int] = {}
    for one in answered:
        for ballot in one.full.decision.ballots:
            counts[ballot.member] = counts.get(ballot.member, 0) + is_answer(ballot.choice, one.expected)
    return counts


def describe_accuracy(answered: Sequence[Answered]) -> str:
    """Compare the ensemble with its best member, whichever way it went."""
    by_member = right_by_member(answered)
    best = max(by_member.values(), default=0)
    names = ", ".join(member for member, right in by_member.items() if right == best)
    ours = sum(one.is_right for one in answered)
    verdict = "the ensemble did not beat its best member"
    if ours > best:
        verdict = "the ensemble beat its best member"
    elif ours < best:
        verdict = "the ensemble did worse than its best member"
    return (
        f"{verdict}: {ours} of {len(answered)} right, {best} by {names}. "
        f"{len(answered)} questions show how it works, not how good it is."
    )


def describe_times(answered: Sequence[Answered]) -> str:
    """Compare the median times, and say so when stopping early saved none."""
    early_s = median(one.early.elapsed_s for one in answered)
    full_s = median(one.full.elapsed_s for one in answered)
    times = f"median time to the decision {early_s * 1e3:.0f} ms, waiting for everyone {full_s * 1e3:.0f} ms"
    saved_s = full_s - early_s
    if saved_s <= 0:
        return f"{times}: nothing was saved"
    return f"{times}: {saved_s * 1e3:.0f} ms saved ({saved_s / full_s:.2f} of it)"


def describe_work(answered: Sequence[Answered]) -> str:
    """Compare the engines' own counters."""
    early = Work.sum(one.early.work for one in answered)
    full = Work.sum(one.full.work for one in answered)
    spared = full.steps - early.steps, full.num_tokens - early.num_tokens
    verdict = f"{spared[0]} passes and {spared[1]} tokens spared"
    if min(spared) < 0 or not any(spared):
        verdict = "nothing was spared"
    return (
        f"engines' own counters: {early.steps} forward passes and {early.num_tokens} tokens with the early stop "
        f"({early.aborted_requests} requests cut short), {full.steps} and {full.num_tokens} without: {verdict}. "
        "A short question with its choices is one pass, and a pass that has begun is not broken off"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rush:
    """All questions asked at once: the time until the last was decided, and the engines' work."""

    stops_early: bool
    elapsed_s: float
    work: Work


def describe_rushes(rushes: Sequence[Rush]) -> str:
    """Compare asking everything at once with and without the early stop, by the median round."""
    early_s, full_s = (
        median(rush.elapsed_s for rush in rushes if rush.stops_early is stops_early) for stops_early in (True, False)
    )
    early, full = (Work.sum(rush.work for rush in rushes if rush.stops_early is stops) for stops in (True, False))
    verdict = "nothing was saved"
    if early_s < full_s:
        verdict = f"{full_s - early_s:.2f} s saved ({1 - early_s / full_s:.2f} of it)"
    return (
        f"all questions at once, {len(rushes) // 2} rounds each: {early_s:.2f} s with the early stop, {full_s:.2f} s "
        f"without: {verdict}; {early.num_tokens} tokens against {full.num_tokens}, {early.aborted_requests} requests "
        "cut short before or while they ran"
    )


def describe_losslessness(answered: Sequence[Answered]) -> str:
    """Say whether waiting for everyone changed any answer, which it must not."""
    same = sum(one.early.decision.answer == one.full.decision.answer for one in answered)
    return f"the early answer was that of the full vote in {same} of {len(answered)} questions"
