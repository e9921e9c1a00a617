"""What a reading says of tokens and words is what plain transformers and plain counting say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from ensemble.errors import CheckpointError, ConfigError
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.measure_text import compare_text, measure_text
from ensemble.variants.passages import load_judging_text
from ensemble.variants.text_reader import TextReader
from ensemble.variants.text_reading import TextReading, measure_decoding_drift, read_text
from tests.checkpoints.tiny_models import build_gemma3, build_llama, build_tokenizer, save
from tests.engines.tiny_classifiers import bert_config, save_classifier

CPU = EngineSetup(device="cpu", threads=1)
PASSAGES = load_judging_text().passages[:4]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(build_llama(), tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> str:
    model: Any = build_llama()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.05)
    return save(model, tmp_path_factory.mktemp("variant"))


def read(reference: str, passages: tuple[str, ...] = PASSAGES, **options: Any) -> TextReading:
    return read_text(TextReader.load(reference, CPU), passages, **options)


def logprobs_plainly(reference: str, passage: str) -> tuple[torch.Tensor, torch.Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(reference)
    tokens = AutoTokenizer.from_pretrained(reference)(passage, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(tokens).logits[0, :-1].log_softmax(-1), tokens[0, 1:]


def test_perplexity_is_that_of_plain_transformers(original: str) -> None:
    figures = measure_text(read(original))

    surprises = []
    for passage in PASSAGES:
        logprobs_TV, token_T = logprobs_plainly(original, passage)
        surprises += [-logprobs_TV[place, token].item() for place, token in enumerate(token_T)]
    assert figures.num_tokens == len(surprises)
    assert figures.perplexity.value == pytest.approx(math.exp(sum(surprises) / len(surprises)), rel=1e-4)
    assert figures.perplexity.interval.low < figures.perplexity.value < figures.perplexity.interval.high


def test_agreement_and_divergence_are_those_of_the_plain_distributions(original: str, variant: str) -> None:
    reader = TextReader.load(original, CPU, keep_bytes=10**6)
    first = read_text(reader, PASSAGES)

    compared = compare_text(read(variant, original=reader), first)

    same, divergences, dearer = [], [], []
    for passage in PASSAGES:
        (theirs, token_T), (ours, _) = logprobs_plainly(original, passage), logprobs_plainly(variant, passage)
        same += (theirs.argmax(-1) == ours.argmax(-1)).tolist()
        divergences += torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1).tolist()
        dearer += (theirs - ours).gather(1, token_T[:, None])[:, 0].tolist()
    assert 0.0 < compared.agreement.value < 1.0
    assert compared.agreement.value == pytest.approx(np.mean(same))
    assert compared.kl.value == pytest.approx(np.mean(divergences), rel=1e-4)
    assert compared.perplexity_ratio.value == pytest.approx(math.exp(np.mean(dearer)), rel=1e-4)


def test_a_model_beside_itself_differs_in_nothing(original: str) -> None:
    reader = TextReader.load(original, CPU, keep_bytes=2**30)
    reading = read_text(reader, PASSAGES)

    compared = compare_text(read_text(reader, PASSAGES, original=reader), reading)

    assert compared.agreement.value == compared.perplexity_ratio.value == 1.0
    assert compared.kl.value == 0.0


def test_bits_per_byte_count_the_words_that_were_predicted_whole(original: str) -> None:
    passages = ("The river was high.", "By noon it had covered the meadow")

    figures = measure_text(read(original, passages))

    # Nothing predicts a passage's first word; the tokenizer's words end at spaces and before a full stop.
    bits, num_bytes = 0.0, len(" river was high.") + len(" noon it had covered the meadow")
    for passage in passages:
        logprobs_TV, token_T = logprobs_plainly(original, passage)
        bits -= logprobs_TV.gather(1, token_T[:, None]).sum().item() / math.log(2)
    assert figures.bits_per_byte.value == pytest.approx(bits / num_bytes, rel=1e-4)


def test_a_word_is_right_when_all_of_its_tokens_are(original: str) -> None:
    reading = read(original, ("The river was high. By noon",))
    right = replace(reading, likeliest_N=reading.token_N)
    wrong_stop = reading.token_N.copy()
    wrong_stop[3] = -1  # the full stop after "high"

    almost = replace(reading, likeliest_N=wrong_stop)

    np.testing.assert_array_equal(right.word_is_right_W, [np.nan, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(almost.word_is_right_W, [np.nan, 1, 1, 0, 1, 1])


def test_a_bos_token_predicts_the_first_word(tmp_path: Path) -> None:
    build_gemma3().save_pretrained(tmp_path)
    tokenizer: Any = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
    )
    tokenizer.save_pretrained(tmp_path)

    reading = read(str(tmp_path), ("The river was high.",))

    assert reading.token_N.tolist() == tokenizer("The river was high.").input_ids[1:]
    assert reading.is_whole_W.all()


def test_what_is_beyond_the_context_is_left_out_and_the_cut_word_is_not_whole(original: str) -> None:
    reader = TextReader.load(original, CPU)
    reader.max_context = 4

    reading = read_text(reader, ("The river was high. By noon",))

    assert reading.token_N.size == 3
    assert reading.is_whole_W.tolist() == [False, True, True, False, False, False]


def test_reading_in_pieces_gives_the_same_and_a_kernel_for_few_rows_shows(
    original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = TextReader.load(original, CPU)
    same = measure_decoding_drift(reader, PASSAGES[0])
    multiply = torch.ops.mkldnn._linear_pointwise

    def round_few_rows(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        product: torch.Tensor = multiply(hidden, *rest)
        return product.round(decimals=1) if hidden.shape[-2] <= 8 else product

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", round_few_rows)

    assert same == pytest.approx(0.0, abs=1e-5)
    assert measure_decoding_drift(reader, PASSAGES[0]) > 1e-3


def test_another_tokenizers_original_is_refused(original: str, tmp_path: Path) -> None:
    other = save(build_llama(), tmp_path)
    reader = TextReader.load(other, CPU)
    reader.tokenizer.add_tokens(["river"])
    reader.num_tokens += 1

    with pytest.raises(ConfigError, match="not those of its original"):
        read(original, ("The river was high.",), original=reader)


def test_a_token_that_the_model_lacks_is_refused(original: str) -> None:
    reader = TextReader.load(original, CPU)
    reader.tokenizer.add_tokens(["Xylophon"])

    with pytest.raises(ConfigError, match="the text has token 500"):
        read_text(reader, ("The Xylophon was high.",))


def test_a_classifier_reads_no_text(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a classifier continues no text"):
        TextReader.load(save_classifier(tmp_path, bert_config()), CPU)
