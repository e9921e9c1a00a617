"""Asks models about the texts of the ballots, for the strategies that decide by what models say about them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, TypeVar

from ensemble.errors import InvalidRequestError, MemberError
from ensemble.generation import (
    EmbeddingRequest,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.router.ports import MemberClient
from ensemble.voting.ballot import Ballot, Vote, Voter
from ensemble.voting.strategy import Evidence, SecondRound
from ensemble.voting.texts import distinct_texts

_log = logging.getLogger(__name__)

MAX_SHOWN_CHARACTERS = 2_000
"""What the judge and the fuser see of one text; the rest is cut, and the cut is marked."""
MAX_ORDERS = 4
"""Orders in which a judge sees the texts: up to so many texts, each stands once at every letter."""

# Whoever writes a text can write "choose A" into it. Nothing here can exclude that a judge or a fuser obeys: give
# these parts to models that resist it, and do not judge texts of members that others can steer.
_JUDGE_PROMPT = """{prompt}

Here are {num_texts} answers to this, each under a letter.

{texts}

Which letter has the best answer: the one that is right, complete and clear?"""
_FUSER_PROMPT = """Several writers have each answered the request below. Their answers may be wrong, partial or biased.
Write one answer that is better than any of theirs: keep what is right, mend or leave out what is wrong, add nothing
that you cannot support, and do not speak of the writers or their answers.

Request:
{prompt}

{texts}

The one better answer to the request:"""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A request whose ballots are in: ``votes`` as the tally counted them, and how the fuser shall write."""

    request_id: str
    prompt: str
    panel: tuple[Voter, ...]
    votes: tuple[Vote, ...]
    parameters: GenerationParameters = field(default_factory=GenerationParameters)

    @property
    def texts(self) -> tuple[str, ...]:
        """The distinct texts of the ballots, in the panel's order."""
        return distinct_texts(self.votes, self.panel)

    @property
    def voters(self) -> tuple[str, ...]:
        """The members that cast a ballot, in the panel's order."""
        cast = {vote.member for vote in self.votes if isinstance(vote, Ballot)}
        return tuple(voter.member for voter in self.panel if voter.member in cast)


async def gather_evidence(
    kind: SecondRound, inquiry: Inquiry, *, clients: Mapping[str, MemberClient], assistant: str, timeout_s: float
) -> Evidence:
    """Ask models about the distinct texts of the ballots; about one text alone nobody is asked.

    ``assistant`` is the member that embeds, judges or fuses; it need not be on the panel. For SCORE_TEXTS it is not
    used: everyone who cast a ballot is asked, and who fails is left out of the evidence.

    Raises:
        InvalidRequestError: the ensemble has no such assistant, or there are more texts than a judge has letters.
        MemberError: the assistant failed, or all who were to score did (any kind of it, a timeout for one). A vote
            without its second round would be another vote, so there is no fallback.
    """
    texts = inquiry.texts
    if len(texts) < 2:
        return Evidence(texts=texts, fused="".join(texts) if kind is SecondRound.FUSE else "")
    if kind is SecondRound.SCORE_TEXTS:
        return await _score_texts(inquiry, clients, timeout_s)
    if assistant not in clients:
        problem = f"its second round ({kind}) needs a member for it and {assistant or 'none'!r} is named"
        raise InvalidRequestError("options.strategy", problem, "name one in the ensemble's assistants, or ask for mbr")
    helper = _Assistant(name=assistant, client=clients[assistant], timeout_s=timeout_s)
    match kind:
        case SecondRound.EMBED:
            return await _embed(inquiry, helper)
        case SecondRound.JUDGE:
            return await _judge(inquiry, helper)
        case SecondRound.FUSE:
            return await _fuse(inquiry, helper)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assistant:
    """A member to ask, and how long."""

    name: str
    client: MemberClient
    timeout_s: float

    async def score(self, request: ScoringRequest) -> tuple[float, ...]:
        """Get one finite log-probability a choice."""
        scores = await _not_cut_off(self.name, self.client.score(request, timeout_s=self.timeout_s))
        if len(scores.logprobs) != len(request.choices) or not all(map(math.isfinite, scores.logprobs)):
            raise MemberError(self.name, f"it gave no finite log-probability for each of {len(request.choices)} texts")
        return scores.logprobs


async def _score_texts(inquiry: Inquiry, clients: Mapping[str, MemberClient], timeout_s: float) -> Evidence:
    request = ScoringRequest(request_id=f"{inquiry.request_id}/rank", prompt=inquiry.prompt, choices=inquiry.texts)
    failures: list[MemberError] = []

    async def score(member: str) -> tuple[float, ...] | None:
        try:
            return await _Assistant(name=member, client=clients[member], timeout_s=timeout_s).score(request)
        except MemberError as error:
            _log.info("request %s: %s does not rank: %s", inquiry.request_id, member, error.problem)
            failures.append(error)
            return None

    scores = await _all_of([score(member) for member in inquiry.voters])
    logprobs_by_scorer = {
        member: logprobs for member, logprobs in zip(inquiry.voters, scores, strict=True) if logprobs is not None
    }
    if not logprobs_by_scorer:
        raise MemberError(", ".join(inquiry.voters), f"none could score the texts ({failures[0].problem})")
    return Evidence(texts=inquiry.texts, logprobs_by_scorer=logprobs_by_scorer)


