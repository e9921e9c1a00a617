"""Lines are read in a time that grows with their length alone."""

from __future__ import annotations

import json
import time

import pytest

from ensemble.files.json_line import parse_object

NUM_KEYS = 30_000
MOST_S = 3.0
"""Of processor time: some hundred times what these keys take, and a fraction of what comparing each with each takes."""


def test_many_keys_take_no_longer_than_their_number_asks_for() -> None:
    row = {f"token{n}": n for n in range(NUM_KEYS)}
    raw = json.dumps(row).encode()
    started_s = time.thread_time()

    read = parse_object(raw, is_first=True)

    assert read == row
    assert time.thread_time() - started_s < MOST_S


def test_the_first_key_that_stands_twice_is_told_however_deep_it_lies() -> None:
    with pytest.raises(ValueError, match="its key 'b' stands twice"):
        parse_object(b'{"a": {"b": 1, "c": 2, "b": 3, "c": 4}}', is_first=True)
