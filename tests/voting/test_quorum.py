"""The early stop loses nothing, and comes as soon as it can: every completion of a vote is tried."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.voting import AbstentionReason, DecidedBy, Question, Quorum, Tally, Vote
from ensemble.voting.strategy import VoteCalibration
from tests.voting.panels import build_question, count, hard, silent, soft, text

CHOICES = ("red", "green", "blue")
CHOICES_BY_COUNT = {2: ("0", "1"), 3: ("0", "1", "2"), 4: ("0", "1", "2", "3")}
MANY = settings(max_examples=1000, deadline=None)
# Equal and unequal weights, sums that floats get wrong (0.1 + 0.2), nothing, almost nothing, and a contrary member.
WEIGHTS = st.lists(st.sampled_from([1.0, 1.0, 2.0, 0.1, 0.2, 0.3, 0.0, 1e-12, -0.5]), min_size=1, max_size=4).filter(
    any
)
QUORUMS = st.builds(Quorum, min_weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_families=st.integers(1, 3))
LOGPROBS = st.sampled_from([None, -1.0, -2.0])


def completions(tally: Tally, options: Sequence[Sequence[Vote]]) -> Iterator[Tally]:
    """Let those who are out do everything they can; ``options`` has each member's possible votes."""
    out = [options[int(member[1:])] for member in tally.waiting]
    for rest in itertools.product(*out):
        complete = tally
        for vote in rest:
            complete = complete.add(vote)
        yield complete


def outcomes(tally: Tally, options: Sequence[Sequence[Vote]]) -> set[tuple[str, bool]]:
    """Answer and soundness of every completion in which anybody voted; everyone silent is no decision."""
    cast = (complete for complete in completions(tally, options) if complete.num_cast)
    decisions = (complete.decide(DecidedBy.ALL) for complete in cast)
    return {(decision.answer, decision.degraded) for decision in decisions}


def check_every_prefix(tally: Tally, votes: Sequence[Vote], options: Sequence[Sequence[Vote]]) -> None:
    for vote in votes:
        tally = tally.add(vote)
        if tally.waiting and tally.is_decided():
            decision = tally.decide(DecidedBy.LOSSLESS_QUORUM)
            assert outcomes(tally, options) == {(decision.answer, decision.degraded)}
            cancelled = [a.member for a in decision.abstentions if a.reason == AbstentionReason.CANCELLED]
            assert tuple(cancelled) == tally.waiting
    assert tally.is_decided()


@st.composite
def hard_votes(draw: st.DrawFn, *, is_open: bool) -> tuple[Question, list[Vote], list[list[Vote]]]:
    weights = draw(WEIGHTS)
    families = draw(st.lists(st.sampled_from("fgh"), min_size=len(weights), max_size=len(weights)))
    question = build_question(weights, () if is_open else CHOICES, draw(QUORUMS), families=families)
    cast = text if is_open else hard
    options: list[list[Vote]] = [
        [silent(n), *(cast(n, choice, draw(LOGPROBS)) for choice in CHOICES)] for n in range(len(weights))
    ]
    votes = [draw(st.sampled_from(member)) for member in options]
    return question, draw(st.permutations(votes)), options


@MANY
@given(data=hard_votes(is_open=False))
def test_a_stop_among_choices_equals_every_full_vote(data: tuple[Question, list[Vote], list[list[Vote]]]) -> None:
    question, votes, options = data

    for strategy in ("majority", "weighted_vote"):
        check_every_prefix(count(strategy, question, []), votes, options)


@MANY
@given(data=hard_votes(is_open=True))
def test_a_stop_among_short_answers_equals_every_full_vote(
    data: tuple[Question, list[Vote], list[list[Vote]]],
) -> None:
    question, votes, options = data

    check_every_prefix(count("weighted_vote", question, []), votes, options)


@st.composite
def soft_votes(draw: st.DrawFn) -> tuple[Question, list[Vote], list[list[Vote]]]:
    weights = draw(WEIGHTS)
    families = draw(st.lists(st.sampled_from("fgh"), min_size=len(weights), max_size=len(weights)))
    question = build_question(weights, CHOICES, draw(QUORUMS), families=families)
    corners = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    options: list[list[Vote]] = []
    for n in range(len(weights)):
        parts = draw(st.tuples(*[st.integers(0, 10)] * 3).filter(any))
        inside = tuple(part / sum(parts) for part in parts)
        options.append([silent(n), *(soft(n, *corner) for corner in corners), soft(n, *inside)])
    votes = [draw(st.sampled_from(member)) for member in options]
    return question, draw(st.permutations(votes)), options


@MANY
@given(data=soft_votes())
def test_a_stop_among_probabilities_equals_every_full_vote(
    data: tuple[Question, list[Vote], list[list[Vote]]],
) -> None:
    question, votes, options = data
    with_priors = replace(question, calibration=VoteCalibration(kappa=1.0, log_priors=(0.5, -0.25, 0.0)))

    for strategy in ("soft_vote", "log_pool", "borda"):
        check_every_prefix(count(strategy, question, []), votes, options)
    check_every_prefix(count("stacking", with_priors, []), votes, options)


OBJECTS = (
    "{}",
    '{"a": "Red", "b": 1}',
    '{"a": "red"}',
    '{"a": {"b": 1}}',
    '{"a": {"b": 2, "c": null}}',
    'Sure: ```json\n{"a": "Red", "z": [1, "x"]}\n```',
    "no object",
)


