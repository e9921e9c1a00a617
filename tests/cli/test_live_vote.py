"""A vote as a client hears it, and how it is drawn."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ensemble.cli.live_vote import LiveVote, Shown, describe_decision
from ensemble.cli.terminal import last_line, one_line, printable
from ensemble.cli.vote_view import draw_vote, event_lines, follow_vote
from ensemble.router.request import TextPiece
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Voter
from ensemble.voting.decision import Candidate, DecidedBy, Decision

PANEL = (
    Voter(member="a", family="x", weight=2.0),
    Voter(member="b", family="y"),
    Voter(member="c", family="y"),
)
BALLOT_A = Ballot(member="a", family="x", choice="yes", latency_s=0.1, prompt_tokens=7)
BALLOT_B = Ballot(member="b", family="y", choice="no", latency_s=0.2, prompt_tokens=8)
STOPPED_C = Abstention(member="c", family="y", reason=AbstentionReason.CANCELLED, latency_s=0.3)
DECISION = Decision(
    answer="yes",
    strategy="weighted_vote",
    decided_by=DecidedBy.LOSSLESS_QUORUM,
    agreement=2 / 3,
    margin=1 / 3,
    confidence=None,
    degraded=False,
    num_asked=3,
    families=("x", "y"),
    candidates=(
        Candidate(answer="yes", weight=2.0, members=("a",)),
        Candidate(answer="no", weight=1.0, members=("b",)),
    ),
    ballots=(BALLOT_A, BALLOT_B),
    abstentions=(STOPPED_C,),
)
EVENTS: tuple[Shown, ...] = (BALLOT_A, BALLOT_B, STOPPED_C, DECISION)


def hear_all(vote: LiveVote, *events: Shown) -> LiveVote:
    """Let a vote hear events, a tenth of a second apart."""
    for number, event in enumerate(events, start=1):
        vote = vote.hear(event, elapsed_s=number / 10)
    return vote


def draw(vote: LiveVote) -> str:
    """Draw a vote as a terminal would show it, without colours."""
    console = Console(file=io.StringIO(), width=120, highlight=False)
    console.print(draw_vote(vote))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_tally_adds_up_the_weights_of_the_first_choices() -> None:
    vote = hear_all(LiveVote.of(PANEL, ["yes", "no", "maybe"]), BALLOT_A, BALLOT_B)

    assert vote.tally == {"yes": 2.0, "no": 1.0, "maybe": 0.0}


def test_the_decisions_own_count_replaces_the_tally() -> None:
    decision = replace(DECISION, candidates=(Candidate(answer="yes", weight=0.7, members=("a",)),))

    vote = hear_all(LiveVote.of(PANEL, ["no", "yes"]), BALLOT_A, decision)

    assert vote.tally == {"yes": 0.7, "no": 0.0}


def test_pieces_of_text_are_joined_in_order() -> None:
    vote = hear_all(LiveVote.of(PANEL), TextPiece(member="b", text="Hel"), TextPiece(member="b", text="lo"))

    assert vote.members[1].text == "Hello"


def test_a_member_that_was_not_expected_is_shown_all_the_same() -> None:
    vote = hear_all(LiveVote.of(()), BALLOT_A)

    assert [member.voter.member for member in vote.members] == ["a"]


def test_cancelled_members_are_those_whom_the_decision_stopped() -> None:
    late = Abstention(member="b", reason=AbstentionReason.DEADLINE)

    assert hear_all(LiveVote.of(PANEL), late, STOPPED_C).cancelled == ("c",)


def test_a_vote_under_way_shows_who_is_waited_for() -> None:
    drawn = draw(hear_all(LiveVote.of(PANEL, ["yes", "no"]), BALLOT_A)).splitlines()

    assert "ballot: yes" in drawn[1]
    assert "100 ms" in drawn[1]
    assert "7+0" in drawn[1]
    assert "waiting" in drawn[2]
    assert "waiting" in drawn[3]


def test_a_decided_vote_shows_the_moment_the_cause_and_the_cancelled() -> None:
    drawn = draw(hear_all(LiveVote.of(PANEL, ["yes", "no"]), *EVENTS))

    assert "decided after 2 of 3 ballots at 400 ms (lossless quorum" in drawn
    assert "agreement 0.67, margin 0.33" in drawn
    assert "cancelled: c" in drawn
    assert "2.00" in drawn


def test_the_leaders_bar_is_the_longest() -> None:
    drawn = draw(hear_all(LiveVote.of(PANEL, ["yes", "no"]), *EVENTS)).splitlines()

    lengths = [line.count("█") for line in drawn if "█" in line]
    assert lengths == [24, 12]


def test_a_degraded_decision_says_so() -> None:
    assert "degraded: too little weight" in describe_decision(replace(DECISION, degraded=True), elapsed_s=1.0)


def test_a_decision_tells_that_it_is_withheld_and_what_cannot_be_ruled_out() -> None:
    unsure = replace(DECISION, confidence=0.4, withheld=True, label_set=("blue", "red"))

    told = describe_decision(unsure, elapsed_s=1.0)

    assert "confidence 0.40; withheld: " in told
    assert "not ruled out: blue, red" in told


def test_a_decision_tells_that_it_replaces_what_was_streamed() -> None:
    replaced = replace(DECISION, streamed_member="a", replaces_stream=True)

    assert "replaces what a wrote" in describe_decision(replaced, elapsed_s=1.0)


def test_an_abstention_tells_its_reason_and_detail() -> None:
    failed = Abstention(member="b", reason=AbstentionReason.ERROR, detail="the engine failed", latency_s=0.2)

    assert event_lines(failed, LiveVote.of(PANEL)) == ["b: abstained: error (the engine failed) (200 ms)"]


def test_a_models_text_cannot_control_the_terminal_or_be_markup() -> None:
    ballot = Ballot(member="a", text="[red]\x1b[2Jboo[/red]", latency_s=0.1)

    drawn = draw(hear_all(LiveVote.of(PANEL), ballot))

    assert "[red]\N{REPLACEMENT CHARACTER}[2Jboo[/red]" in drawn
    assert "\x1b" not in drawn


def test_without_a_terminal_each_event_is_a_line() -> None:
    console = Console(file=io.StringIO(), width=40)
    ticks = iter((0.0, 0.1, 0.2, 0.3, 0.4))

    vote = follow_vote(EVENTS, LiveVote.of(PANEL), console, clock=lambda: next(ticks))

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[:3] == [
        "a: ballot: yes (100 ms, 7+0 tokens)",
        "b: ballot: no (200 ms, 8+0 tokens)",
        "c: cancelled (300 ms)",
    ]
    assert lines[3].startswith("decided after 2 of 3 ballots at 400 ms")
    assert lines[4] == "answer: yes"
    assert vote.decision == DECISION


def test_a_terminal_sees_the_table_fill() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)

    follow_vote(EVENTS, LiveVote.of(PANEL, ["yes", "no"]), console)

    assert isinstance(console.file, io.StringIO)
    assert "waiting" in console.file.getvalue()
    assert "lossless quorum" in console.file.getvalue()


def test_long_texts_are_cut_at_the_end_that_matters_less() -> None:
    assert one_line("one two three", width=8) == "one two…"
    assert last_line("one two three", width=8) == "…o three"
    assert one_line("one\ntwo", width=8) == "one two"
    assert printable("tab\tline\nbell\a") == "tab\tline\nbell\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("cause", DecidedBy)
def test_every_cause_of_a_decision_has_its_words(cause: DecidedBy) -> None:
    told = describe_decision(replace(DECISION, decided_by=cause), elapsed_s=0.1)

    assert "decided after" in told