async def _embed(inquiry: Inquiry, embedder: _Assistant) -> Evidence:
    request = EmbeddingRequest(request_id=f"{inquiry.request_id}/embed", texts=inquiry.texts)
    call = embedder.client.embed(request, timeout_s=embedder.timeout_s)
    vectors = (await _not_cut_off(embedder.name, call)).vectors
    is_sound = len(vectors) == len(request.texts) and len({len(vector) for vector in vectors}) == 1
    # An inner product with itself: neither 0 nor anything but a number may come out.
    if not is_sound or not all(0.0 < math.hypot(*vector) < math.inf for vector in vectors):
        raise MemberError(
            embedder.name, f"it gave no finite vector of one length for each of {len(request.texts)} texts"
        )
    return Evidence(texts=inquiry.texts, source=embedder.name, embeddings=vectors)


async def _judge(inquiry: Inquiry, judge: _Assistant) -> Evidence:
    """Let the judge see the texts in several orders and average its log-probabilities text by text.

    Judges favour places and letters (Zheng et al. 2023, arXiv:2306.05685). The orders are rotations of one that only
    the texts fix, so the panel's order is no advantage; where every text stands at every letter once, what the judge
    adds to a letter's log-probability for being that letter cancels.
    """
    texts = inquiry.texts
    if len(texts) > len(ascii_uppercase):
        problem = f"{len(texts)} different texts are more than the {len(ascii_uppercase)} a judge can compare"
        raise InvalidRequestError("options.panel", problem, "ask fewer members, or another strategy")
    letters = tuple(ascii_uppercase[: len(texts)])
    orders = _rotations(sorted(texts, key=_fixed_place))
    requests = [
        ScoringRequest(
            request_id=f"{inquiry.request_id}/judge-{n}",
            prompt=_worded(_JUDGE_PROMPT, inquiry.prompt, order, letters, mark="({})"),
            choices=letters,
        )
        for n, order in enumerate(orders)
    ]
    verdicts = await _all_of([judge.score(request) for request in requests])
    seen = [dict(zip(order, logprobs, strict=True)) for order, logprobs in zip(orders, verdicts, strict=True)]
    verdict = tuple(math.fsum(by_text[text] for by_text in seen) / len(seen) for text in texts)
    return Evidence(texts=texts, source=judge.name, verdict=verdict)


async def _fuse(inquiry: Inquiry, fuser: _Assistant) -> Evidence:
    order = sorted(inquiry.texts, key=_fixed_place)
    numbers = [str(n) for n in range(1, len(order) + 1)]
    request = GenerationRequest(
        request_id=f"{inquiry.request_id}/fuse",
        prompt=_worded(_FUSER_PROMPT, inquiry.prompt, order, numbers, mark="Answer {}:"),
        parameters=inquiry.parameters,
        needs_logprob=False,
    )
    completion = await _not_cut_off(fuser.name, fuser.client.complete(request, timeout_s=fuser.timeout_s))
    fused = completion.text.strip()
    if completion.finish_reason is FinishReason.ABORT or not fused:
        raise MemberError(fuser.name, "it wrote nothing from the texts")
    return Evidence(texts=inquiry.texts, source=fuser.name, fused=fused)


def _fixed_place(text: str) -> bytes:
    """Give a place that depends on nothing but the text and favours no kind of text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _rotations(texts: Sequence[str]) -> list[tuple[str, ...]]:
    num_orders = min(len(texts), MAX_ORDERS)
    firsts = [n * len(texts) // num_orders for n in range(num_orders)]
    return [(*texts[first:], *texts[:first]) for first in firsts]


def _worded(template: str, prompt: str, texts: Sequence[str], marks: Sequence[str], *, mark: str) -> str:
    shown = "\n\n".join(f"{mark.format(name)} {_cut(text)}" for name, text in zip(marks, texts, strict=True))
    # str.format reads the template alone: braces in what it puts in are text.
    return template.format(prompt=prompt, num_texts=len(texts), texts=shown)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]} [...]"


async def _all_of(calls: Sequence[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """Run calls together; the first member that fails cancels the others, and its error is raised itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        if isinstance(first, MemberError):
            raise first from None
        raise
    return [task.result() for task in tasks]


async def _not_cut_off(member: str, call: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await a call; a connection that closes under it cancels it, which is the member's failure and not ours."""
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise MemberError(member, "its call was cut off") from None
