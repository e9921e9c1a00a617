"""Anything that our types can hold, for what goes over the wire."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from ensemble.router.request import ParameterOverrides, QuorumOverrides, VoteOptions
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Voter
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Certificate, Evidence, Question, Quorum, VoteCalibration

T = TypeVar("T")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.sampled_from("abcdefgh")
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**40)
# Durations on the wire are read in microseconds.
latencies_s = st.integers(0, 10**9).map(lambda microseconds: microseconds / 1_000_000)


def tuples_of(values: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(values, max_size=4).map(tuple)


ballots = st.builds(
    Ballot,
    member=names,
    family=texts,
    choice=st.none() | texts,
    probabilities=st.lists(numbers, max_size=4).map(tuple),
    text=st.none() | texts,
    logprob=st.none() | numbers,
    latency_s=latencies_s,
    prompt_tokens=counts,
    completion_tokens=counts,
)
abstentions = st.builds(
    Abstention,
    member=names,
    family=texts,
    reason=st.sampled_from(AbstentionReason),
    detail=texts,
    latency_s=latencies_s,
)
candidates = st.builds(Candidate, answer=texts, weight=numbers, members=tuples_of(names))
decisions = st.builds(
    Decision,
    answer=texts,
    strategy=texts,
    decided_by=st.sampled_from(DecidedBy),
    agreement=numbers,
    margin=numbers,
    confidence=st.none() | numbers,
    degraded=st.booleans(),
    num_asked=st.integers(0, 2**31 - 1),
    families=tuples_of(texts),
    candidates=st.lists(candidates, max_size=3).map(tuple),
    ballots=st.lists(ballots, max_size=3).map(tuple),
    abstentions=st.lists(abstentions, max_size=3).map(tuple),
    withheld=st.booleans(),
    label_set=tuples_of(texts),
    streamed_member=texts,
    replaces_stream=st.booleans(),
)
certificates = st.builds(
    Certificate,
    backers=st.frozensets(names, max_size=3),
    others=st.frozensets(names, max_size=3),
    min_margin=numbers,
    num_items=counts,
    num_disagreements=counts,
    bound=numbers,
)
calibrations = st.builds(
    VoteCalibration,
    kappa=numbers,
    log_priors=tuples_of(numbers),
    withhold_below=numbers,
    conformal_threshold=st.none() | numbers,
    certificates=tuples_of(certificates),
    digest=texts,
)
evidence = st.builds(
    Evidence,
    texts=tuples_of(texts),
    source=texts,
    embeddings=tuples_of(tuples_of(numbers)),
    logprobs_by_scorer=st.dictionaries(names, tuples_of(numbers), max_size=3),
    verdict=tuples_of(numbers),
    fused=texts,
)
quorum_overrides = st.builds(
    QuorumOverrides,
    min_weight=st.none() | numbers,
    min_families=st.none() | st.integers(-(2**31), 2**31 - 1),
    stop_early=st.none() | st.booleans(),
)
options = st.builds(
    VoteOptions,
    strategy=texts,
    panel=tuples_of(texts),
    quorum=quorum_overrides,
    ignore_calibration=st.booleans(),
    include_record=st.booleans(),
    include_logprobs=st.booleans(),
)
overrides = st.builds(
    ParameterOverrides,
    max_tokens=st.none() | st.integers(-(2**31), 2**31 - 1),
    temperature=st.none() | numbers,
    top_p=st.none() | numbers,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=tuples_of(texts),
)
voters = st.lists(
    st.builds(Voter, member=names, family=texts, weight=numbers),
    min_size=1,
    max_size=5,
    unique_by=lambda voter: voter.member,
)
rules = st.sampled_from([AnswerRule(), AnswerRule(extract="last_number"), AnswerRule(extract="first_line")]) | st.just(
    AnswerRule(extract="pattern", pattern="is (.*)")
)

questions = st.builds(
    Question,
    panel=voters.map(tuple),
    quorum=st.builds(Quorum, min_weight=st.just(0.25), stop_early=st.booleans()),
    choices=tuples_of(texts),
    answer_rule=rules,
    calibration=st.none() | calibrations,
    evidence=st.none() | evidence,
)
