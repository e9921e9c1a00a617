"""What every strategy's tally keeps, whichever rule it counts by."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from ensemble.voting.strategy import VoteCalibration
from tests.voting.panels import build_question, count, decide, silent

FIRST_ROUND = [
    (name, task)
    for name in STRATEGY_NAMES
    for task in Task
    if task in get_strategy(name).tasks and get_strategy(name).second_round is None
]
every_kind = pytest.mark.parametrize(
    ("strategy", "task"), [pytest.param(name, task, id=f"{name}-{task}") for name, task in FIRST_ROUND]
)
LIGHT = [(name, task) for name, task in FIRST_ROUND if not get_strategy(name).is_heavy]
HEAVY = [(name, task) for name, task in FIRST_ROUND if get_strategy(name).is_heavy]
# One draw is tried on every light kind at once: drawing costs more than voting.
MANY = settings(max_examples=1000, deadline=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Weights, and each member's vote: an index into the choices or texts, or None for silence."""

    weights: list[float]
    votes: list[tuple[int | None, float | None]]
    order: list[int]


@st.composite
def polls(draw: st.DrawFn) -> Poll:
    weights = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 1.0]), min_size=1, max_size=5).filter(any))
    vote = st.tuples(st.sampled_from([None, 0, 0, 1, 2]), st.sampled_from([None, -1.0, -2.0]))
    votes = draw(st.lists(vote, min_size=len(weights), max_size=len(weights)))
    return Poll(weights=weights, votes=votes, order=draw(st.permutations(range(len(weights)))))


def question_for(task: Task, weights: list[float], strategy: str = "") -> Question:
    calibration = VoteCalibration(kappa=1.0) if strategy == "stacking" else None
    return build_question(weights, ("red", "green", "blue") if task is Task.CHOICE else (), calibration=calibration)


def vote_for(task: Task, member: int, index: int | None, logprob: float | None = None, *, strategy: str = "") -> Vote:
    if index is None:
        return silent(member)
    if task is Task.CHOICE:
        probabilities = [(0.5, 0.3, 0.2), (0.1, 0.8, 0.1), (0.0, 0.0, 1.0)][index]
        choice = ("red", "green", "blue")[index]
        return Ballot(member=f"m{member}", choice=choice, probabilities=probabilities, logprob=logprob)
    if strategy == "field_vote":
        words = ('{"colour": "red", "size": 1}', '{"colour": "Red"}', '{"colour": "blue", "size": 1.0}')[index]
    else:
        words = ("The red house.", "A green house?", "Blue!")[index]
    return Ballot(member=f"m{member}", text=words, logprob=logprob)


def votes_of(task: Task, poll: Poll, strategy: str) -> list[Vote]:
    return [vote_for(task, n, index, logprob, strategy=strategy) for n, (index, logprob) in enumerate(poll.votes)]


def check_order(strategy: str, task: Task, poll: Poll) -> None:
    question, votes = question_for(task, poll.weights, strategy), votes_of(task, poll, strategy)

    decision = decide(strategy, question, votes)
    shuffled = decide(strategy, question, [votes[n] for n in poll.order])

    assert shuffled == decision
    assert 0.0 <= decision.margin <= 1.0
    assert 0.0 <= decision.agreement <= 1.0
    assert decision.candidates[0].answer == decision.answer


@MANY
@given(poll=polls().filter(lambda poll: any(index is not None for index, _ in poll.votes)))
def test_the_order_of_arrival_never_matters(poll: Poll) -> None:
    for strategy, task in LIGHT:
        check_order(strategy, task, poll)


@MANY
@given(poll=polls().filter(lambda poll: any(index is not None for index, _ in poll.votes)))
def test_the_order_of_arrival_never_matters_to_heavy_strategies(poll: Poll) -> None:
    for strategy, task in HEAVY:
        check_order(strategy, task, poll)


def check_absence(strategy: str, task: Task, poll: Poll) -> None:
    question, votes = question_for(task, poll.weights, strategy), votes_of(task, poll, strategy)
    cast = [vote for vote in votes if isinstance(vote, Ballot)]
    members = {ballot.member for ballot in cast}
    present = tuple(voter for voter in question.panel if voter.member in members)

    decision, smaller = decide(strategy, question, votes), decide(strategy, replace(question, panel=present), cast)

    assert (decision.answer, decision.candidates, decision.agreement, decision.margin, decision.confidence) == (
        smaller.answer,
        smaller.candidates,
        smaller.agreement,
        smaller.margin,
        smaller.confidence,
    )


@MANY
@given(poll=polls().filter(lambda p: any(i is not None and w for (i, _), w in zip(p.votes, p.weights, strict=True))))
def test_abstaining_equals_being_absent(poll: Poll) -> None:
    for strategy, task in LIGHT:
        check_absence(strategy, task, poll)


@MANY
@given(poll=polls().filter(lambda p: any(i is not None and w for (i, _), w in zip(p.votes, p.weights, strict=True))))
def test_abstaining_equals_being_absent_for_heavy_strategies(poll: Poll) -> None:
    for strategy, task in HEAVY:
        check_absence(strategy, task, poll)


