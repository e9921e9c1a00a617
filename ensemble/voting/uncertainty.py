"""How much several answers to one question disagree, among members or among samples of one member."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ensemble.errors import InvalidRequestError


def semantic_entropy(weights: Sequence[float]) -> float:
    """Give the entropy, in nats, of answers over clusters of equal meaning: 0 when all say the same.

    ``weights`` are each cluster's count or weight, 0 or more, at least one above 0. The discrete estimate of Farquhar
    et al. 2024 (Nature 630) after Kuhn et al. 2023 (arXiv:2302.09664): -sum of p ln p.

    Raises:
        InvalidRequestError: a weight is negative or not finite, or all are 0.
    """
    total = math.fsum(weights)
    if not math.isfinite(total) or total <= 0 or any(weight < 0 for weight in weights):
        raise InvalidRequestError("weights", "they are no shares", "give finite ones of 0 or more, not all 0")
    shares = (weight / total for weight in weights if weight)
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def consistency_weight(counts: Sequence[int]) -> float:
    """Weigh a member by how much its own samples agree: 1 - (1 - 1/n) * H / ln(number of distinct answers).

    ``counts`` say how often the member gave each distinct answer; n is their sum. All the same gives 1, all answers
    equally often 1/n (ModelSwitch: Chen et al. 2025, arXiv:2504.00762).

    Raises:
        InvalidRequestError: a count is negative, or all are 0.
    """
    given = [count for count in counts if count]
    entropy = semantic_entropy(counts)
    if len(given) == 1:
        return 1.0
    return 1.0 - (1.0 - 1.0 / sum(given)) * entropy / math.log(len(given))
