"""How many rows go through a forward pass together, so that what it needs in memory has a bound whatever they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PAIRS = 2**21
"""Pairs of a token fed and a token seen in one packed pass of several segments: its mask takes 8 MiB in float32.

Each token is compared with all rows' tokens, so packing twice the rows takes four times the work."""
MAX_SEEN = 2**15
"""Tokens that the rows of one step see, each row being as long as the longest: a layer copies their keys and values."""


def pack_segments(sizes: Sequence[tuple[int, int]], max_pairs: int = MAX_PAIRS) -> list[slice]:
    """Cut segments, in order, into packed passes of at most ``max_pairs``; one that is larger goes alone.

    ``sizes`` has each segment's tokens fed and those that its row holds.
    """
    groups: list[slice] = []
    start = fed = seen = 0
    for end, (num_fed, num_held) in enumerate(sizes):
        if end > start and (fed + num_fed) * (seen + num_fed + num_held) > max_pairs:
            groups.append(slice(start, end))
            start, fed, seen = end, 0, 0
        fed += num_fed
        seen += num_fed + num_held
    groups.append(slice(start, len(sizes)))
    return groups


def group_by_length(lengths: Sequence[int], max_seen: int = MAX_SEEN) -> list[list[int]]:
    """Number the rows of each step, those of like length together; a row that sees more than ``max_seen`` goes alone.

    Rows that fit one step stay in order.
    """
    if len(lengths) * max(lengths) <= max_seen:
        return [list(range(len(lengths)))]
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_seen:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
