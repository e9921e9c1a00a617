"""Tokens that come at once give the text that they give one by one."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ensemble.engines.detokenizer import Detokenizer
from ensemble.engines.jobs import GenerationJob
from ensemble.generation import FinishReason, GenerationParameters, GenerationRequest

EOS = 256


@pytest.fixture(scope="module")
def byte_decoder() -> Tokenizer:
    """Every token is a byte, the next one ends a text, and those above are words with a space in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġthe", "Ġcat", "Ġsat"]
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "</s>", *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def encode(decoder: Tokenizer, text: str) -> list[int]:
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    vocabulary = decoder.get_vocab()
    return [vocabulary[symbol] for piece, _ in spelled for symbol in piece]


def one_by_one(decoder: Tokenizer, prompt: list[int], tokens: list[int]) -> str:
    detokenizer = Detokenizer(decoder, prompt)
    return "".join(map(detokenizer.push, tokens)) + detokenizer.flush()


@pytest.mark.parametrize(
    "text", ["a plain text of some length, and more", "naïve 日本語 🙂 text 🙂🙂🙂🙂🙂🙂", "short", "🙂"]
)
@pytest.mark.parametrize("num_cut", [0, 1, 2, 3])
def test_pieces_of_any_size_give_the_same_text(byte_decoder: Tokenizer, text: str, num_cut: int) -> None:
    prompt = encode(byte_decoder, "before: ")
    tokens = encode(byte_decoder, text)
    tokens = tokens[: len(tokens) - num_cut]

    for size in range(1, len(tokens) + 1):
        detokenizer = Detokenizer(byte_decoder, prompt)
        pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        whole = "".join(map(detokenizer.push_all, pieces)) + detokenizer.flush()
        assert whole == one_by_one(byte_decoder, prompt, tokens), size


def test_bytes_of_no_character_give_the_same_text(byte_decoder: Tokenizer) -> None:
    chance = random.Random(0)
    for _ in range(200):
        tokens = [chance.randrange(256) for _ in range(chance.randrange(1, 60))]
        detokenizer = Detokenizer(byte_decoder, [])

        assert detokenizer.push_all(tokens) + detokenizer.flush() == one_by_one(byte_decoder, [], tokens)


@pytest.mark.parametrize("stop", [(), ("cat",), ("🙂 t",)])
@pytest.mark.parametrize("eos_after", [None, 0, 5, 30])
@pytest.mark.parametrize("max_tokens", [1, 12, 200])
def test_a_completion_in_pieces_is_the_completion_token_by_token(
    byte_decoder: Tokenizer, stop: tuple[str, ...], eos_after: int | None, max_tokens: int
) -> None:
    tokens = encode(byte_decoder, "the cat sat 🙂 there, and the other cat 🙂 then sat, too, on the mat 🙂")
    if eos_after is not None:
        tokens.insert(eos_after, EOS)
    tokens = tokens[:max_tokens]
    logprobs = [-0.25 * (number % 7) for number in range(len(tokens))]

    def begin() -> GenerationJob:
        parameters = GenerationParameters(max_tokens=max_tokens, stop=stop)
        job = GenerationJob(request=GenerationRequest(request_id="1", prompt="", parameters=parameters))
        job.begin([], decoder=byte_decoder, eos_tokens=frozenset({EOS}), max_context=1_000)
        return job

    def read(size: int) -> tuple[str, int, float, FinishReason | None, bool]:
        job, text, reason = begin(), "", None
        for start in range(0, len(tokens), size):
            if not job.is_finished:
                chunk = job.accept_all(tokens[start : start + size], logprobs[start : start + size])
                if chunk is not None:
                    text, reason = text + chunk.text, chunk.finish_reason
        return text, job.completion_tokens, job.logprob, reason, job.is_finished

    singly = read(1)
    for size in (2, 9, 10, 40, len(tokens)):
        assert read(size) == singly, size
