"""Cross-perplexity: every member ranks everybody's texts by how likely it finds them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.evidence import logprobs_by_text, require_evidence
from ensemble.voting.ranking import decide_poll
from ensemble.voting.strategy import Evidence, Question, SecondRound, Task
from ensemble.voting.texts import CastTexts, TextTally, open_text_tally


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossPerplexity:
    """The text that members rank highest: S_y = sum of w_i * b_i(y) over the cast weight, b_i being i's Borda share.

    b_i(y) is the share of the other texts that member i puts below y, a tie counting half (Borda 1781; with one rank
    a judge it is also the share of the pairwise comparisons won, by which PairRanker orders candidates: Jiang et al.
    2023, arXiv:2306.02561). A member puts its own text first, since that is what its ballot says, and the others in
    the order of their mean log-probability a token given the prompt.

    Ranks and not log-probabilities, because tokenizers, temperatures and sizes put members on scales that do not
    compare, and standardising two or three numbers is noise; a rank is the same under every rising change of scale. A
    member's own score of its own text never counts: models find likely what they wrote themselves (Panickssery et al.
    2024, arXiv:2404.13076), and the surest of its own words would win. Between two members with a text each the
    heavier therefore wins, as in ``weighted_vote``; from three texts on the second places decide.

    Only members with a ballot rank, so that abstaining equals being absent. One whose scores are missing puts its own
    text first and the others level. Agreement is S_y: the mean share of rivals that the answer beats.
    """

    name: str = "rank"
    tasks: frozenset[Task] = frozenset({Task.FREE_TEXT})
    is_heavy: bool = True
    second_round: SecondRound | None = SecondRound.SCORE_TEXTS

    def open_tally(self, question: Question) -> TextTally:
        """Start an empty count."""
        return open_text_tally(self.name, question, _settle)


def _settle(cast: CastTexts, decided_by: DecidedBy) -> Decision:
    evidence = require_evidence(cast)
    sums = dict.fromkeys(cast.texts, Fraction())
    for own, ballots in cast.ballots_by_text.items():
        for ballot in ballots:
            scores = _scores_of(ballot.member, evidence)
            weight = cast.turnout.weights[ballot.member]
            for text, share in _borda_shares(own, scores).items():
                sums[text] += weight * share
    total = cast.turnout.cast_weight
    return decide_poll(
        cast.poll({text: points / total if total else points for text, points in sums.items()}), decided_by
    )


def _scores_of(member: str, evidence: Evidence) -> Mapping[str, float]:
    logprobs = evidence.logprobs_by_scorer.get(member)
    if logprobs is None:
        return dict.fromkeys(evidence.texts, 0.0)
    return logprobs_by_text(f"logprobs_by_scorer[{member}]", logprobs, evidence)


def _borda_shares(own: str, scores: Mapping[str, float]) -> dict[str, Fraction]:
    others = sorted(score for text, score in scores.items() if text != own)
    num_rivals = max(1, len(others))
    shares = {own: Fraction(1)}
    for text, score in scores.items():
        if text != own:
            below, up_to = bisect_left(others, score), bisect_right(others, score)
            shares[text] = Fraction(below + (up_to - 1), 2 * num_rivals)  # the text itself is among those level
    return shares
