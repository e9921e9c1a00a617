"""Which blocks of the key-value cache are free, in use, or kept in case that their prompt comes again."""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 16
_KEY_BYTES = 16


@dataclass(slots=True, kw_only=True, eq=False)
class CacheRow:
    """The place of one request; token t lies in block ``t // BLOCK_TOKENS``.

    ``num_tokens`` counts the tokens that are there. Setting it back forgets the last ones. A view counts for itself and
    has the blocks of its ``origin``.
    """

    blocks: list[int]
    num_tokens: int = 0
    num_reused: int = 0
    """Tokens that another request had read."""
    num_touched: int = 0
    """Tokens whose slots may have been written to, by passes that failed too; a view's are its origin's."""
    origin: CacheRow | None = None

    def view(self, *, ahead: int = 0) -> CacheRow:
        """Give a view that has ``ahead`` tokens more (or fewer) than the row counts."""
        return CacheRow(blocks=self.blocks, num_tokens=self.num_tokens + ahead, origin=self)

    def touch(self, count: int) -> list[int]:
        """Number the slots of the next tokens, which are about to be written to."""
        end = self.num_tokens + count
        whole = self.origin or self
        whole.num_touched = max(whole.num_touched, end)
        positions = range(self.num_tokens, end)
        return [self.blocks[t // BLOCK_TOKENS] * BLOCK_TOKENS + t % BLOCK_TOKENS for t in positions]

    def blocks_of(self, num_tokens: int) -> list[int]:
        """Give the blocks of the first tokens."""
        return self.blocks[: math.ceil(num_tokens / BLOCK_TOKENS)]


def chain_keys(tokens: Sequence[int]) -> list[bytes]:
    """Name each whole block of a prompt by its tokens and all tokens in front of it."""
    keys: list[bytes] = []
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        digest = blake2b(keys[-1] if keys else b"", digest_size=_KEY_BYTES)
        digest.update(array("q", tokens[end - BLOCK_TOKENS : end]).tobytes())
        keys.append(digest.digest())
    return keys


class BlockPool:
    """Counts who uses each block; a named block that nobody uses is kept until its place is needed, oldest first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_users = [0] * num_blocks
        self._block_by_key: dict[bytes, int] = {}
        self._key_by_block: dict[int, bytes] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that nobody uses, the kept ones among them."""
        return len(self._free) + len(self._kept)

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Give the blocks of the longest known beginning."""
        found = []
        for key in keys:
            if key not in self._block_by_key:
                break
            found.append(self._block_by_key[key])
        return found

    def take(self, shared: Sequence[int], num_new: int) -> list[int] | None:
        """Give ``shared`` blocks one user more, and that many new ones behind them; None when there are too few."""
        num_kept_shared = sum(block in self._kept for block in shared)
        if num_new > self.num_available - num_kept_shared:
            return None
        for block in shared:
            self._kept.pop(block, None)
        blocks = [*shared, *(self._take_new() for _ in range(num_new))]
        for block in blocks:
            self._num_users[block] += 1
        return blocks

    def name(self, block: int, key: bytes) -> None:
        """Let later requests find a block; the first block of a name stays."""
        if key not in self._block_by_key and block not in self._key_by_block:
            self._block_by_key[key] = block
            self._key_by_block[block] = key

    def is_named(self, block: int) -> bool:
        """Say whether later requests can find a block."""
        return block in self._key_by_block

    def give_back(self, blocks: Sequence[int]) -> None:
        """Take one user from each block."""
        # The last first: a beginning is of use without its end, not the other way round.
        for block in reversed(blocks):
            self._num_users[block] -= 1
            if self._num_users[block]:
                continue
            if block in self._key_by_block:
                self._kept[block] = None
            else:
                self._free.append(block)

    def _take_new(self) -> int:
        if self._free:
            return self._free.pop()
        block, _ = self._kept.popitem(last=False)
        del self._block_by_key[self._key_by_block.pop(block)]
        return block
