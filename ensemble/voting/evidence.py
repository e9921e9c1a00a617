"""Reads the evidence of a second round, text by text, and refuses what does not fit the ballots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ensemble.errors import InvalidRequestError
from ensemble.voting.strategy import Evidence
from ensemble.voting.texts import CastTexts

Similarity = Mapping[tuple[str, str], float]
"""The cosine of two texts' embeddings, both ways round, and exactly 1 of a text with itself."""


def require_evidence(cast: CastTexts) -> Evidence:
    """Give the evidence about the texts that were cast; one text alone needs none.

    Raises:
        InvalidRequestError: there is none, or it is about other texts.
    """
    evidence = cast.turnout.question.evidence
    if evidence is None and len(cast.texts) == 1:
        return Evidence(texts=cast.texts)
    if evidence is None:
        problem = f"{cast.strategy} needs some about {len(cast.texts)} texts and there is none"
        raise InvalidRequestError("evidence", problem, "ask the models of its second round first")
    if len(set(evidence.texts)) < len(evidence.texts) or set(evidence.texts) != set(cast.texts):
        problem = f"it is about other texts than the {len(cast.texts)} of the ballots"
        raise InvalidRequestError("evidence", problem, "gather it when the ballots are in")
    return evidence


def similarities(cast: CastTexts) -> Similarity:
    """Compare every pair of texts by the cosine of their embeddings.

    Raises:
        InvalidRequestError: there is no evidence, or not one finite vector other than 0 a text, all of one length.
    """
    evidence = require_evidence(cast)
    cosines = {(text, text): 1.0 for text in cast.texts}
    if len(cast.texts) == 1:
        return cosines
    _check_count("embeddings", evidence.embeddings, evidence.texts)
    lengths = {len(vector) for vector in evidence.embeddings}
    norms = [math.hypot(*vector) for vector in evidence.embeddings]
    if len(lengths) > 1 or not all(math.isfinite(norm) and norm > 0 for norm in norms):
        problem = "they differ in length, or one is 0 or not finite"
        raise InvalidRequestError("evidence.embeddings", problem, "give vectors of one length, of norm 1")
    units = [tuple(x / norm for x in vector) for vector, norm in zip(evidence.embeddings, norms, strict=True)]
    for i, one in enumerate(evidence.texts):
        for j, other in enumerate(evidence.texts[:i]):
            cosine = math.fsum(x * y for x, y in zip(units[i], units[j], strict=True))
            cosines[one, other] = cosines[other, one] = min(max(cosine, -1.0), 1.0)
    return cosines


def logprobs_by_text(field: str, logprobs: Sequence[float], evidence: Evidence) -> dict[str, float]:
    """Give each text its log-probability.

    Raises:
        InvalidRequestError: there is not one finite number a text.
    """
    _check_count(field, logprobs, evidence.texts)
    if not all(map(math.isfinite, logprobs)):
        raise InvalidRequestError(f"evidence.{field}", "a log-probability is not finite", "give finite ones")
    return dict(zip(evidence.texts, logprobs, strict=True))


def _check_count(field: str, entries: Sequence[object], texts: Sequence[str]) -> None:
    if len(entries) != len(texts):
        problem = f"there are {len(entries)} for {len(texts)} texts"
        raise InvalidRequestError(f"evidence.{field}", problem, "give one a text")
