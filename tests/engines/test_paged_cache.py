"""Rows of the cache: written in place, shared, given back, bounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ensemble.engines.block_pool import BLOCK_TOKENS, CacheRow
from ensemble.engines.fused_passes import FusedCache
from ensemble.engines.paged_cache import PagedCache

HEADS, HEAD_SIZE, LAYERS = 2, 4, 3
BYTES_PER_TOKEN = LAYERS * 2 * HEADS * HEAD_SIZE * 4
CPU = torch.device("cpu")


def _cache(num_tokens: int = 6 * BLOCK_TOKENS) -> PagedCache:
    return PagedCache(num_layers=LAYERS, num_tokens=num_tokens)


def _states(*values: float) -> torch.Tensor:
    """Keys or values in the shape that models give them, one token a value, one row."""
    return torch.tensor(values)[None, None, :, None].expand(1, HEADS, len(values), HEAD_SIZE)


def _open(cache: PagedCache, capacity: int, tokens: tuple[int, ...] = ()) -> CacheRow:
    row = cache.open_row(tokens, capacity=capacity)
    assert row is not None
    return row


def _fill(cache: PagedCache, row: CacheRow, *values: float) -> None:
    cache.plan_read([row], range(len(values)), row.touch(len(values)), CPU)
    for layer in range(LAYERS):
        cache.update(_states(*values), -_states(*values), layer)
    row.num_tokens += len(values)


def _seen(cache: PagedCache, row: CacheRow) -> list[float]:
    """Read a row's keys by feeding it one more token, 99."""
    longest = cache.plan_step([row], CPU)
    keys, values = cache.update(_states(99.0), -_states(99.0), LAYERS - 1)
    assert torch.equal(keys, -values)
    assert keys.shape[2] == longest
    return keys[0, 1, :, 0].tolist()


def _storages(cache: PagedCache) -> list[torch.Tensor]:
    layers: Any = cache.layers
    return [storage for layer in layers for storage in (layer.keys, layer.values)]


def test_a_row_is_seen_as_it_was_written_whatever_blocks_it_has() -> None:
    cache = _cache()
    first, second = _open(cache, 1), _open(cache, 3)
    cache.close_row(first)
    row = _open(cache, 2 * BLOCK_TOKENS)
    values = [float(n) for n in range(BLOCK_TOKENS + 3)]

    _fill(cache, row, *values[:5])
    _fill(cache, second, 7.0)
    _fill(cache, row, *values[5:])

    assert _seen(cache, row) == [*values, 99.0]
    assert _seen(cache, second) == [7.0, 99.0]


def test_a_step_writes_each_row_at_its_own_position() -> None:
    cache = _cache()
    rows = [_open(cache, 4), _open(cache, 4)]
    _fill(cache, rows[0], 1.0, 2.0)
    _fill(cache, rows[1], 3.0)

    cache.plan_step(rows, CPU)
    fed = torch.tensor([7.0, 8.0])[:, None, None, None].expand(2, HEADS, 1, HEAD_SIZE)
    keys, _ = cache.update(fed, fed, 0)

    assert keys[0, 0, :, 0].tolist() == [1.0, 2.0, 7.0]
    assert keys[1, 0, :2, 0].tolist() == [3.0, 8.0]


def test_a_shorter_row_beside_a_longer_one_sees_nobody_else_s_numbers() -> None:
    cache = _cache()
    broken = _open(cache, 1)
    _fill(cache, broken, float("nan"))
    short, long = _open(cache, 2), _open(cache, 2 * BLOCK_TOKENS)
    _fill(cache, short, 1.0)
    _fill(cache, long, *[2.0] * (BLOCK_TOKENS + 2))

    cache.plan_step([short, long], CPU)
    fed = torch.ones(2, HEADS, 1, HEAD_SIZE)
    keys, _ = cache.update(fed, fed, 0)

    assert bool(keys.isfinite().all())


def test_a_published_prompt_is_found_by_one_that_begins_alike_up_to_its_last_token() -> None:
    cache = _cache()
    prompt = tuple(range(2 * BLOCK_TOKENS))
    row = _open(cache, len(prompt), prompt)
    _fill(cache, row, *map(float, prompt))
    cache.publish(row, prompt)
    cache.close_row(row)

    again = _open(cache, len(prompt), prompt)
    longer = _open(cache, 3 * BLOCK_TOKENS, (*prompt[:BLOCK_TOKENS], 777, *prompt))

    # The last token's logits are wanted, so its block is read again.
    assert (again.num_tokens, longer.num_tokens) == (BLOCK_TOKENS, BLOCK_TOKENS)
    assert again.blocks[0] == longer.blocks[0] == row.blocks[0]
    assert again.blocks[1] != row.blocks[1] or longer.blocks[1] != row.blocks[1]
    assert _seen(cache, again) == [*map(float, prompt[:BLOCK_TOKENS]), 99.0]
    assert cache.num_reused == 2 * BLOCK_TOKENS


