"""Minimum Bayes risk: of the texts given, the one most like all the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.evidence import similarities
from ensemble.voting.ranking import decide_poll
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.texts import CastTexts, TextTally, open_text_tally

Utility = Callable[[str, str], float]
"""How good a candidate (first) would be if the other text (second) were the truth, in [0, 1]."""


def chrf_utility(cast: CastTexts) -> Utility:  # noqa: ARG001  one shape for every utility
    """Build the likeness of characters: sacrebleu's sentence-level chrF2, over 100."""
    return build_chrf()


def embedding_utility(cast: CastTexts) -> Utility:
    """Build the likeness of embeddings: (1 + cosine) / 2.

    Raises:
        InvalidRequestError: the question's evidence has no embeddings of the texts.
    """
    cosines = similarities(cast)
    return lambda candidate, truth: (1.0 + cosines[candidate, truth]) / 2.0


def mixed_utility(cast: CastTexts) -> Utility:
    """Build the mean of both likenesses. Raises as ``embedding_utility`` does."""
    chrf, embedding = chrf_utility(cast), embedding_utility(cast)
    return lambda candidate, truth: (chrf(candidate, truth) + embedding(candidate, truth)) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumBayesRisk:
    """The text with the highest expected utility, every member's text being the truth in proportion to its weight.

    EU(y) = sum over texts t of p(t) * u(y, t), with p(t) the share of the cast weight that t has. The utility u is
    chrF2 (Popovic 2015; sacrebleu's defaults: characters 1 to 6, beta 2), or (1 + cosine) / 2 of embeddings, which
    knows the same thing said in other words, or the mean of both. A text is compared with itself too: the ballots are
    samples of the truth and the candidate's own is one of them, as in the estimator of Eikema & Aziz (2022,
    arXiv:2108.04718; survey: Bertsch et al. 2023, arXiv:2310.01387). So weights count between two members, and texts
    that several members gave count as often as they were given.

    In the decision a candidate's weight is its expected utility, and so is the agreement: with a utility that only
    knew equal and different, it would be the share of the cast weight. The margin is the lead in expected utility.
    Unlike texts have a utility above 0 (with embeddings, often far above), so agreements of different utilities do not
    compare.
    """

    name: str = "mbr"
    tasks: frozenset[Task] = frozenset({Task.FREE_TEXT})
    is_heavy: bool = True
    second_round: SecondRound | None = None
    build_utility: Callable[[CastTexts], Utility] = chrf_utility

    def open_tally(self, question: Question) -> TextTally:
        """Start an empty count; weights must not be negative, since no truth has a negative probability."""
        return open_text_tally(self.name, question, self._settle)

    def _settle(self, cast: CastTexts, decided_by: DecidedBy) -> Decision:
        utility = self.build_utility(cast)
        share_by_text = {text: cast.share_of(text) for text in cast.texts}

        def expected_utility(candidate: str) -> Fraction:
            terms = (share * Fraction(utility(candidate, truth)) for truth, share in share_by_text.items() if share)
            return sum(terms, Fraction())

        return decide_poll(cast.poll({text: expected_utility(text) for text in cast.texts}), decided_by)


def build_chrf() -> Utility:
    """Give sacrebleu's sentence-level chrF2, between 0 and 1."""
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415  half a second to import, and only this strategy needs it

    chrf = CHRF()
    return lambda candidate, truth: min(chrf.sentence_score(candidate, [truth]).score / 100.0, 1.0)


def mbr_strategies() -> tuple[MinimumBayesRisk, ...]:
    """Give one strategy a utility."""
    return (
        MinimumBayesRisk(),
        MinimumBayesRisk(name="mbr_embedding", second_round=SecondRound.EMBED, build_utility=embedding_utility),
        MinimumBayesRisk(name="mbr_mix", second_round=SecondRound.EMBED, build_utility=mixed_utility),
    )
