"""Rows of the cache: written in place, moved, grown, bounded."""

from __future__ import annotations

import torch

from ensemble.engines.slot_cache import SlotCache, SlotLayer

HEADS, HEAD_SIZE, LAYERS = 2, 4, 3
BYTES_PER_TOKEN = LAYERS * 2 * HEADS * HEAD_SIZE * 4
CPU = torch.device("cpu")


def _cache(max_rows: int = 4, max_tokens: int = 600) -> SlotCache:
    return SlotCache(num_layers=LAYERS, max_rows=max_rows, max_tokens=max_tokens)


def _states(*values: float) -> torch.Tensor:
    """Keys or values in the shape that models give them, one token a value, one row."""
    return torch.tensor(values)[None, None, :, None].expand(1, HEADS, len(values), HEAD_SIZE)


def _fill(cache: SlotCache, rows: dict[int, list[float]]) -> None:
    for row, values in rows.items():
        cache.plan_row(row, start=0, count=len(values), device=CPU)
        for layer in range(LAYERS):
            cache.update(_states(*values), -_states(*values), layer)


def _seen(cache: SlotCache, row: int, length: int) -> list[float]:
    """Read a row's keys by feeding it one more token, 99."""
    cache.plan_row(row, start=length, count=1, device=CPU)
    keys, values = cache.update(_states(99.0), -_states(99.0), LAYERS - 1)
    assert torch.equal(keys, -values)
    return keys[0, 1, :, 0].tolist()


def test_a_row_is_seen_as_it_was_written() -> None:
    cache = _cache()

    _fill(cache, {0: [1.0, 2.0], 1: [3.0]})

    assert _seen(cache, 0, 2) == [1.0, 2.0, 99.0]
    assert _seen(cache, 1, 1) == [3.0, 99.0]


def test_a_step_writes_each_row_at_its_own_position_and_copies_nothing() -> None:
    cache = _cache()
    _fill(cache, {0: [1.0, 2.0], 1: [3.0]})

    cache.plan_step(torch.tensor([2, 1]), longest=3)
    fed = torch.tensor([7.0, 8.0])[:, None, None, None].expand(2, HEADS, 1, HEAD_SIZE)
    keys, _ = cache.update(fed, fed, 0)

    assert keys[0, 0, :, 0].tolist() == [1.0, 2.0, 7.0]
    assert keys[1, 0, :2, 0].tolist() == [3.0, 8.0]
    layer = cache.layers[0]
    assert isinstance(layer, SlotLayer)
    assert layer.keys is not None
    assert keys.untyped_storage().data_ptr() == layer.keys.untyped_storage().data_ptr()


def test_rows_move_in_any_permutation() -> None:
    cache = _cache()
    _fill(cache, {0: [1.0], 1: [2.0, 2.5], 2: [3.0]})

    cache.arrange([2, 0, 1], longest=2)

    assert (_seen(cache, 0, 1), _seen(cache, 1, 1), _seen(cache, 2, 2)) == ([3.0, 99.0], [1.0, 99.0], [2.0, 2.5, 99.0])


def test_growing_keeps_what_is_there_and_stays_within_the_bound() -> None:
    cache = _cache()
    _fill(cache, {0: [1.0, 2.0]})
    small_bytes = cache.num_bytes

    _fill(cache, {3: [5.0] * 600})

    assert _seen(cache, 0, 2) == [1.0, 2.0, 99.0]
    assert small_bytes == 256 * BYTES_PER_TOKEN
    assert cache.num_bytes == cache.max_bytes == 4 * 600 * BYTES_PER_TOKEN


def test_the_bound_is_known_after_the_first_pass_and_clearing_frees_everything() -> None:
    cache = _cache()
    _fill(cache, {0: [1.0]})

    assert cache.max_bytes == 4 * 600 * BYTES_PER_TOKEN
    cache.clear()
    assert cache.num_bytes == 0


def test_a_wiped_row_holds_no_trace() -> None:
    cache = _cache()
    _fill(cache, {0: [1.0, float("nan")], 1: [2.0]})

    cache.wipe(0)

    assert _seen(cache, 0, 2) == [0.0, 0.0, 99.0]
    assert _seen(cache, 1, 1) == [2.0, 99.0]
