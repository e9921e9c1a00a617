"""Whose turn it is to get room in the key-value cache."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class RoomClaimant(Protocol):
    """Requests of one kind, which need room in the cache before they can begin."""

    @property
    def needs_room(self) -> bool:
        """Whether the one that is next waits for room."""
        ...

    def claim_room(self) -> bool:
        """Take the room that the one that is next needs; False when there is too little."""
        ...


class RoomTurns:
    """Lets kinds of requests take room in turns, so that none starves however many of another come.

    The kind that got room last stands last. Where one finds too little, those behind it wait too, or small requests
    would take what comes free for ever. Whoever has room ends without more of it, so the first in the row gets it.
    """

    def __init__(self, claimants: Iterable[RoomClaimant]) -> None:
        self._claimants = deque(claimants)

    def share_out(self) -> None:
        """Give room to those that need it, as far as it goes."""
        for claimant in tuple(self._claimants):
            if not claimant.needs_room:
                continue
            if not claimant.claim_room():
                return
            self._claimants.remove(claimant)
            self._claimants.append(claimant)
