"""The one text that a stream tells where it does not tell everybody's."""

from __future__ import annotations

from dataclasses import replace

from ensemble.router.election import Election
from ensemble.router.request import StreamMode, TextPiece
from ensemble.voting.record import VoteRecord, mark_stream


class OneStream:
    """Says which pieces are told, and who must be heard to the end; with the mode ``all`` that is everybody and nobody.

    The leader is known from the start; a race has one from the first piece on that is more than white space, which no
    answer begins with in earnest: white space before it is not told.
    """

    def __init__(self, election: Election) -> None:
        self._is_race = election.stream_mode is StreamMode.FIRST_TOKEN_HEDGE
        self._leader = election.leader
        self._has_told = False

    def starts_with(self, piece: TextPiece) -> bool:
        """Say whether this piece ends a race, as the first that is more than white space; its member then leads."""
        if not self._is_race or self._leader or not piece.text.strip():
            return False
        self._leader = piece.member
        return True

    def tells(self, piece: TextPiece) -> bool:
        """Say whether a client is told this piece: of the leader, or of everybody where there is none and no race."""
        is_told = self._leader == piece.member or not (self._leader or self._is_race)
        self._has_told = self._has_told or is_told
        return is_told

    def others(self, members: tuple[str, ...]) -> tuple[str, ...]:
        """Leave the leader out: what a client is reading goes on to its end, whatever the vote says."""
        return tuple(member for member in members if member != self._leader)

    def is_open(self, out: tuple[str, ...]) -> bool:
        """Say whether the leader is among those whose vote is out."""
        return bool(self._leader) and self._leader in out

    def mark(self, record: VoteRecord) -> VoteRecord:
        """Note in the decision whose text was told, and whether the answer is another one."""
        if not self._leader or not self._has_told:
            return record
        return replace(record, decision=mark_stream(record.decision, self._leader))
