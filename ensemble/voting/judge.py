"""A judge chooses: the text that one model finds best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.evidence import logprobs_by_text, require_evidence
from ensemble.voting.ranking import decide_poll
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.texts import CastTexts, TextTally, open_text_tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The text that the judge finds best: S_y = exp(v_y) / sum over texts t of exp(v_t), v the judge's verdict.

    The verdict holds log-probabilities of each text being the best (LLM-as-a-judge: Zheng et al. 2023,
    arXiv:2306.05685, in its comparing form). Weights and the number of members that gave a text do not count, except
    in a tie. Candidate weights and agreement are the judge's probabilities, which nothing has calibrated, and the
    margin is their lead: they say how sure the judge is, not how many members agree.
    """

    name: str = "judge"
    tasks: frozenset[Task] = frozenset({Task.FREE_TEXT})
    is_heavy: bool = True
    second_round: SecondRound | None = SecondRound.JUDGE

    def open_tally(self, question: Question) -> TextTally:
        """Start an empty count."""
        return open_text_tally(self.name, question, _settle)


def _settle(cast: CastTexts, decided_by: DecidedBy) -> Decision:
    evidence = require_evidence(cast)
    if len(cast.texts) == 1:
        return decide_poll(cast.poll({text: Fraction(1) for text in cast.texts}), decided_by)
    verdict = logprobs_by_text("verdict", evidence.verdict, evidence)
    largest = max(verdict.values())
    powers = {text: math.exp(verdict[text] - largest) for text in cast.texts}
    total = sum(map(Fraction, powers.values()), Fraction())
    return decide_poll(cast.poll({text: Fraction(power) / total for text, power in powers.items()}), decided_by)
