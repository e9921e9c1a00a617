"""Passes that are cut so that none is too large: every row once, bounded, and the same numbers."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from ensemble.engines.block_pool import CacheRow
from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.paged_cache import PagedCache
from ensemble.engines.pass_groups import MAX_PAIRS, MAX_SEEN, group_by_length, pack_segments

SIZES = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 60)), min_size=1, max_size=30)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@given(SIZES, st.integers(1, 4000))
def test_packed_passes_are_in_order_bounded_and_no_more_than_needed(
    sizes: list[tuple[int, int]], max_pairs: int
) -> None:
    groups = [sizes[group] for group in pack_segments(sizes, max_pairs)]

    def count_pairs(group: list[tuple[int, int]]) -> int:
        fed = sum(num_fed for num_fed, _ in group)
        return fed * (fed + sum(num_held for _, num_held in group))

    assert list(chain(*groups)) == sizes
    assert all(len(group) == 1 or 0 < count_pairs(group) <= max_pairs for group in groups)
    assert all(count_pairs([*group, after[0]]) > max_pairs for group, after in pairwise(groups))


@given(LENGTHS, st.integers(1, 300))
def test_steps_have_every_row_once_and_are_bounded(lengths: list[int], max_seen: int) -> None:
    groups = group_by_length(lengths, max_seen)

    assert sorted(chain(*groups)) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[row] for row in group) <= max_seen for group in groups)
    assert len(groups) == 1 or len(lengths) * max(lengths) > max_seen


def test_a_long_row_does_not_make_the_short_ones_long() -> None:
    assert group_by_length([3, 100, 4, 90, 2], max_seen=200) == [[1, 3], [2, 0, 4]]


def _open_rows(passes: ForwardPasses, cache: PagedCache, lengths: list[int]) -> list[CacheRow]:
    rows = []
    for n, length in enumerate(lengths):
        row = cache.open_row((), capacity=length + 16)
        assert row is not None
        passes.read([Segment.of_prompt([(7 * i + n) % 200 for i in range(length)])], cache, [row])
        rows.append(row)
    return rows


@pytest.fixture
def passes(checkpoint: str) -> ForwardPasses:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    return ForwardPasses(model)


@torch.inference_mode()
def test_rows_that_see_too_much_for_one_step_give_what_each_gives_alone(passes: ForwardPasses) -> None:
    lengths = [40, 7, 3300, 25, 3, 3000, 18, 60, 11, 5]
    assert len(lengths) * max(lengths) > MAX_SEEN
    cache = passes.new_cache(num_tokens=8000)
    rows = _open_rows(passes, cache, lengths)
    tokens = list(range(20, 30))

    alone = torch.cat([passes.step([token], [row.view()], cache) for token, row in zip(tokens, rows, strict=True)])
    together = passes.step(tokens, rows, cache)

    assert (together - alone).abs().max() < 1e-4
    assert [row.num_tokens for row in rows] == [length + 1 for length in lengths]


@torch.inference_mode()
def test_segments_that_are_too_much_for_one_pass_give_what_each_gives_alone(passes: ForwardPasses) -> None:
    num_rows, num_held, num_fed = 12, 600, 24
    assert num_rows * num_fed * num_rows * (num_held + num_fed) > MAX_PAIRS
    cache = passes.new_cache(num_tokens=num_rows * 640)
    rows = _open_rows(passes, cache, [num_held] * num_rows)
    segments = [Segment.of_text([(n + i) % 200 for i in range(num_fed)], num_held) for n in range(num_rows)]

    alone = torch.cat(
        [passes.read([segment], cache, [row.view()]) for segment, row in zip(segments, rows, strict=True)]
    )
    together = passes.read(segments, cache, rows)

    assert (together - alone).abs().max() < 1e-4
    assert {row.num_tokens for row in rows} == {num_held + num_fed}
