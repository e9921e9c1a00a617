"""A key-value cache of fixed size, in blocks that requests take when they enter and give back when they leave.

Axes: S slots (tokens), H key-value heads, D head size, B rows fed, Q tokens fed, K keys seen. Storage is SHD, so that
a block is one contiguous piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from ensemble.engines.block_pool import BLOCK_TOKENS, BlockPool, CacheRow, chain_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(slots=True, kw_only=True)
class CachePlan:
    """What the next forward pass writes and sees.

    ``stored`` indexes the fed tokens that are kept, None for all, and ``write_slots`` says where. ``seen_blocks`` are
    gathered, [rows, blocks]: the ``longest`` first tokens of each row are seen. A single row whose blocks lie side by
    side is seen where it is, from slot ``first_slot`` on. With ``is_step`` what is seen includes the fed tokens;
    otherwise these are seen behind it. ``written`` has the slots of the whole pass, several of the model's maybe.
    ``check`` is called in every layer and may end the pass by raising.
    """

    stored: torch.Tensor | None = None
    write_slots: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    seen_blocks: torch.Tensor | None = None
    first_slot: int | None = None
    longest: int = 0
    is_step: bool = False
    written: list[torch.Tensor] = field(default_factory=list)
    check: Callable[[], None] = lambda: None


class PagedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values."""

    def __init__(self, plan: CachePlan, num_blocks: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan
        self._num_blocks = num_blocks
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate; the first call learns heads, sizes, dtype and device."""
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values (BHQD); return those that the pass sees (BHKD)."""
        del args, kwargs
        self._plan.check()
        if self.keys is None:
            self.lazy_initialization(key_states, value_states)
        keys, values = cast("torch.Tensor", self.keys), cast("torch.Tensor", self.values)
        return self._write_and_see(keys, key_states), self._write_and_see(values, value_states)

    def wipe(self, block_N: torch.Tensor) -> None:
        """Zero these blocks."""
        for storage_SHD in (self.keys, self.values):
            if storage_SHD is not None:
                storage_SHD.view(self._num_blocks, -1).index_fill_(0, block_N.to(storage_SHD.device), 0)

    def wipe_slots(self, slot_N: torch.Tensor) -> None:
        """Zero these slots."""
        for storage_SHD in (self.keys, self.values):
            if storage_SHD is not None:
                storage_SHD.index_fill_(0, slot_N, 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Give the number of keys seen and their offset."""
        return self._plan.longest + (0 if self._plan.is_step else query_length), 0

    def get_seq_length(self) -> int:
        """Positions are always given, so nobody counts on this."""
        return 0

    def get_max_length(self) -> int:
        """Give the slots of all rows together."""
        return self._num_blocks * BLOCK_TOKENS

    def _write_and_see(self, storage_SHD: torch.Tensor, states_BHQD: torch.Tensor) -> torch.Tensor:
        plan = self._plan
        written = states_BHQD.transpose(1, 2).flatten(0, 1)
        storage_SHD.index_copy_(0, plan.write_slots, written if plan.stored is None else written[plan.stored])
        if plan.first_slot is not None:
            return storage_SHD[plan.first_slot : plan.first_slot + plan.longest].transpose(0, 1)[None]
        if plan.seen_blocks is None:
            return states_BHQD
        _, num_heads, _, head_size = states_BHQD.shape
        blocks = storage_SHD.view(self._num_blocks, -1).index_select(0, plan.seen_blocks.flatten())
        seen_BKHD = blocks.view(len(plan.seen_blocks), -1, num_heads, head_size)
        seen_BHKD = seen_BKHD[:, : plan.longest].transpose(1, 2)
        return seen_BHKD if plan.is_step else torch.cat([seen_BHKD, states_BHQD], dim=2)

    def _allocate(self, states_BHQD: torch.Tensor) -> torch.Tensor:
        _, num_heads, _, head_size = states_BHQD.shape
        shape = (self._num_blocks * BLOCK_TOKENS, num_heads, head_size)
        if states_BHQD.device.type != "cpu":
            return torch.zeros(shape, dtype=states_BHQD.dtype, device=states_BHQD.device)
        # numpy's zeros take memory only once they are written to, torch's at once.
        num_bytes = math.prod(shape) * states_BHQD.element_size()
        return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(states_BHQD.dtype).view(shape)


class PagedCache(Cache):
    """The keys and values of all requests, ``num_tokens`` at most, rounded up to whole blocks.

    Memory is ``num_bytes`` after the first forward pass, and stays so. Sliding-window layers keep everything too.
    """

    def __init__(self, *, num_layers: int, num_tokens: int, reuses_prefixes: bool = True) -> None:
        num_blocks = math.ceil(num_tokens / BLOCK_TOKENS)
        self._plan = CachePlan()
        self._pool = BlockPool(num_blocks)
        self._reuses_prefixes = reuses_prefixes
        self.num_reused = 0
        """Tokens that were not read again, since the beginning."""
        self._paged_layers = [PagedLayer(self._plan, num_blocks) for _ in range(num_layers)]
        super().__init__(layers=[*self._paged_layers])

    @property
    def num_tokens(self) -> int:
        """Tokens for which there is room."""
        return self._pool.num_blocks * BLOCK_TOKENS

    @property
    def num_free_tokens(self) -> int:
        """Tokens for which there is room now."""
        return self._pool.num_available * BLOCK_TOKENS

    @property
    def num_bytes(self) -> int:
        """What is allocated; 0 before the first forward pass. On a CPU it takes memory only where it is written to."""
        return sum(t.nbytes for layer in self._paged_layers for t in (layer.keys, layer.values) if t is not None)

    def watch(self, check: Callable[[], None]) -> None:
        """Call this in every layer of every pass; what it raises ends the pass."""
        self._plan.check = check

    def begin_pass(self) -> None:
        """Forget what the last pass wrote."""
        self._plan.written.clear()

    def wipe_pass(self) -> None:
        """Zero what was written since the pass began; it need not have reached every layer."""
        for slot_N in self._plan.written:
            for layer in self._paged_layers:
                layer.wipe_slots(slot_N)

    def match(self, tokens: Sequence[int]) -> tuple[int, bytes | None]:
        """Give how many first tokens of a prompt are known, and the name of the block that is missing next.

        At least one token is left to be read, since the logits behind it are wanted.
        """
        keys = self._keys_of(tokens)
        num_found = len(self._pool.find(keys))
        return num_found * BLOCK_TOKENS, keys[num_found] if num_found < len(keys) else None

    def open_row(self, tokens: Sequence[int], *, capacity: int) -> CacheRow | None:
        """Make a place for so many tokens, of which known first ones of ``tokens`` are there; None when it is full."""
        shared = self._pool.find(self._keys_of(tokens))
        blocks = self._pool.take(shared, max(0, math.ceil(capacity / BLOCK_TOKENS) - len(shared)))
        if blocks is None:
            return None
        num_reused = len(shared) * BLOCK_TOKENS
        self.num_reused += num_reused
        return CacheRow(blocks=blocks, num_tokens=num_reused, num_reused=num_reused)

    def publish(self, row: CacheRow, tokens: Sequence[int]) -> None:
        """Let later requests reuse a prompt that was read into a row and whose logits were numbers."""
        for block, key in zip(row.blocks, self._keys_of(tokens), strict=False):
            self._pool.name(block, key)

    def close_row(self, row: CacheRow, *, is_sound: bool = True) -> None:
        """Give a row's blocks back; those that might hold a NaN are zeroed, since even masked it would spread."""
        if not is_sound:
            self.wipe([block for block in row.blocks_of(row.num_touched) if not self._pool.is_named(block)])
        self._pool.give_back(row.blocks)

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero these blocks."""
        if blocks:
            block_N = torch.tensor(blocks)
            for layer in self._paged_layers:
                layer.wipe(block_N)

    def plan_step(self, rows: Sequence[CacheRow], device: torch.device) -> int:
        """Prepare for one more token in each row; give the number of keys seen."""
        plan = self._plan
        plan.longest = 1 + max(row.num_tokens for row in rows)
        num_blocks = math.ceil(plan.longest / BLOCK_TOKENS)
        # A shorter row is filled up with a block of its own, behind the mask: another's could hold a NaN.
        tables = [blocks + blocks[:1] * (num_blocks - len(blocks)) for blocks in (r.blocks[:num_blocks] for r in rows)]
        plan.stored, plan.is_step = None, True
        plan.write_slots = torch.tensor([row.touch(1)[0] for row in rows], device=device)
        plan.written.append(plan.write_slots)
        plan.first_slot = tables[0][0] * BLOCK_TOKENS if len(tables) == 1 and _lie_side_by_side(tables[0]) else None
        plan.seen_blocks = torch.tensor(tables, device=device) if plan.first_slot is None else None
        return plan.longest

    def plan_read(
        self, rows: Sequence[CacheRow], stored: Sequence[int], slots: Sequence[int], device: torch.device
    ) -> None:
        """Prepare to see what is in these rows, in order, and to store some of the fed tokens."""
        plan = self._plan
        seen = [block for row in rows for block in row.blocks_of(row.num_tokens)]
        plan.stored, plan.is_step, plan.first_slot = torch.tensor(stored, dtype=torch.long, device=device), False, None
        plan.write_slots = torch.tensor(slots, dtype=torch.long, device=device)
        plan.written.append(plan.write_slots)
        plan.seen_blocks = torch.tensor([seen], device=device) if seen else None
        plan.longest = len(seen) * BLOCK_TOKENS

    def _keys_of(self, tokens: Sequence[int]) -> list[bytes]:
        return chain_keys(tokens[: max(0, len(tokens) - 1)]) if self._reuses_prefixes else []


def _lie_side_by_side(blocks: Sequence[int]) -> bool:
    return blocks[-1] - blocks[0] == len(blocks) - 1 and all(b - a == 1 for a, b in pairwise(blocks))
