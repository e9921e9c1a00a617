"""Log-probabilities of choices from next-token distributions, one for every place where choices go on.

vLLM's own way, the log-probabilities of a prompt's tokens, reads each choice with the whole prompt, for it does not
take them from its prefix cache, and needs the logits of every token of it. Asked for the token that follows the prompt
and the choice so far, it takes all of it from the cache but the last block and needs the logits of one token.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ensemble.engines.jobs import ChoiceTree

    NextLogprobs = Callable[[list[int], list[int]], Awaitable[Mapping[int, float]]]
    """Given tokens, and some that may follow, gives the log-probability of each as the one that does."""

MAX_WANTED = 128
"""Tokens whose log-probabilities vLLM gives at once (MAX_LOGPROB_TOKEN_IDS in vllm.sampling_params, 0.32)."""


async def sum_logprobs(tree: ChoiceTree, next_logprobs: NextLogprobs, *, max_at_once: int) -> list[float]:
    """Give each choice's sum of its tokens' log-probabilities, with so many questions to the model at once.

    Raises:
        MemberError: what ``next_logprobs`` raises.
    """
    wanted: dict[tuple[int, ...], dict[int, None]] = defaultdict(dict)
    for choice in tree.choices:
        for length, token in enumerate(choice):
            wanted[choice[:length]][token] = None
    found: dict[tuple[int, ...], dict[int, float]] = defaultdict(dict)
    places = asyncio.Semaphore(max_at_once)

    async def ask(begun: tuple[int, ...], tokens: list[int]) -> None:
        async with places:
            found[begun].update(await next_logprobs([*tree.prompt, *begun], tokens))

    try:
        async with asyncio.TaskGroup() as group:
            for begun, following in wanted.items():
                for start in range(0, len(following), MAX_WANTED):
                    group.create_task(ask(begun, list(following)[start : start + MAX_WANTED]))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [sum(found[choice[:length]][token] for length, token in enumerate(choice)) for choice in tree.choices]
