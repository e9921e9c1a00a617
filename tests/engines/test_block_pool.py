"""Blocks that are taken, shared, kept for another time, and taken from those who do not use them any more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensemble.engines.block_pool import BLOCK_TOKENS, BlockPool, chain_keys


def test_a_key_names_a_block_and_everything_in_front_of_it() -> None:
    tokens = list(range(3 * BLOCK_TOKENS + 5))
    changed = [*tokens]
    changed[BLOCK_TOKENS] = 999

    keys, other_keys = chain_keys(tokens), chain_keys(changed)

    assert len(keys) == len(set(keys)) == 3
    assert [a == b for a, b in zip(keys, other_keys, strict=True)] == [True, False, False]


def test_more_blocks_than_there_are_are_not_given_and_nothing_changes() -> None:
    pool = BlockPool(3)
    pool.take([], 2)

    assert pool.take([], 2) is None
    assert pool.num_available == 1


def test_a_shared_block_is_free_once_its_last_user_has_left() -> None:
    pool = BlockPool(3)
    first = pool.take([], 1)
    assert first is not None
    pool.name(first[0], b"a")
    second = pool.take(pool.find([b"a", b"b"]), 1)
    assert second is not None

    pool.give_back(first)

    assert second[0] == first[0]
    assert pool.num_available == 1
    pool.give_back(second)
    assert pool.num_available == 3


def test_a_named_block_is_found_until_its_place_is_needed_and_the_end_of_a_chain_goes_first() -> None:
    pool = BlockPool(3)
    chain = pool.take([], 2)
    assert chain is not None
    for block, key in zip(chain, (b"a", b"b"), strict=True):
        pool.name(block, key)
    pool.give_back(chain)

    assert pool.find([b"a", b"b"]) == chain
    pool.take([], 2)

    assert pool.find([b"a", b"b"]) == chain[:1]


def test_kept_blocks_that_are_shared_do_not_count_as_new_ones() -> None:
    pool = BlockPool(2)
    kept = pool.take([], 1)
    assert kept is not None
    pool.name(kept[0], b"a")
    pool.give_back(kept)

    assert pool.take(kept, 2) is None
    assert pool.take(kept, 1) is not None
    assert pool.num_available == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=40))
def test_no_block_has_two_owners_and_none_is_lost(steps: list[tuple[int, int]]) -> None:
    pool = BlockPool(8)
    held: list[list[int]] = []
    for number, (action, count) in enumerate(steps):
        if action and (blocks := pool.take([], count)) is not None:
            if action == 1:
                pool.name(blocks[0], str(number).encode())
            held.append(blocks)
        elif held:
            pool.give_back(held.pop(count % len(held)))

    owned = [block for blocks in held for block in blocks]
    assert len(owned) == len(set(owned))
    assert pool.num_available == 8 - len(owned)
