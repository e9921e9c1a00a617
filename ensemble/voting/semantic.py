"""A vote of meanings: texts that say the same in other words are one candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from ensemble.voting.admission import Admit, admit_short_answer
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.evidence import Similarity, similarities
from ensemble.voting.ranking import decide_poll
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.texts import CastTexts, TextTally, open_text_tally

SAME_MEANING_COSINE = 0.9
"""Where two clusters still say the same. Embedders differ: measure it on labelled texts before trusting it."""

Cluster = tuple[str, ...]


class Linkage(StrEnum):
    """How alike two clusters are: by the pair of texts, one of each, that is ..."""

    SINGLE = "single"
    """... most alike; long chains of small steps become one cluster."""
    AVERAGE = "average"
    """... average over all pairs (UPGMA, Sokal & Michener 1958)."""
    COMPLETE = "complete"
    """... least alike; every pair of a cluster is then at the threshold or above it."""


_JOIN: dict[Linkage, Callable[[Sequence[float]], float]] = {
    Linkage.SINGLE: max,
    Linkage.AVERAGE: lambda cosines: math.fsum(cosines) / len(cosines),
    Linkage.COMPLETE: min,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticVote:
    """The meaning with the most weight: S_c = sum of w_i over the ballots whose text is in cluster c.

    Texts are clustered by the cosine of their embeddings: the two clusters most alike are joined as long as they are
    at ``threshold`` or above. A cluster is named by its medoid, the text most like the cluster by weight (ties: the
    heavier text, then the one that sorts first); the decision's candidates are the medoids, each with everybody of its
    cluster, and agreement and margin are shares of the cast weight as in ``weighted_vote``. After the clusters of
    meanings of Kuhn et al. (2023, arXiv:2302.09664), who cluster by mutual entailment instead; ``semantic_entropy``
    is theirs.

    Clusters are made of the distinct texts, which do not depend on how many members gave one, nor in which order.
    """

    name: str = "semantic_vote"
    tasks: frozenset[Task] = frozenset({Task.SHORT_ANSWER})
    is_heavy: bool = True
    second_round: SecondRound | None = SecondRound.EMBED
    admit: Admit | None = admit_short_answer
    threshold: float = SAME_MEANING_COSINE
    linkage: Linkage = Linkage.AVERAGE

    def open_tally(self, question: Question) -> TextTally:
        """Start an empty count."""
        return open_text_tally(self.name, question, self._settle, admit=self.admit)

    def _settle(self, cast: CastTexts, decided_by: DecidedBy) -> Decision:
        cosines = similarities(cast)
        clusters = {
            _medoid(cluster, cosines, cast): cluster
            for cluster in cluster_texts(cast.texts, cosines, threshold=self.threshold, linkage=self.linkage)
        }
        place_by_member = {member: n for n, member in enumerate(cast.turnout.weights)}
        ballots_by_medoid = {
            medoid: tuple(
                sorted(
                    (ballot for text in cluster for ballot in cast.ballots_by_text[text]),
                    key=lambda ballot: place_by_member[ballot.member],
                )
            )
            for medoid, cluster in clusters.items()
        }
        cast_weight = cast.turnout.cast_weight
        shares = {
            medoid: Fraction(cast.weight_of(cluster), cast_weight) if cast_weight else Fraction()
            for medoid, cluster in clusters.items()
        }
        return decide_poll(cast.poll(shares, ballots_by_medoid), decided_by)


def cluster_texts(
    texts: Iterable[str], cosines: Similarity, *, threshold: float, linkage: Linkage
) -> tuple[Cluster, ...]:
    """Join the two clusters most alike again and again, while they are at ``threshold`` or above.

    Texts are sorted within a cluster, and clusters by their first text. Of pairs that are equally alike the one that
    sorts first is joined, so the order of ``texts`` never shows.
    """
    clusters: list[Cluster] = [(text,) for text in sorted(texts)]
    while True:
        pairs = [(_likeness(one, other, cosines, linkage), one, other) for one, other in _pairs(clusters)]
        near = [pair for pair in pairs if pair[0] >= threshold]
        if not near:
            return tuple(clusters)
        _, one, other = min(near, key=lambda pair: (-pair[0], pair[1], pair[2]))
        clusters = sorted([*(c for c in clusters if c not in (one, other)), tuple(sorted(one + other))])


def semantic_entropy(decision: Decision) -> float:
    """Give the entropy of a semantic vote over its clusters: -sum of p_c ln p_c, in nats, p_c a cluster's share.

    0 says that everybody means the same. This is the discrete estimate of Kuhn et al. (2023, arXiv:2302.09664), with
    the members' weights for the samples' probabilities; 0 as well when nobody has a weight.
    """
    total = math.fsum(candidate.weight for candidate in decision.candidates)
    shares = [candidate.weight / total for candidate in decision.candidates if candidate.weight > 0]
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def semantic_strategies() -> tuple[SemanticVote, ...]:
    """Give the vote of short answers, and that of whole texts."""
    return (
        SemanticVote(),
        SemanticVote(name="semantic_text_vote", tasks=frozenset({Task.FREE_TEXT}), admit=None),
    )


def _pairs(clusters: Sequence[Cluster]) -> Iterable[tuple[Cluster, Cluster]]:
    return ((one, other) for n, one in enumerate(clusters) for other in clusters[n + 1 :])


def _likeness(one: Cluster, other: Cluster, cosines: Similarity, linkage: Linkage) -> float:
    return _JOIN[linkage]([cosines[a, b] for a in one for b in other])


def _medoid(cluster: Cluster, cosines: Similarity, cast: CastTexts) -> str:
    def closeness(text: str) -> tuple[Fraction, int]:
        near = sum((cast.weight_of([other]) * Fraction(cosines[text, other]) for other in cluster), Fraction())
        return near, cast.weight_of([text])

    return max(cluster, key=closeness)  # sorted: of equal ones the first
