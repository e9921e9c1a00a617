"""Fusion: a model writes one answer from everybody's texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ensemble.errors import InvalidRequestError
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.evidence import require_evidence
from ensemble.voting.ranking import decide_poll
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.texts import CastTexts, TextTally, open_text_tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuse:
    """The text that the fuser wrote from the members' texts (mixture of agents: Wang et al. 2024, arXiv:2406.04692).

    It is no vote: what the members wrote is material. The decision says so in its numbers. The answer is the first
    candidate with the weight of those whose text it equals, often none; then come the members' texts, each with the
    share of the cast weight that gave it. Agreement is that share of the answer, so 0 says that nobody wrote it so;
    the margin is its lead over the best other text, never below 0; a confidence is never given, for the calibrated
    sums are not about a text that nobody cast.
    """

    name: str = "fuse"
    tasks: frozenset[Task] = frozenset({Task.FREE_TEXT})
    is_heavy: bool = True
    second_round: SecondRound | None = SecondRound.FUSE

    def open_tally(self, question: Question) -> TextTally:
        """Start an empty count."""
        return open_text_tally(self.name, question, _settle)


def _settle(cast: CastTexts, decided_by: DecidedBy) -> Decision:
    evidence = require_evidence(cast)
    only = cast.texts[0] if len(cast.texts) == 1 else ""
    fused = (evidence.fused or only).strip()
    if not fused:
        raise InvalidRequestError("evidence.fused", "it is empty", "give the text that the fuser wrote")
    by_backing = decide_poll(cast.poll({text: cast.share_of(text) for text in cast.texts}), decided_by)
    answer = next((candidate for candidate in by_backing.candidates if candidate.answer == fused), None)
    answer = answer or Candidate(answer=fused, weight=0.0, members=())
    others = tuple(candidate for candidate in by_backing.candidates if candidate.answer != fused)
    rival = others[0].weight if others else 0.0
    return replace(
        by_backing,
        answer=fused,
        agreement=answer.weight,
        margin=max(0.0, answer.weight - rival),
        confidence=None,
        withheld=False,
        candidates=(answer, *others),
    )
