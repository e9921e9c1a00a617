"""Stop strings: the pieces in which a text arrives never matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensemble.engines.stop_text import StopText

PIECES = st.lists(st.text("abc", max_size=4), max_size=8)
STOP = st.text("abc", min_size=1, max_size=4)


@given(PIECES, STOP)
def test_a_text_ends_before_its_first_stop_string_however_it_is_cut(pieces: list[str], stop: str) -> None:
    text = "".join(pieces)
    stop_text = StopText((stop,))

    shown = ""
    for piece in pieces:
        shown += stop_text.push(piece)
        if stop_text.is_met:
            break
    shown += stop_text.flush()

    assert stop_text.is_met == (stop in text)
    assert shown == text.split(stop)[0]


@given(PIECES, STOP, st.text("abc", max_size=4))
def test_nothing_is_shown_that_what_follows_could_take_back(pieces: list[str], stop: str, following: str) -> None:
    stop_text = StopText((stop,))

    shown = ""
    for piece in pieces:
        shown += stop_text.push(piece)
        if stop_text.is_met:
            break

    assert ("".join(pieces) + following).split(stop)[0].startswith(shown)


def test_the_earliest_of_several_stop_strings_counts_and_empty_ones_do_not() -> None:
    stop_text = StopText(("", "world", "lo"))

    assert stop_text.push("hello world") == "hel"
    assert stop_text.is_met
