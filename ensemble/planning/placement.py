"""Which replica goes to which node and GPU: an exact search for few of them.

The rule: replicas are placed from the largest down (more GPUs, then a larger share of one, then memory, then cores).
Each goes where it leaves the least room: on the GPU with the smallest share left that is enough, or, without a GPU, on
the node with the least memory left that is enough; ties go to the first node and GPU. Where that leads to a replica
that fits nowhere, the last choice is taken back and the next best is tried, until all choices of ``MAX_STEPS`` are
used up: so a placement that exists is found, unless there are very many replicas. Several GPUs of one replica are the
smallest that will do, and lie on one node where that is possible at its turn; only else they lie on several, on as few
as possible first.

Ray places with the same preference for the GPU with the least room, one replica after another as they come, but takes
no choice back. Shares are whole ten-thousandths, as Ray counts them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ensemble.planning.machine import Node

UNIT = 10_000
MAX_STEPS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One replica to place: ``num_gpus`` GPUs, ``share`` of each in units, on GPUs of at least ``gpu_bytes``."""

    cpus: int
    memory_bytes: int
    num_gpus: int = 0
    share: int = 0
    gpu_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a replica is: its node, and its GPUs as pairs of a node and a GPU, all by position."""

    node: int
    gpus: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Room:
    """What is left while the search goes on, by node."""

    nodes: Sequence[Node]
    cpus: list[int] = field(init=False)
    memory_bytes: list[int] = field(init=False)
    shares: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.cpus = [round(node.cpus * UNIT) for node in self.nodes]
        self.memory_bytes = [node.memory_bytes for node in self.nodes]
        self.shares = [[UNIT] * len(node.gpus) for node in self.nodes]

    def take(self, item: Item, spot: Spot, *, sign: int = 1) -> None:
        """Take an item's room away, or give it back with the sign -1."""
        self.cpus[spot.node] -= sign * item.cpus
        self.memory_bytes[spot.node] -= sign * item.memory_bytes
        for node, gpu in spot.gpus:
            self.shares[node][gpu] -= sign * item.share

    def spots(self, item: Item) -> Iterator[Spot]:
        """Give the places where an item fits, the best first; of places that are alike only the first."""
        hosts = [
            node
            for node in range(len(self.nodes))
            if self.cpus[node] >= item.cpus and self.memory_bytes[node] >= item.memory_bytes
        ]
        if item.num_gpus == 0:
            yield from self._differing(sorted(hosts, key=lambda node: (self.memory_bytes[node], self.cpus[node])))
        elif item.num_gpus == 1:
            yield from self._single_gpus(item, hosts)
        else:
            yield from self._several_gpus(item, hosts)

    def key(self) -> tuple[object, ...]:
        """Name this state so that states that differ in the nodes' order alone are one."""
        return tuple(sorted(self._describe(node) for node in range(len(self.nodes))))

    def _describe(self, node: int) -> tuple[object, ...]:
        sizes = [gpu.memory_bytes or 0 for gpu in self.nodes[node].gpus]
        gpus = tuple(sorted(zip(self.shares[node], sizes, strict=True)))
        return self.cpus[node], self.memory_bytes[node], gpus

    def _differing(self, nodes: Sequence[int]) -> Iterator[Spot]:
        seen = set()
        for node in nodes:
            if (described := self._describe(node)) not in seen:
                seen.add(described)
                yield Spot(node=node)

    def _fitting(self, item: Item, node: int) -> list[int]:
        return [
            index
            for index, gpu in enumerate(self.nodes[node].gpus)
            if self.shares[node][index] >= item.share
            and (gpu.memory_bytes is None or gpu.memory_bytes >= item.gpu_bytes)
        ]

    def _single_gpus(self, item: Item, hosts: Sequence[int]) -> Iterator[Spot]:
        pairs = [(node, gpu) for node in hosts for gpu in self._fitting(item, node)]
        pairs.sort(
            key=lambda pair: (self.shares[pair[0]][pair[1]], self.nodes[pair[0]].gpus[pair[1]].memory_bytes or 0)
        )
        seen = set()
        for node, gpu in pairs:
            alike = (self._describe(node), self.shares[node][gpu], self.nodes[node].gpus[gpu].memory_bytes)
            if alike not in seen:
                seen.add(alike)
                yield Spot(node=node, gpus=((node, gpu),))

    def _several_gpus(self, item: Item, hosts: Sequence[int]) -> Iterator[Spot]:
        fitting = {node: self._fitting(item, node) for node in range(len(self.nodes))}
        enough = sorted((n for n in hosts if len(fitting[n]) >= item.num_gpus), key=lambda node: len(fitting[node]))
        seen = set()
        for node in enough:
            if (described := self._describe(node)) not in seen:
                seen.add(described)
                for gpus in _choose(self._kinds(node, fitting[node]), item.num_gpus):
                    yield Spot(node=node, gpus=gpus)
        if not enough:
            # The replica's own process lies beside the first of its GPUs.
            for host in sorted((n for n in hosts if fitting[n]), key=lambda node: -len(fitting[node])):
                others = sorted((n for n in fitting if n != host), key=lambda node: -len(fitting[node]))
                kinds = [kind for node in (host, *others) for kind in self._kinds(node, fitting[node])]
                for gpus in _choose(kinds, item.num_gpus):
                    if gpus[0][0] == host:
                        yield Spot(node=host, gpus=gpus)

    def _kinds(self, node: int, gpus: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Group a node's GPUs by size and by what is left of them, the smallest first."""
        alike = defaultdict(list)
        for gpu in gpus:
            alike[self.nodes[node].gpus[gpu].memory_bytes or 0, self.shares[node][gpu]].append((node, gpu))
        return [alike[kind] for kind in sorted(alike)]


def _choose(kinds: Sequence[Sequence[tuple[int, int]]], number: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Give every choice of so many GPUs that differs in kind, those with the most of the first kinds first."""
    if sum(map(len, kinds)) < number:
        return
    if not kinds:
        yield ()
        return
    first, *others = kinds
    for taken in range(min(number, len(first)), -1, -1):
        for rest in _choose(others, number - taken):
            yield (*first[:taken], *rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """What the search came to a stop at: an item, by its position, and each GPU's share that was left then."""

    item: int
    shares: tuple[tuple[int, ...], ...]


def find_spots(items: Sequence[Item], nodes: Sequence[Node]) -> tuple[Spot, ...] | Misfit:
    """Give each item's spot, in the items' order, by the rule above; or the item for which no spot was found."""
    order = sorted(range(len(items)), key=lambda index: _size(items[index]), reverse=True)
    room = Room(nodes)
    taken: list[Spot] = []
    choices: list[Iterator[Spot]] = []
    failed: set[tuple[object, ...]] = set()
    misfit: tuple[int, Misfit] | None = None
    for _ in range(MAX_STEPS + len(items)):
        if len(taken) == len(order):
            return _in_order(order, taken)
        item = items[order[len(taken)]]
        if len(choices) == len(taken):
            is_hopeless = (len(taken), room.key()) in failed
            choices.append(iter(()) if is_hopeless else room.spots(item))
        spot = next(choices[-1], None)
        if spot is not None:
            room.take(item, spot)
            taken.append(spot)
            continue
        if misfit is None or len(taken) > misfit[0]:
            misfit = len(taken), Misfit(item=order[len(taken)], shares=tuple(map(tuple, room.shares)))
        failed.add((len(taken), room.key()))
        choices.pop()
        if not taken:
            break
        room.take(items[order[len(taken) - 1]], taken.pop(), sign=-1)
    return misfit[1] if misfit else Misfit(item=order[0], shares=())


def _in_order(order: Sequence[int], taken: Sequence[Spot]) -> tuple[Spot, ...]:
    spot_by_index = dict(zip(order, taken, strict=True))
    return tuple(spot_by_index[index] for index in range(len(order)))


def _size(item: Item) -> tuple[int, ...]:
    return item.num_gpus, item.share, item.gpu_bytes, item.memory_bytes, item.cpus
