"""Which questions the choices of a request make of a model that is asked for the next token alone."""

from __future__ import annotations

import asyncio
import math

import pytest

from ensemble.engines.jobs import ChoiceTree
from ensemble.engines.vllm_scoring import MAX_WANTED, sum_logprobs
from ensemble.errors import MemberError


class Bigrams:
    """A model in which the next token depends on the last one; it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.most_at_once = 0
        self._at_once = 0

    @staticmethod
    def logprob(token: int, after: int) -> float:
        return -math.log(2 + (7 * token + 3 * after) % 11)

    async def next_logprobs(self, tokens: list[int], wanted: list[int]) -> dict[int, float]:
        assert len(wanted) <= MAX_WANTED
        self.asked.append(tuple(tokens))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        return {token: self.logprob(token, after=tokens[-1]) for token in wanted}


async def test_each_choice_has_the_sum_over_its_tokens_and_shared_beginnings_are_asked_once() -> None:
    model = Bigrams()
    tree = ChoiceTree(prompt=(1, 2), choices=((5,), (5, 6), (5, 6, 7), (8, 9), (5,)))

    sums = await sum_logprobs(tree, model.next_logprobs, max_at_once=8)

    expected = []
    for choice in tree.choices:
        tokens = (2, *choice)
        pairs = zip(tokens[1:], tokens, strict=False)
        expected.append(sum(model.logprob(token, after=after) for token, after in pairs))
    assert sums == pytest.approx(expected)
    assert sorted(model.asked) == [(1, 2), (1, 2, 5), (1, 2, 5, 6), (1, 2, 8)]


async def test_more_tokens_than_vllm_gives_at_once_are_asked_for_in_parts() -> None:
    model = Bigrams()
    choices = tuple((token,) for token in range(2 * MAX_WANTED + 1))

    sums = await sum_logprobs(ChoiceTree(prompt=(1,), choices=choices), model.next_logprobs, max_at_once=8)

    assert model.asked == [(1,)] * 3
    assert sums == [model.logprob(token, after=1) for (token,) in choices]


async def test_no_more_questions_are_asked_at_once_than_allowed() -> None:
    model = Bigrams()
    choices = tuple((token, token, token) for token in range(20))

    await sum_logprobs(ChoiceTree(prompt=(1,), choices=choices), model.next_logprobs, max_at_once=3)

    assert model.most_at_once == 3


async def test_a_question_that_fails_fails_the_scoring_with_its_own_error() -> None:
    async def fail(tokens: list[int], wanted: list[int]) -> dict[int, float]:
        raise MemberError("m", f"{len(tokens)} tokens, {len(wanted)} wanted")

    with pytest.raises(MemberError, match="1 tokens, 2 wanted"):
        await sum_logprobs(ChoiceTree(prompt=(1,), choices=((5,), (6,))), fail, max_at_once=2)
