"""What every strategy's tally keeps, whichever rule it counts by."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError, QuorumError
from ensemble.voting import (
    STRATEGY_NAMES,
    Abstention,
    AbstentionReason,
    Ballot,
    DecidedBy,
    Question,
    Quorum,
    Task,
    Vote,
    Voter,
    get_strategy,
)
from tests.voting.panels import build_question, count, decide, silent

KINDS = [
    pytest.param(name, task, id=f"{name}-{task}")
    for name in STRATEGY_NAMES
    for task in Task
    if task in get_strategy(name).tasks
]
every_kind = pytest.mark.parametrize(("strategy", "task"), KINDS)
SOME = settings(max_examples=60, deadline=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Weights, and each member's vote: an index into the choices or texts, or None for silence."""

    weights: list[float]
    votes: list[tuple[int | None, float | None]]
    order: list[int]


@st.composite
def polls(draw: st.DrawFn) -> Poll:
    weights = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 1.0]), min_size=1, max_size=6).filter(any))
    vote = st.tuples(st.sampled_from([None, 0, 0, 1, 2]), st.sampled_from([None, -1.0, -2.0]))
    votes = draw(st.lists(vote, min_size=len(weights), max_size=len(weights)))
    return Poll(weights=weights, votes=votes, order=draw(st.permutations(range(len(weights)))))


def question_for(task: Task, weights: list[float]) -> Question:
    return build_question(weights, ("red", "green", "blue") if task is Task.CHOICE else ())


def vote_for(task: Task, member: int, index: int | None, logprob: float | None = None) -> Vote:
    if index is None:
        return silent(member)
    if task is Task.CHOICE:
        probabilities = [(0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.0, 0.0, 1.0)][index]
        choice = ("red", "green", "blue")[index]
        return Ballot(member=f"m{member}", choice=choice, probabilities=probabilities, logprob=logprob)
    words = ("The red house.", "A green house?", "Blue!")[index]
    return Ballot(member=f"m{member}", text=words, logprob=logprob)


def votes_of(task: Task, poll: Poll) -> list[Vote]:
    return [vote_for(task, n, index, logprob) for n, (index, logprob) in enumerate(poll.votes)]


@every_kind
@SOME
@given(poll=polls().filter(lambda poll: any(index is not None for index, _ in poll.votes)))
def test_the_order_of_arrival_never_matters(strategy: str, task: Task, poll: Poll) -> None:
    question, votes = question_for(task, poll.weights), votes_of(task, poll)

    decision = decide(strategy, question, votes)
    shuffled = decide(strategy, question, [votes[n] for n in poll.order])

    assert shuffled == decision
    assert 0.0 <= decision.margin <= decision.agreement <= 1.0
    assert decision.candidates[0].answer == decision.answer


@every_kind
@SOME
@given(poll=polls().filter(lambda p: any(i is not None and w for (i, _), w in zip(p.votes, p.weights, strict=True))))
def test_abstaining_equals_being_absent(strategy: str, task: Task, poll: Poll) -> None:
    question, votes = question_for(task, poll.weights), votes_of(task, poll)
    cast = [vote for vote in votes if isinstance(vote, Ballot)]
    members = {ballot.member for ballot in cast}
    present = tuple(voter for voter in question.panel if voter.member in members)
    without = Question(panel=present, quorum=question.quorum, choices=question.choices)

    decision, smaller = decide(strategy, question, votes), decide(strategy, without, cast)

    assert (decision.answer, decision.candidates, decision.agreement, decision.margin) == (
        smaller.answer,
        smaller.candidates,
        smaller.agreement,
        smaller.margin,
    )


@every_kind
def test_adding_gives_a_new_tally_and_leaves_the_old_one(strategy: str, task: Task) -> None:
    empty = count(strategy, question_for(task, [1.0, 1.0, 1.0]), [])

    one = empty.add(vote_for(task, 1, 0))
    two = one.add(silent(0))

    assert (empty.waiting, empty.num_cast) == (("m0", "m1", "m2"), 0)
    assert (one.waiting, one.num_cast) == (("m0", "m2"), 1)
    assert (two.waiting, two.num_cast) == (("m2",), 1)


