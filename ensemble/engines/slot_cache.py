"""A preallocated key-value cache whose rows are requests that join and leave.

Axes: R rows, T tokens, H key-value heads, D head size, Q tokens fed, B rows fed. Storage is RTHD, so that a row's
token is one contiguous write and a range of rows and tokens is a view.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

# The first allocation of a row; it doubles as requests grow longer.
_SMALLEST_BUCKET_TOKENS = 256


@dataclass(slots=True, kw_only=True)
class CachePlan:
    """Where the next forward pass writes and what it sees of the cache.

    ``write_index`` numbers the flat R*T slots in the order of the tokens fed. ``rows`` None means that the tokens fed
    see only each other.
    """

    capacity_rows: int = 0
    capacity_tokens: int = 0
    write_index: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    rows: slice | None = None
    longest: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values."""

    def __init__(self, plan: CachePlan) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Grow to the plan's capacity; the first call learns heads, sizes, dtype and device."""
        self.keys = self._with_room(self.keys, key_states)
        self.values = self._with_room(self.values, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values (BHQD) in place; return those that the pass sees, as views."""
        del args, kwargs
        plan = self._plan
        keys = self.keys = self._with_room(self.keys, key_states)
        values = self.values = self._with_room(self.values, value_states)
        keys.flatten(0, 1).index_copy_(0, plan.write_index, key_states.transpose(1, 2).flatten(0, 1))
        values.flatten(0, 1).index_copy_(0, plan.write_index, value_states.transpose(1, 2).flatten(0, 1))
        if plan.rows is None:
            return key_states, value_states
        seen = (plan.rows, slice(plan.longest))
        return keys[seen].transpose(1, 2), values[seen].transpose(1, 2)

    def move_rows(self, sources: torch.Tensor, targets: torch.Tensor, longest: int) -> None:
        """Copy rows over others; a row may be source and target."""
        for storage in (self.keys, self.values):
            if storage is not None:
                storage[targets, :longest] = storage[sources, :longest]

    def wipe(self, row: int) -> None:
        """Zero a row."""
        for storage in (self.keys, self.values):
            if storage is not None and row < storage.shape[0]:
                storage[row] = 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Give the number of keys seen and their offset."""
        return (query_length if self._plan.rows is None else self._plan.longest), 0

    def get_seq_length(self) -> int:
        """Positions are always given, so nobody counts on this."""
        return 0

    def get_max_length(self) -> int:
        """Give the tokens of a row before the cache has to grow."""
        return self._plan.capacity_tokens

    def _with_room(self, old: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        _, num_heads, _, head_size = states.shape
        shape = (self._plan.capacity_rows, self._plan.capacity_tokens, num_heads, head_size)
        if old is not None and old.shape == shape:
            return old
        new = torch.zeros(shape, dtype=states.dtype, device=states.device)
        if old is not None:
            new[: old.shape[0], : old.shape[1]] = old
        return new


class SlotCache(Cache):
    """The keys and values of up to ``max_rows`` requests of up to ``max_tokens`` tokens each.

    Rows are left-aligned: a row's token at position t lies in slot t. Capacity doubles on demand, by rows and by
    tokens, and never shrinks. It is bounded by ``max_bytes``: for each layer
    ``max_rows * max_tokens * H * (D of keys + D of values) * bytes of the dtype``; while it grows, one layer at a
    time has its old storage beside the new. Sliding-window layers keep the whole row too.
    """

    def __init__(self, *, num_layers: int, max_rows: int, max_tokens: int) -> None:
        self._plan = CachePlan()
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._slot_layers = [SlotLayer(self._plan) for _ in range(num_layers)]
        super().__init__(layers=[*self._slot_layers])

    @property
    def num_bytes(self) -> int:
        """What is allocated now."""
        return sum(t.nbytes for layer in self._slot_layers for t in (layer.keys, layer.values) if t is not None)

    @property
    def max_bytes(self) -> int:
        """What can be allocated at most; known after the first forward pass, 0 before it."""
        slots = self._plan.capacity_rows * self._plan.capacity_tokens
        return self.num_bytes // slots * self._max_rows * self._max_tokens if slots else 0

    def plan_packed(self, rows: Sequence[int], lengths: Sequence[int], device: torch.device) -> None:
        """Prepare for whole prompts one after another, each of which sees only itself."""
        self._reserve(max(rows) + 1, max(lengths))
        width = self._plan.capacity_tokens
        spans = [torch.arange(row * width, row * width + n) for row, n in zip(rows, lengths, strict=True)]
        self._plan.write_index = torch.cat(spans).to(device)
        self._plan.rows, self._plan.longest = None, 0

    def plan_row(self, row: int, *, start: int, count: int, device: torch.device) -> None:
        """Prepare for ``count`` tokens of one row that has ``start`` tokens already."""
        self._reserve(row + 1, start + count)
        first = row * self._plan.capacity_tokens + start
        self._plan.write_index = torch.arange(first, first + count, device=device)
        self._plan.rows, self._plan.longest = slice(row, row + 1), start + count

    def plan_step(self, positions_B: torch.Tensor, longest: int) -> None:
        """Prepare for one token in each of the first rows, at these positions; ``longest`` counts the new tokens."""
        num_rows = positions_B.shape[0]
        self._reserve(num_rows, longest)
        row_B = torch.arange(num_rows, device=positions_B.device)
        self._plan.write_index = row_B * self._plan.capacity_tokens + positions_B
        self._plan.rows, self._plan.longest = slice(num_rows), longest

    def arrange(self, order: Sequence[int], longest: int) -> None:
        """Make row i what row ``order[i]`` was; only the first ``longest`` tokens matter."""
        moves = [(source, target) for target, source in enumerate(order) if source != target]
        if not moves:
            return
        sources, targets = (torch.tensor(side) for side in zip(*moves, strict=True))
        for layer in self._slot_layers:
            layer.move_rows(sources, targets, longest)

    def wipe(self, row: int) -> None:
        """Zero a row: a NaN left in it would reach the next request there through its mask (0 * NaN is NaN)."""
        for layer in self._slot_layers:
            layer.wipe(row)

    def clear(self) -> None:
        """Free the memory."""
        self._plan.capacity_rows = self._plan.capacity_tokens = 0
        for layer in self._slot_layers:
            layer.keys = layer.values = None

    def _reserve(self, rows: int, tokens: int) -> None:
        plan = self._plan
        plan.capacity_rows = max(plan.capacity_rows, min(_bucket(rows, 1), self._max_rows))
        plan.capacity_tokens = max(
            plan.capacity_tokens, min(_bucket(tokens, _SMALLEST_BUCKET_TOKENS), self._max_tokens)
        )


def _bucket(count: int, smallest: int) -> int:
    """Round up to a power of two times ``smallest``."""
    bucket = smallest
    while bucket < count:
        bucket *= 2
    return bucket
