"""What a run tells of its parts, and the time that it says is left."""

from __future__ import annotations

import pytest

from ensemble.compression.standing import Clock, Part, Standing


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def build_part(kind: str, cost: float) -> Part:
    return Part(variant="v", name=kind, kind=kind, cost=cost)


def test_nothing_is_said_of_the_time_left_until_something_is_known() -> None:
    told: list[Standing] = []
    clock = Clock([build_part("a", 2.0)], told.append, now_s=FakeTime())

    with clock.next_part() as on_phase:
        on_phase("work", 0.0)

    assert [standing.left_s for standing in told] == [None, None]
    assert [standing.phase for standing in told] == ["begin", "work"]


def test_the_first_part_tells_by_its_own_share_what_all_others_will_take() -> None:
    told: list[Standing] = []
    time = FakeTime()
    clock = Clock([build_part("a", 2.0), build_part("b", 6.0)], told.append, now_s=time)

    with clock.next_part() as on_phase:
        on_phase("work", 0.0)
        time.now_s += 5.0
        on_phase("work", 0.25)

    # 15 s of the first part, and at 10 s a pass 60 s of the second.
    assert told[-1].left_s == pytest.approx(75.0)


def test_parts_that_come_are_measured_by_those_that_were() -> None:
    told: list[Standing] = []
    time = FakeTime()
    clock = Clock([build_part("a", 2.0), build_part("b", 6.0), build_part("a", 4.0)], told.append, now_s=time)

    with clock.next_part():
        time.now_s += 4.0
    with clock.next_part() as on_phase:
        time.now_s += 3.0
        on_phase("work", 0.0)

    # At 2 s a pass, 12 s less 3, and 8.
    assert told[-1].left_s == pytest.approx(17.0)


def test_a_kind_of_part_is_measured_by_its_own_kind() -> None:
    told: list[Standing] = []
    time = FakeTime()
    clock = Clock([build_part("a", 1.0), build_part("b", 1.0), build_part("a", 1.0)], told.append, now_s=time)

    with clock.next_part():
        time.now_s += 1.0
    with clock.next_part():
        time.now_s += 100.0
    with clock.next_part() as on_phase:
        on_phase("work", 0.0)

    assert told[-1].left_s == pytest.approx(1.0)


def test_a_part_that_takes_longer_than_thought_is_believed() -> None:
    told: list[Standing] = []
    time = FakeTime()
    clock = Clock([build_part("a", 1.0), build_part("b", 1.0)], told.append, now_s=time)

    with clock.next_part():
        time.now_s += 1.0
    with clock.next_part() as on_phase:
        on_phase("work", 0.0)
        time.now_s += 30.0
        on_phase("work", 0.5)

    assert told[-1].left_s == pytest.approx(30.0)
