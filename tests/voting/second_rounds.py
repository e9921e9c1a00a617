"""Plays the second round for the tests of voting: evidence that depends on the texts alone, as a model's would."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace

from ensemble.voting import Question, Vote, get_strategy
from ensemble.voting.strategy import Evidence, SecondRound
from ensemble.voting.texts import distinct_texts

NUM_DIMENSIONS = 4


def with_evidence(strategy: str, question: Question, votes: Iterable[Vote]) -> Question:
    """Add what the strategy's second round would say about the votes; nothing for strategies without one."""
    kind = get_strategy(strategy).second_round
    if kind is None:
        return question
    tally = get_strategy(strategy).open_tally(question)
    arrived = tuple(votes)
    for vote in arrived:
        tally = tally.add(vote)
    counted = tuple(tally.vote_of(vote.member) for vote in arrived)
    texts = distinct_texts(counted, question.panel)
    members = [voter.member for voter in question.panel]
    return replace(question, evidence=_evidence(kind, texts, members))


def _evidence(kind: SecondRound, texts: tuple[str, ...], members: list[str]) -> Evidence:
    match kind:
        case SecondRound.EMBED:
            return Evidence(texts=texts, source="embedder", embeddings=tuple(map(embed, texts)))
        case SecondRound.SCORE_TEXTS:
            scores = {member: tuple(-_number(member, text) for text in texts) for member in members}
            return Evidence(texts=texts, logprobs_by_scorer=scores)
        case SecondRound.JUDGE:
            return Evidence(texts=texts, source="judge", verdict=tuple(-_number("judge", text) for text in texts))
        case SecondRound.FUSE:
            fused = " ".join(sorted(texts)) if len(texts) > 1 else "".join(texts)
            return Evidence(texts=texts, source="fuser", fused=fused)


def embed(text: str) -> tuple[float, ...]:
    """Give a vector of norm 1 that the text fixes."""
    raw = [_number(str(n), text) for n in range(NUM_DIMENSIONS)]
    norm = math.hypot(*raw)
    return tuple(number / norm for number in raw)


def _number(salt: str, text: str) -> float:
    """Give a number from 1 to 5 that looks like chance and is none."""
    digest = hashlib.sha256(f"{salt}/{text}".encode("utf-8", "surrogatepass")).digest()
    return 1 + int.from_bytes(digest[:4]) / 2**30
