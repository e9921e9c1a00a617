"""A placement that exists is found, by the stated preference; checked against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.planning.machine import Gpu, Node, make_nodes
from ensemble.planning.placement import UNIT, Item, Misfit, find_spots

GIB = 2**30


def nodes_with(*gpus_per_node: int, memory_gib: int = 64) -> list[Node]:
    """Make nodes with so many GPUs each."""
    return [
        Node(name=f"n{i}", cpus=8.0, memory_bytes=memory_gib * GIB, gpus=tuple(Gpu(index=g) for g in range(count)))
        for i, count in enumerate(gpus_per_node)
    ]


def on_gpu(share: float, *, num_gpus: int = 1) -> Item:
    """Make an item that takes nothing but a share of GPUs."""
    return Item(cpus=0, memory_bytes=0, num_gpus=num_gpus, share=round(share * UNIT))


def placed(items: list[Item], nodes: list[Node]) -> list[tuple[tuple[int, int], ...]]:
    spots = find_spots(items, nodes)
    assert not isinstance(spots, Misfit)
    return [spot.gpus for spot in spots]


def test_a_share_goes_to_the_gpu_with_the_least_room_that_is_enough() -> None:
    spots = placed([on_gpu(0.6), on_gpu(0.3), on_gpu(0.4)], nodes_with(2))

    assert spots == [((0, 0),), ((0, 1),), ((0, 0),)]


def test_a_choice_that_leads_nowhere_is_taken_back() -> None:
    # The largest first, best fit puts both of 0.4 on one GPU, and then 0.3 has no place three times over.
    shares = [0.4, 0.4, 0.3, 0.3, 0.3, 0.3]

    spots = placed([on_gpu(share) for share in shares], nodes_with(2))

    room = dict.fromkeys([(0, 0), (0, 1)], 0.0)
    for share, (gpu,) in zip(shares, spots, strict=True):
        room[gpu] += share
    assert max(room.values()) <= 1.0 + 1e-9


def test_several_gpus_lie_on_one_node_where_that_is_possible() -> None:
    (spot,) = placed([on_gpu(1.0, num_gpus=2)], nodes_with(1, 4, 2))

    assert {node for node, _ in spot} == {2}


def test_several_gpus_are_spread_where_no_node_has_them() -> None:
    (spot,) = placed([on_gpu(1.0, num_gpus=3)], nodes_with(2, 1))

    assert sorted(spot) == [(0, 0), (0, 1), (1, 0)]


def test_a_gpu_that_is_too_small_is_left_alone() -> None:
    gpus = (Gpu(index=0, memory_bytes=24 * GIB), Gpu(index=1, memory_bytes=80 * GIB))
    nodes = [Node(name="mixed", cpus=1.0, memory_bytes=GIB, gpus=gpus)]

    spots = placed([Item(cpus=0, memory_bytes=0, num_gpus=1, share=UNIT // 2, gpu_bytes=40 * GIB)], nodes)

    assert spots == [((0, 1),)]


def test_what_fits_nowhere_is_named_with_what_is_left() -> None:
    misfit = find_spots([on_gpu(0.5), on_gpu(0.7)], nodes_with(1))

    assert misfit == Misfit(item=0, shares=((3_000,),))


def test_a_thousand_replicas_are_placed() -> None:
    spots = find_spots([Item(cpus=0, memory_bytes=0)] * 1_000, nodes_with(0, 0))

    assert not isinstance(spots, Misfit)


def exists(shares: list[int], num_gpus: int) -> bool:
    """Try everything."""
    for choice in itertools.product(range(num_gpus), repeat=len(shares)):
        room = [UNIT] * num_gpus
        for share, gpu in zip(shares, choice, strict=True):
            room[gpu] -= share
        if min(room) >= 0:
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(
    # Few sizes, so that many lists fill the GPUs to the brim.
    shares=st.lists(st.sampled_from([2_000, 3_000, 4_000, 5_000, 7_000]), min_size=4, max_size=7),
    num_gpus=st.integers(2, 3),
)
def test_a_placement_is_found_exactly_when_one_exists(shares: list[int], num_gpus: int) -> None:
    items = [Item(cpus=0, memory_bytes=0, num_gpus=1, share=share) for share in shares]

    spots = find_spots(items, nodes_with(num_gpus))

    assert isinstance(spots, Misfit) != exists(shares, num_gpus)
    if not isinstance(spots, Misfit):
        room = [UNIT] * num_gpus
        for share, spot in zip(shares, spots, strict=True):
            room[spot.gpus[0][1]] -= share
        assert min(room) >= 0


@pytest.mark.parametrize(("memory_gib", "fits"), [(64, True), (15, False)])
def test_memory_and_cores_of_the_node_count_beside_the_gpus(memory_gib: int, *, fits: bool) -> None:
    nodes = make_nodes(2, gpus=1, gpu_memory_gib=80, cpus=4, memory_gib=memory_gib)
    items = [Item(cpus=2 * UNIT, memory_bytes=16 * GIB, num_gpus=1, share=UNIT // 4)] * 4

    assert isinstance(find_spots(items, nodes), Misfit) is not fits


def sized_node(*sizes_gib: int) -> Node:
    """Make a node whose GPUs have these sizes."""
    gpus = tuple(Gpu(index=index, memory_bytes=size * GIB) for index, size in enumerate(sizes_gib))
    return Node(name="mixed", cpus=8.0, memory_bytes=64 * GIB, gpus=gpus)


def whole(num_gpus: int, gib: int) -> Item:
    """Make an item that takes whole GPUs of at least this size."""
    return Item(cpus=0, memory_bytes=0, num_gpus=num_gpus, share=UNIT, gpu_bytes=gib * GIB)


def test_several_gpus_leave_the_larger_ones_to_who_needs_them() -> None:
    spots = placed([whole(2, 30), whole(1, 70)], [sized_node(80, 40, 40)])

    assert spots == [((0, 1), (0, 2)), ((0, 0),)]


def can_be_placed(items: list[Item], sizes_gib: list[int]) -> bool:
    """Try everything: each item's GPUs in turn, in every order of the node's GPUs."""
    for order in itertools.permutations(sizes_gib):
        free = list(order)
        for item in items:
            taken, free = free[: item.num_gpus], free[item.num_gpus :]
            if len(taken) < item.num_gpus or min(taken) * GIB < item.gpu_bytes:
                break
        else:
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(
    # Few sizes, so that many lists fill the node to the brim.
    wanted=st.lists(st.tuples(st.integers(1, 2), st.sampled_from([20, 80])), min_size=2, max_size=3),
    sizes_gib=st.lists(st.sampled_from([24, 96]), min_size=3, max_size=5),
)
def test_whole_gpus_of_several_sizes_are_found_exactly_when_they_are_there(
    wanted: list[tuple[int, int]], sizes_gib: list[int]
) -> None:
    items = [whole(num_gpus, gib) for num_gpus, gib in wanted]

    spots = find_spots(items, [sized_node(*sizes_gib)])

    assert isinstance(spots, Misfit) != can_be_placed(items, sizes_gib)
    if not isinstance(spots, Misfit):
        taken = [gpu for spot in spots for _, gpu in spot.gpus]
        assert len(taken) == len(set(taken)) == sum(item.num_gpus for item in items)
        for item, spot in zip(items, spots, strict=True):
            assert min(sizes_gib[gpu] for _, gpu in spot.gpus) * GIB >= item.gpu_bytes