@st.composite
def object_votes(draw: st.DrawFn) -> tuple[Question, list[Vote], list[list[Vote]]]:
    weights = draw(st.lists(st.sampled_from([1.0, 1.0, 2.0, 0.1, 0.0]), min_size=1, max_size=3).filter(any))
    families = draw(st.lists(st.sampled_from("fgh"), min_size=len(weights), max_size=len(weights)))
    question = build_question(weights, (), draw(QUORUMS), families=families)
    options: list[list[Vote]] = [[silent(n), *(text(n, words) for words in OBJECTS)] for n in range(len(weights))]
    likely = draw(st.lists(st.sampled_from(range(1, len(OBJECTS))), min_size=1, max_size=2))
    votes = [member[draw(st.sampled_from(likely))] for member in options]
    return question, draw(st.permutations(votes)), options


@MANY
@given(data=object_votes())
def test_a_stop_among_fields_equals_every_full_vote(data: tuple[Question, list[Vote], list[list[Vote]]]) -> None:
    question, votes, options = data

    check_every_prefix(count("field_vote", question, []), votes, options)


PROBABILITIES = tuple(
    (a / 4, b / 4, (4 - a - b) / 4)
    for a in range(5)
    for b in range(5 - a)
    if (a, b) in {(4, 0), (0, 4), (0, 0), (2, 1)}
)


@pytest.mark.parametrize("strategy", ["majority", "weighted_vote", "soft_vote", "log_pool", "borda", "stacking"])
def test_every_vote_of_a_small_panel_is_stopped_without_one_mismatch(strategy: str) -> None:
    calibration = VoteCalibration(kappa=1.0, log_priors=(0.1, 0.0, -0.1)) if strategy == "stacking" else None
    question = build_question([2.0, 1.5, 1.0], CHOICES, calibration=calibration)
    options: list[list[Vote]] = [[silent(n), *(soft(n, *row) for row in PROBABILITIES)] for n in range(3)]
    num_stopped = 0

    for votes in itertools.product(*options):
        for order in itertools.permutations(votes):
            early = count(strategy, question, [])
            for vote in order:
                early = early.add(vote)
                if early.is_decided():
                    break
            if early.waiting:
                num_stopped += 1
                full = count(strategy, question, votes).decide(DecidedBy.ALL)
                decision = early.decide(DecidedBy.LOSSLESS_QUORUM)
                assert (decision.answer, decision.degraded) == (full.answer, full.degraded)

    assert num_stopped > 20


@MANY
@given(
    weights=st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=2, max_size=4),
    quorum=QUORUMS,
    seed=st.integers(0, 10**6),
)
def test_the_stop_comes_as_soon_as_only_a_tie_or_less_is_possible(
    weights: list[float], quorum: Quorum, seed: int
) -> None:
    question = build_question(weights, CHOICES, quorum)
    options: list[list[Vote]] = [[silent(n), *(hard(n, choice) for choice in CHOICES)] for n in range(len(weights))]
    tally = count("weighted_vote", question, [])

    for n in random.Random(seed).sample(range(len(weights)), len(weights)):
        tally = tally.add(hard(n, random.Random(seed + n).choice(CHOICES)))
        decisions = [complete.decide(DecidedBy.ALL) for complete in completions(tally, options) if tally.waiting]
        can_change = len({(decision.answer, decision.degraded) for decision in decisions}) > 1
        can_tie = any(decision.margin == 0.0 for decision in decisions)

        assert tally.is_decided() == (not can_change and not can_tie)


def naive_winner(weights: Sequence[float], votes: Sequence[int | None], num_choices: int) -> int:
    """Count by the book: a tie goes to the member of the largest weight, then to the first choice."""
    scores = [sum(w for w, vote in zip(weights, votes, strict=True) if vote == y) for y in range(num_choices)]
    heaviest = [
        max((w for w, vote in zip(weights, votes, strict=True) if vote == y), default=0.0) for y in range(num_choices)
    ]
    return max(range(num_choices), key=lambda y: (scores[y], heaviest[y], -y))


def test_three_thousand_random_votes_are_stopped_without_one_mismatch() -> None:
    rng = random.Random(20260101)
    num_stopped = num_mismatches = 0

    for _ in range(3000):
        num_choices, num_members = rng.randint(2, 4), rng.randint(3, 5)
        weights = [float(rng.randint(1, 5)) for _ in range(num_members)]
        votes = [rng.choice([None, 0, 0, *range(num_choices)]) for _ in weights]  # as members mostly agree
        tally = count("weighted_vote", build_question(weights, CHOICES_BY_COUNT[num_choices]), [])
        for n, vote in enumerate(votes):  # weights and votes are random, so the order of the panel is too
            tally = tally.add(silent(n) if vote is None else hard(n, str(vote)))
            if tally.is_decided():
                break
        if tally.waiting:
            answer = tally.decide(DecidedBy.LOSSLESS_QUORUM).answer
            num_stopped += 1
            for rest in itertools.product([None, *range(num_choices)], repeat=len(tally.waiting)):
                full = [*votes[: num_members - len(rest)], *rest]
                num_mismatches += answer != str(naive_winner(weights, full, num_choices))

    assert num_stopped > 1000
    assert num_mismatches == 0
