"""What is remembered of replicas that start."""

from __future__ import annotations

import pytest

from ensemble.router.replica_start import SILENT_S
from ensemble.serving.start_notes import GONE_S, MAX_NOTES, ReplicaName, StartNotes


class FakeClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Read it."""
        return self.now_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def notes(clock: FakeClock) -> StartNotes:
    return StartNotes(clock=clock)


def name(replica_id: str, *, deployment: str = "member-a", application: str = "shop") -> ReplicaName:
    return ReplicaName(application=application, deployment=deployment, replica_id=replica_id)


def tell_of_a_successor(clock: FakeClock, notes: StartNotes) -> None:
    """Let a replica be killed in silence, and another begin six seconds later."""
    notes.hear(name("killed"), "load", 0.0, "")
    clock.now_s = 6.0
    notes.hear(name("its successor"), "load", 0.0, "")


def told(notes: StartNotes, deployment: str = "member-a") -> list[str]:
    return [str(start) for start in notes.tell("shop").get(deployment, ())]


def test_a_phase_is_timed_from_its_first_word_and_its_share_is_the_last(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("1"), "download 500 MB", 0.0, "")
    clock.now_s = 8.0
    notes.hear(name("1"), "download 500 MB", 0.25, "")
    clock.now_s = 10.0

    assert told(notes) == ["download 500 MB 25% for 10 s"]


def test_another_phase_is_timed_anew(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.0, "")
    clock.now_s = 5.0
    notes.hear(name("1"), "warm up", 0.0, "")
    clock.now_s = 7.0

    assert told(notes) == ["warm up for 2 s"]


def test_a_replica_that_fell_silent_is_told_so_until_another_takes_its_place(
    clock: FakeClock, notes: StartNotes
) -> None:
    notes.hear(name("killed"), "load", 0.0, "")
    clock.now_s = SILENT_S + 5.0
    assert told(notes) == ["load for 20 s, silent for 20 s"]

    notes.hear(name("its successor"), "process is up", 0.0, "")

    assert told(notes) == ["process is up for 0 s"]


def test_a_killed_replica_whose_successor_speaks_soon_is_forgotten_once_it_is_silent(
    clock: FakeClock, notes: StartNotes
) -> None:
    tell_of_a_successor(clock, notes)
    assert len(told(notes)) == 2

    clock.now_s = SILENT_S + 1.0
    notes.hear(name("its successor"), "load", 0.5, "")

    assert told(notes) == ["load 50% for 10 s"]


def test_a_killed_replica_is_forgotten_when_its_successor_is_up(clock: FakeClock, notes: StartNotes) -> None:
    tell_of_a_successor(clock, notes)

    clock.now_s = SILENT_S + 1.0
    notes.forget(name("its successor"))

    assert told(notes) == []


def test_a_replica_that_is_gone_for_long_is_forgotten_without_a_successor(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("killed"), "load", 0.0, "")
    notes.hear(name("refused", deployment="member-b"), "load", 0.0, "it is cut short")

    clock.now_s = GONE_S + 1.0

    assert set(notes.tell("shop")) == {"member-b"}


def test_a_failed_start_is_told_while_another_goes_on_beside_it(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.0, "")
    notes.hear(name("2"), "load", 0.0, "")
    notes.hear(name("1"), "load", 0.0, "it is cut short")

    clock.now_s = SILENT_S + 1.0
    notes.hear(name("2"), "load", 0.5, "")

    assert [start.replica_id for start in notes.tell("shop")["member-a"]] == ["1", "2"]


def test_a_failure_is_told_for_a_while_although_another_try_has_begun(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.0, "it is cut short")
    clock.now_s = 1.0
    notes.hear(name("2"), "process is up", 0.0, "")
    assert [start.problem for start in notes.tell("shop")["member-a"]] == ["it is cut short", ""]

    clock.now_s = SILENT_S + 1.0
    notes.hear(name("2"), "load", 0.5, "")

    assert told(notes) == ["load 50% for 0 s"]


def test_a_failure_is_forgotten_when_one_that_began_after_it_is_up(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("beside"), "load", 0.0, "")
    clock.now_s = 1.0
    notes.hear(name("1"), "load", 0.0, "it is cut short")
    clock.now_s = 2.0
    notes.hear(name("2"), "load", 0.0, "")

    notes.forget(name("beside"))
    assert [start.problem for start in notes.tell("shop")["member-a"]] == ["it is cut short", ""]

    notes.forget(name("2"))
    assert told(notes) == []


def test_a_start_that_failed_keeps_its_phase_and_its_time(clock: FakeClock, notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.0, "")
    clock.now_s = 3.0
    notes.hear(name("1"), "load", 0.0, "x: it is cut short; fetch it again")
    clock.now_s = 300.0

    (start,) = notes.tell("shop")["member-a"]

    assert (start.phase_s, start.silent_s) == (3.0, 0.0)
    assert str(start) == "x: it is cut short; fetch it again (in the phase 'load')"


def test_replicas_that_start_side_by_side_are_both_told(notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.5, "")
    notes.hear(name("2"), "process is up", 0.0, "")

    assert told(notes) == ["load 50% for 0 s", "process is up for 0 s"]


def test_a_replica_that_is_up_is_forgotten(notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.0, "")

    notes.forget(name("1"))

    assert notes.tell("shop") == {}


def test_another_application_and_deployment_are_kept_apart(notes: StartNotes) -> None:
    notes.hear(name("1"), "load", 0.0, "it failed")
    notes.hear(name("2", deployment="member-b"), "load", 0.0, "")
    notes.hear(name("3", application="zoo"), "load", 0.0, "")

    assert set(notes.tell("shop")) == {"member-a", "member-b"}
    assert set(notes.tell("zoo")) == {"member-a"}


def test_no_more_than_a_bounded_number_is_remembered(notes: StartNotes) -> None:
    for number in range(MAX_NOTES + 5):
        notes.hear(name(str(number)), "load", 0.0, "")

    kept = [start.replica_id for start in notes.tell("shop")["member-a"]]
    assert kept == [str(number) for number in range(5, MAX_NOTES + 5)]
