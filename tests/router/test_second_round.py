"""The second round asks models about the texts, and none of its failures is silent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from ensemble.errors import InvalidRequestError, MemberError, MemberTimeoutError, MemberUnavailableError
from ensemble.generation import ChoiceScores, FinishReason, GenerationParameters, ScoringRequest
from ensemble.router.second_round import MAX_SHOWN_CHARACTERS, Inquiry, gather_evidence
from ensemble.voting import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.strategy import Evidence, SecondRound
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, closed

TEXTS = ("ant", "bee", "cow")


def inquiry(texts: Sequence[str | None], **changes: object) -> Inquiry:
    """Ask about what m0, m1, ... wrote; None abstained."""
    votes: list[Vote] = [
        Abstention(member=f"m{n}", reason=AbstentionReason.ERROR)
        if words is None
        else Ballot(member=f"m{n}", text=words)
        for n, words in enumerate(texts)
    ]
    asked = Inquiry(
        request_id="r",
        prompt="Which {animal}?",
        panel=tuple(Voter(member=f"m{n}", family="f") for n in range(len(texts))),
        votes=tuple(reversed(votes)),
    )
    return replace(asked, **changes)  # type: ignore[arg-type]


async def gather(
    kind: SecondRound, asked: Inquiry, clients: Mapping[str, FakeMemberClient], assistant: str = "helper"
) -> Evidence:
    return await gather_evidence(kind, asked, clients=clients, assistant=assistant, timeout_s=LONG_S)


@pytest.mark.parametrize("kind", SecondRound)
async def test_about_one_text_nobody_is_asked(kind: SecondRound) -> None:
    clients = {name: FakeMemberClient(error=MemberError(name, "asked")) for name in ("m0", "m1", "m2", "helper")}

    evidence = await gather(kind, inquiry(["ant", " ant\n", None]), clients)

    assert evidence == Evidence(texts=("ant",), fused="ant" if kind is SecondRound.FUSE else "")
    assert not any(client.timeouts_s for client in clients.values())


async def test_everyone_with_a_ballot_scores_every_text() -> None:
    clients = {f"m{n}": FakeMemberClient(probabilities=(0.5, 0.25 / (n + 1))) for n in range(3)}

    evidence = await gather(SecondRound.SCORE_TEXTS, inquiry(["ant", None, "bee"]), clients, assistant="")

    assert evidence.texts == ("ant", "bee")
    assert evidence.logprobs_by_scorer == {
        "m0": pytest.approx((math.log(0.5), math.log(0.25))),
        "m2": pytest.approx((math.log(0.5), math.log(0.25 / 3))),
    }
    assert clients["m0"].scorings == [
        ScoringRequest(request_id="r/rank", prompt="Which {animal}?", choices=("ant", "bee"))
    ]
    assert clients["m0"].timeouts_s == [LONG_S]
    assert not clients["m1"].scorings


async def test_scorers_are_asked_at_once() -> None:
    clients = {f"m{n}": FakeMemberClient(probabilities=(0.5, 0.5), gate=closed()) for n in range(2)}

    call = asyncio.create_task(gather(SecondRound.SCORE_TEXTS, inquiry(["ant", "bee"]), clients))
    for client in clients.values():
        await client.asked.wait()
    for client in clients.values():
        client.gate.set()

    assert set((await call).logprobs_by_scorer) == {"m0", "m1"}


async def test_a_scorer_that_fails_is_left_out() -> None:
    clients = {
        "m0": FakeMemberClient(error=MemberTimeoutError("m0", "it was late")),
        "m1": FakeMemberClient(probabilities=(0.5, 0.25)),
        "m2": FakeMemberClient(probabilities=(0.5,)),
    }

    evidence = await gather(SecondRound.SCORE_TEXTS, inquiry(["ant", "bee", "bee"]), clients)

    assert set(evidence.logprobs_by_scorer) == {"m1"}


async def test_no_scorer_at_all_is_an_error_with_a_reason() -> None:
    clients = {name: FakeMemberClient(error=MemberUnavailableError(name, "it is down")) for name in ("m0", "m1")}

    with pytest.raises(MemberError, match=r"m0, m1: none could score the texts \(it is down\)"):
        await gather(SecondRound.SCORE_TEXTS, inquiry(["ant", "bee"]), clients)


async def test_the_embedder_gives_a_vector_a_text() -> None:
    helper = FakeMemberClient(vectors=((1.0, 0.0), (0.6, 0.8)))

    evidence = await gather(SecondRound.EMBED, inquiry(["bee", "ant", "bee"]), {"helper": helper})

    assert evidence == Evidence(texts=("bee", "ant"), source="helper", embeddings=((1.0, 0.0), (0.6, 0.8)))
    assert helper.embeddings[0].texts == ("bee", "ant")


async def test_short_answers_are_embedded_as_they_were_read() -> None:
    helper = FakeMemberClient(vectors=((1.0, 0.0), (0.6, 0.8)))
    votes = (
        Ballot(member="m0", text="The answer is Lion.", choice="lion"),
        Ballot(member="m1", text="a big cat", choice="big cat"),
    )

    evidence = await gather(SecondRound.EMBED, inquiry(["", ""], votes=votes), {"helper": helper})

    assert evidence.texts == ("lion", "big cat")


@pytest.mark.parametrize(
    "vectors", [(), ((1.0, 0.0),), ((1.0,), (1.0, 0.0)), ((1.0,), (0.0,)), ((1.0,), (math.nan,)), ((), ())]
)
async def test_embeddings_that_say_nothing_are_the_embedders_failure(vectors: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(MemberError, match=r"member helper: it gave no finite vector .* each of 2 texts"):
        await gather(SecondRound.EMBED, inquiry(["ant", "bee"]), {"helper": FakeMemberClient(vectors=vectors)})


class Partial(FakeMemberClient):
    """A judge with a liking for letters, and one for texts."""

    async def score(self, request: ScoringRequest, *, timeout_s: float) -> ChoiceScores:
        self.scorings.append(request)
        for_letter = {"A": 3.0, "B": -1.0, "C": 0.5, "D": 0.0}
        for_text = {"ant": -1.0, "bee": -1.25, "cow": -0.75, "dog": -2.0}
        shown = shown_texts(request)
        logits = [for_letter[letter] + for_text[shown[letter]] for letter in request.choices]
        total = math.log(math.fsum(map(math.exp, logits)))
        return ChoiceScores(
            logprobs=tuple(logit - total for logit in logits), num_tokens=(1,) * len(logits), prompt_tokens=1
        )


def shown_texts(request: ScoringRequest) -> dict[str, str]:
    return {line[1]: line[4:] for line in request.prompt.splitlines() if line[:1] == "(" and line[2:4] == ") "}


@pytest.mark.parametrize("texts", [("ant", "bee"), TEXTS, (*TEXTS, "dog")])
async def test_a_judges_liking_for_a_letter_cancels(texts: tuple[str, ...]) -> None:
    judge = Partial()

    evidence = await gather(SecondRound.JUDGE, inquiry(texts), {"helper": judge})

    verdict = dict(zip(evidence.texts, evidence.verdict, strict=True))
    assert evidence.source == "helper"
    assert verdict["ant"] - verdict["bee"] == pytest.approx(0.25)
    if "cow" in verdict:
        assert verdict["cow"] - verdict["ant"] == pytest.approx(0.25)
    places = {
        words: {letter for r in judge.scorings for letter, seen in shown_texts(r).items() if seen == words}
        for words in texts
    }
    assert all(letters == set("ABCD"[: len(texts)]) for letters in places.values())


async def test_the_panels_order_does_not_show_in_what_the_judge_sees() -> None:
    one, other = Partial(), Partial()

    await gather(SecondRound.JUDGE, inquiry(TEXTS), {"helper": one})
    await gather(SecondRound.JUDGE, inquiry(TEXTS[::-1]), {"helper": other})

    assert one.scorings == other.scorings
    assert all("Which {animal}?" in request.prompt for request in one.scorings)


async def test_a_long_text_is_cut_where_the_judge_sees_it_and_whole_in_the_evidence() -> None:
    long_text = "x" * (MAX_SHOWN_CHARACTERS + 1)
    judge = FakeMemberClient(probabilities=(0.5, 0.5))

    evidence = await gather(SecondRound.JUDGE, inquiry([long_text, "ant"]), {"helper": judge})

    assert evidence.texts == (long_text, "ant")
    assert f") {'x' * MAX_SHOWN_CHARACTERS} [...]\n" in judge.scorings[0].prompt


async def test_more_texts_than_letters_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="27 different texts are more than the 26"):
        await gather(SecondRound.JUDGE, inquiry([str(n) for n in range(27)]), {"helper": Partial()})


async def test_a_judge_that_fails_in_one_order_fails() -> None:
    judge = FakeMemberClient(error=MemberTimeoutError("helper", "it was late"))

    with pytest.raises(MemberTimeoutError, match="member helper: it was late"):
        await gather(SecondRound.JUDGE, inquiry(TEXTS), {"helper": judge})


async def test_a_judge_without_a_number_a_letter_fails() -> None:
    with pytest.raises(MemberError, match="member helper: it gave no finite log-probability for each of 3"):
        await gather(SecondRound.JUDGE, inquiry(TEXTS), {"helper": FakeMemberClient(probabilities=(0.5, 0.5))})


async def test_the_fuser_reads_every_text_and_writes_as_the_request_asks() -> None:
    fuser = FakeMemberClient(text=" Ants and bees.\n")
    parameters = GenerationParameters(max_tokens=7, stop=("##",))

    evidence = await gather(SecondRound.FUSE, inquiry(["ant", "{bee}"], parameters=parameters), {"helper": fuser})

    assert evidence == Evidence(texts=("ant", "{bee}"), source="helper", fused="Ants and bees.")
    (request,) = fuser.generations
    assert request.parameters == parameters
    assert all(words in request.prompt for words in ("Which {animal}?", "ant", "{bee}"))


@pytest.mark.parametrize(("words", "reason"), [(" ", FinishReason.STOP), ("half a", FinishReason.ABORT)])
async def test_a_fuser_that_writes_nothing_fails(words: str, reason: FinishReason) -> None:
    fuser = FakeMemberClient(text=words, finish_reason=reason)

    with pytest.raises(MemberError, match="member helper: it wrote nothing"):
        await gather(SecondRound.FUSE, inquiry(["ant", "bee"]), {"helper": fuser})


@pytest.mark.parametrize("kind", [SecondRound.EMBED, SecondRound.JUDGE, SecondRound.FUSE])
@pytest.mark.parametrize("assistant", ["", "ghost"])
async def test_a_missing_assistant_is_the_requests_fault(kind: SecondRound, assistant: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"options\.strategy: .* needs a member for it"):
        await gather(kind, inquiry(["ant", "bee"]), {"helper": FakeMemberClient()}, assistant)


@pytest.mark.parametrize("kind", [SecondRound.EMBED, SecondRound.JUDGE, SecondRound.FUSE])
async def test_a_call_that_is_cut_off_is_the_members_failure(kind: SecondRound) -> None:
    helper = FakeMemberClient(error=asyncio.CancelledError())  # type: ignore[arg-type]

    with pytest.raises(MemberError, match="member helper: its call was cut off"):
        await gather(kind, inquiry(["ant", "bee"]), {"helper": helper})


@pytest.mark.parametrize("kind", SecondRound)
async def test_cancelling_the_round_cancels_every_call(kind: SecondRound) -> None:
    clients = {name: FakeMemberClient(gate=closed()) for name in ("m0", "m1", "helper")}

    call = asyncio.create_task(gather(kind, inquiry(["ant", "bee"]), clients))
    asked = [clients["m0"], clients["m1"]] if kind is SecondRound.SCORE_TEXTS else [clients["helper"]]
    for client in asked:
        await client.asked.wait()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert all(client.num_cancelled and not client.num_under_way for client in asked)
