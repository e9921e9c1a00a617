"""Takes what members say in the order in which they say it, and stops those who are not needed any more."""

from __future__ import annotations

from ensemble.router.fan_out import FanOut
from ensemble.router.one_stream import OneStream
from ensemble.router.request import TextPiece
from ensemble.router.running_vote import RunningVote
from ensemble.voting.ballot import Abstention, AbstentionReason, Vote
from ensemble.voting.decision import DecidedBy


class Hearing:
    """One vote being heard. Members are stopped, and the next ones asked, before a client is told why.

    A slow reader must neither keep members decoding nor hold up those that are asked next. ``stopped`` has the
    abstentions of those that were stopped, which are not counted yet.
    """

    def __init__(self, vote: RunningVote, stream: OneStream, fan_out: FanOut) -> None:
        self._vote = vote
        self._stream = stream
        self._fan_out = fan_out
        self._num_turns = 0
        self.stopped: tuple[Abstention, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be heard: the vote is decided, and whoever is streamed has ended."""
        return self._vote.decided_by is not None and not self._stream.is_open(self._vote.out)

    def take(self, event: Vote | TextPiece) -> Vote | TextPiece | None:
        """Take what a member said; returns what the client is told of it: nothing, or the vote as it was counted."""
        if isinstance(event, TextPiece):
            return self._take_piece(event)
        if any(event.member == abstention.member for abstention in self.stopped):
            return None  # It was on its way when its member was stopped.
        was_decided = self._vote.decided_by is not None
        counted = self._vote.add(event)
        if not was_decided:
            if self._vote.is_over():
                self._stop_others()
            else:
                self._fan_out.begin(self._vote.next_stage())
        return counted

    def next_turn(self) -> None:
        """Ask the next stage although members of the earlier ones are late; they may still vote."""
        self._num_turns += 1
        while self._vote.decided_by is None and self._vote.num_stages <= self._num_turns:
            stage = self._vote.next_stage(is_due=True)
            if not stage:
                return
            self._fan_out.begin(stage)

    def end(self) -> None:
        """Stop those who are late, once time is up or nobody is out."""
        self._vote.run_out()
        stopped = {abstention.member for abstention in self.stopped}
        late = tuple(member for member in self._vote.out if member not in stopped)
        self.stopped += self._fan_out.stop(late, reason=AbstentionReason.DEADLINE)

    def _take_piece(self, piece: TextPiece) -> TextPiece | None:
        if self._vote.decided_by is None and self._stream.starts_with(piece):
            self._vote.end(DecidedBy.FIRST_TOKEN)
            self._stop_others()
        return piece if self._stream.tells(piece) else None

    def _stop_others(self) -> None:
        self.stopped = self._fan_out.stop(self._stream.others(self._vote.out), reason=AbstentionReason.CANCELLED)