def test_without_prefix_reuse_nothing_is_found() -> None:
    cache = PagedCache(num_layers=LAYERS, num_tokens=4 * BLOCK_TOKENS, reuses_prefixes=False)
    prompt = tuple(range(2 * BLOCK_TOKENS))
    row = _open(cache, len(prompt), prompt)
    cache.publish(row, prompt)

    assert cache.match(prompt) == (0, None)


def test_memory_is_what_was_asked_for_in_whole_blocks_and_stays() -> None:
    cache = _cache(num_tokens=3 * BLOCK_TOKENS + 1)
    assert cache.num_bytes == 0
    rows = [_open(cache, BLOCK_TOKENS) for _ in range(4)]
    for row in rows:
        _fill(cache, row, *[1.0] * BLOCK_TOKENS)

    assert cache.open_row((), capacity=1) is None
    assert cache.num_bytes == 4 * BLOCK_TOKENS * BYTES_PER_TOKEN
    for row in rows:
        cache.close_row(row)
    assert cache.num_free_tokens == cache.num_tokens == 4 * BLOCK_TOKENS


def test_an_unsound_row_leaves_no_trace() -> None:
    cache = _cache(num_tokens=BLOCK_TOKENS)
    row = _open(cache, 3)
    _fill(cache, row, 1.0, float("nan"))

    cache.close_row(row, is_sound=False)
    row = _open(cache, 3)
    row.num_tokens = 2

    assert _seen(cache, row) == [0.0, 0.0, 99.0]


def _refill(cache: PagedCache, value: float) -> None:
    """Leave numbers in all blocks, and give these back."""
    row = _open(cache, cache.num_tokens)
    _fill(cache, row, *[value] * cache.num_tokens)
    cache.close_row(row)


@pytest.mark.parametrize("ahead", [0, BLOCK_TOKENS], ids=["its own", "a view's"])
def test_what_a_pass_that_failed_has_written_is_zeroed_and_no_other_block(ahead: int) -> None:
    cache = _cache(num_tokens=3 * BLOCK_TOKENS)
    _refill(cache, 5.0)
    row = _open(cache, cache.num_tokens)

    # The pass ends before the row counts its tokens.
    _fill(cache, row.view(ahead=ahead), float("nan"))
    cache.close_row(row, is_sound=False)
    row = _open(cache, cache.num_tokens)
    row.num_tokens = cache.num_tokens - 1

    num_zeros = ahead + BLOCK_TOKENS
    assert _seen(cache, row) == [0.0] * num_zeros + [5.0] * (row.num_tokens - num_zeros) + [99.0]


def test_a_single_row_whose_blocks_lie_side_by_side_is_seen_without_a_copy() -> None:
    cache = _cache()
    _open(cache, 1)
    row = _open(cache, 2 * BLOCK_TOKENS)
    values = [float(n) for n in range(BLOCK_TOKENS + 3)]
    _fill(cache, row, *values)

    seen = _seen(cache, row)
    keys, _ = cache.update(_states(98.0), _states(98.0), 0)
    cache.update(_states(97.0), _states(97.0), 0)

    assert seen == [*values, 99.0]
    assert keys[0, 0, :, 0].tolist() == [*values, 97.0]


def test_what_a_pass_that_was_left_has_written_is_zeroed_and_nothing_else_is() -> None:
    cache = _cache()
    kept, row = _open(cache, 4), _open(cache, 4)
    _fill(cache, kept, 1.0, 2.0)
    _fill(cache, row, 5.0)

    cache.begin_pass()
    _fill(cache, row, float("nan"), float("nan"))
    cache.plan_step([kept], CPU)
    cache.update(_states(float("nan")), _states(float("nan")), 0)
    cache.wipe_pass()

    assert all(bool(storage.isfinite().all()) for storage in _storages(cache))
    assert _seen(cache, kept) == [1.0, 2.0, 99.0]
    row.num_tokens = 1
    assert _seen(cache, row) == [5.0, 99.0]


def test_a_pass_that_was_left_is_zeroed_in_the_cache_of_every_fused_checkpoint() -> None:
    other = _cache()
    cache = FusedCache([other], num_layers=LAYERS, num_tokens=6 * BLOCK_TOKENS, reuses_prefixes=False)
    row = _open(cache, 4)

    cache.begin_pass()
    for part in cache.parts:
        _fill(part, row.view(), float("nan"))
    cache.wipe_pass()

    stored = [storage for part in cache.parts for storage in _storages(part)]
    assert len(stored) == 2 * 2 * LAYERS
    assert all(bool((storage == 0).all()) for storage in stored)