@MANY
@given(poll=polls().filter(lambda poll: poll.votes[0][0] is not None and poll.weights[0] > 0))
def test_a_clone_that_shares_its_siblings_weight_changes_nothing(poll: Poll) -> None:
    """Two members that always err together (rho = 1) are discounted by 1 / (1 + (2 - 1) * 1) each."""
    clone = len(poll.weights)
    halves = [poll.weights[0] / 2, *poll.weights[1:], poll.weights[0] / 2]
    doubled = Poll(weights=halves, votes=[*poll.votes, poll.votes[0]], order=[*poll.order, clone])

    for strategy, task in LIGHT:
        if strategy == "majority":
            continue  # it counts heads, and a clone has one
        question = question_for(task, poll.weights, strategy)
        decision = decide(strategy, question, votes_of(task, poll, strategy))
        with_clone = decide(strategy, question_for(task, halves, strategy), votes_of(task, doubled, strategy))

        if decision.margin < 1e-8 or strategy == "field_vote":
            # In a tie the largest own weight speaks, and the clones' are halves; spellings of a field tie unseen.
            # So another of those tied may be the answer, whose own backing, which some rules tell, is another one.
            assert with_clone.margin == pytest.approx(decision.margin, abs=1e-12)
            continue
        weights = {candidate.answer: candidate.weight for candidate in decision.candidates}
        assert {candidate.answer: candidate.weight for candidate in with_clone.candidates} == weights
        assert (with_clone.answer, with_clone.agreement, with_clone.margin, with_clone.confidence) == (
            decision.answer,
            decision.agreement,
            decision.margin,
            decision.confidence,
        )


@every_kind
def test_adding_gives_a_new_tally_and_leaves_the_old_one(strategy: str, task: Task) -> None:
    empty = count(strategy, question_for(task, [1.0, 1.0, 1.0], strategy), [])

    one = empty.add(vote_for(task, 1, 0, strategy=strategy))
    two = one.add(silent(0))

    assert (empty.waiting, empty.num_cast) == (("m0", "m1", "m2"), 0)
    assert (one.waiting, one.num_cast) == (("m0", "m2"), 1)
    assert (two.waiting, two.num_cast) == (("m2",), 1)


@every_kind
def test_nobody_waiting_is_decided(strategy: str, task: Task) -> None:
    tally = count(strategy, question_for(task, [1.0, 1.0], strategy), [silent(0), silent(1)])

    assert tally.is_decided()


@every_kind
def test_the_deadline_makes_those_who_are_out_late(strategy: str, task: Task) -> None:
    cancelled = Abstention(member="m3", reason=AbstentionReason.CANCELLED, detail="by hand", latency_s=0.5)
    question = question_for(task, [1.0] * 4, strategy)

    decision = decide(strategy, question, [cancelled, vote_for(task, 1, 0, strategy=strategy)], DecidedBy.DEADLINE)

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
    tally = count(strategy, question_for(task, [1.0, 1.0], strategy), [silent(0)])

    with pytest.raises(QuorumError, match="0 of 2 members gave a ballot"):
        tally.decide(DecidedBy.DEADLINE)


@every_kind
def test_one_ballot_has_full_agreement(strategy: str, task: Task) -> None:
    vote = Ballot(member="m0", choice="red", probabilities=(1.0, 0.0, 0.0)) if task is Task.CHOICE else None

    decision = decide(strategy, question_for(task, [2.0], strategy), [vote or vote_for(task, 0, 0, strategy=strategy)])

    # By Borda's points one ballot says no more than that the first is two places before the last.
    assert (decision.agreement, decision.degraded) == (1.0, False)
    assert decision.margin == (0.75 if strategy == "borda" else 1.0)


@every_kind
def test_strangers_and_second_votes_are_refused(strategy: str, task: Task) -> None:
    tally = count(strategy, question_for(task, [1.0, 1.0], strategy), [vote_for(task, 0, 0, strategy=strategy)])

    with pytest.raises(InvalidRequestError, match="'m7' is not on the panel"):
        tally.add(vote_for(task, 7, 0, strategy=strategy))
    with pytest.raises(InvalidRequestError, match="'m0' has voted already"):
        tally.add(vote_for(task, 0, 1, strategy=strategy))
    with pytest.raises(InvalidRequestError, match="'m0' has voted already"):
        tally.add(silent(0))


@every_kind
@pytest.mark.parametrize("logprob", [float("nan"), float("-inf"), float("inf")])
def test_a_logprob_that_is_no_number_is_refused(strategy: str, task: Task, logprob: float) -> None:
    tally = count(strategy, question_for(task, [1.0], strategy), [])

    with pytest.raises(InvalidRequestError, match="log-probability"):
        tally.add(vote_for(task, 0, 0, logprob, strategy=strategy))


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
    question = replace(question_for(task, [1.0], strategy), panel=panel, quorum=quorum)

    with pytest.raises(InvalidRequestError, match=r"panel|quorum"):
        get_strategy(strategy).open_tally(question)