@every_kind
def test_nobody_waiting_is_decided(strategy: str, task: Task) -> None:
    tally = count(strategy, question_for(task, [1.0, 1.0]), [silent(0), silent(1)])

    assert tally.is_decided()


@every_kind
def test_the_deadline_makes_those_who_are_out_late(strategy: str, task: Task) -> None:
    cancelled = Abstention(member="m3", reason=AbstentionReason.CANCELLED, detail="by hand", latency_s=0.5)
    question = question_for(task, [1.0] * 4)

    decision = decide(strategy, question, [cancelled, vote_for(task, 1, 0)], DecidedBy.DEADLINE)

    assert decision.decided_by is DecidedBy.DEADLINE
    assert [(a.member, a.reason) for a in decision.abstentions] == [
        ("m0", AbstentionReason.DEADLINE),
        ("m2", AbstentionReason.DEADLINE),
        ("m3", AbstentionReason.CANCELLED),
    ]
    assert decision.abstentions[2] == cancelled
    assert decision.degraded


@every_kind
def test_no_ballot_at_all_is_a_quorum_error(strategy: str, task: Task) -> None:
    tally = count(strategy, question_for(task, [1.0, 1.0]), [silent(0)])

    with pytest.raises(QuorumError, match="0 of 2 members gave a ballot"):
        tally.decide(DecidedBy.DEADLINE)


@every_kind
def test_one_ballot_has_full_agreement(strategy: str, task: Task) -> None:
    vote = Ballot(member="m0", choice="red", probabilities=(1.0, 0.0, 0.0)) if task is Task.CHOICE else None

    decision = decide(strategy, question_for(task, [2.0]), [vote or vote_for(task, 0, 0)])

    assert (decision.agreement, decision.margin, decision.degraded) == (1.0, 1.0, False)


@every_kind
def test_strangers_and_second_votes_are_refused(strategy: str, task: Task) -> None:
    tally = count(strategy, question_for(task, [1.0, 1.0]), [vote_for(task, 0, 0)])

    with pytest.raises(InvalidRequestError, match="'m7' is not on the panel"):
        tally.add(vote_for(task, 7, 0))
    with pytest.raises(InvalidRequestError, match="'m0' has voted already"):
        tally.add(vote_for(task, 0, 1))
    with pytest.raises(InvalidRequestError, match="'m0' has voted already"):
        tally.add(silent(0))


@every_kind
@pytest.mark.parametrize("logprob", [float("nan"), float("-inf"), float("inf")])
def test_a_logprob_that_is_no_number_is_refused(strategy: str, task: Task, logprob: float) -> None:
    tally = count(strategy, question_for(task, [1.0]), [])

    with pytest.raises(InvalidRequestError, match="log-probability"):
        tally.add(vote_for(task, 0, 0, logprob))


def voter(member: str, weight: float) -> Voter:
    return Voter(member=member, family="f", weight=weight)


@every_kind
@pytest.mark.parametrize(
    ("panel", "quorum"),
    [
        ((), Quorum()),
        ((voter("a", 1.0), voter("a", 1.0)), Quorum()),
        ((voter("a", float("nan")),), Quorum()),
        ((voter("a", float("inf")),), Quorum()),
        ((voter("a", 1.0),), Quorum(min_weight=1.5)),
        ((voter("a", 1.0),), Quorum(min_weight=float("nan"))),
        ((voter("a", 1.0),), Quorum(min_weight=-0.1)),
        ((voter("a", 1.0),), Quorum(min_families=0)),
    ],
)
def test_a_panel_or_quorum_that_cannot_be_counted_is_refused(
    strategy: str, task: Task, panel: tuple[Voter, ...], quorum: Quorum
) -> None:
    question = Question(panel=panel, quorum=quorum, choices=question_for(task, [1.0]).choices)

    with pytest.raises(InvalidRequestError, match=r"panel|quorum"):
        get_strategy(strategy).open_tally(question)
