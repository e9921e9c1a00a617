"""A comparison measures what it can of every checkpoint, and says why the rest is not there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.calibration.items import LabelledItem
from ensemble.errors import ConfigError
from ensemble.variants.compare import compare_variants
from ensemble.variants.compare_task import CompareTask
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.figures import ComparisonFigures, VariantFigures
from ensemble.variants.lineage import load_candidate, trace_families
from ensemble.variants.measure_speed import SpeedTask
from ensemble.variants.passages import load_judging_text
from ensemble.variants.report import comparison_to_json, evaluation_of, render_report
from tests.checkpoints.tiny_models import build_gemma3, save
from tests.engines.tiny_classifiers import LABELS, bert_config, save_classifier
from tests.variants.made_models import save_original, save_variant, write_record

WORDS = ("river", "moon", "bread", "town")
ITEMS = tuple(
    LabelledItem(item_id=str(n), prompt=f"the {WORDS[n % 4]} and the {WORDS[n % 3]}", choices=WORDS, answer=n % 4)
    for n in range(12)
)
SETUP = EngineSetup(device="cpu", threads=1, max_context=256)


def task_for(originals: list[str], variants: list[str], **more: object) -> CompareTask:
    families = trace_families(
        [load_candidate("", one) for one in originals], [load_candidate("", one) for one in variants]
    )
    task = CompareTask(families=families, text=load_judging_text(max_passages=4), setup=SETUP, speed=None)
    return replace(task, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> ComparisonFigures:
    folder = tmp_path_factory.mktemp("family")
    base = save_original(folder / "base")
    close = save_variant(folder / "close", base, noise=0.001)
    # A copy whose weights the embedded engine does not know how to read.
    foreign = Path(shutil.copytree(base, folder / "foreign"))
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "martian"}}))
    write_record(foreign, base)
    return compare_variants(
        task_for(
            [base],
            [close, str(foreign)],
            items=ITEMS,
            scorings=("mean_logprob", "sum_logprob"),
            speed=SpeedTask(prompt_words=20, max_tokens=5, batches=(1, 2)),
            num_rounds=2,
        )
    )


def of(figures: ComparisonFigures, name: str) -> VariantFigures:
    return next(one for one in figures.variants if one.name == name)


def test_a_variant_has_every_figure_beside_its_original(compared: ComparisonFigures) -> None:
    base, close = of(compared, "base"), of(compared, "close")

    assert (base.is_original, base.beside, close.is_original) == (True, None, False)
    assert close.beside is not None
    assert 0.8 < close.beside.agreement.value < 1.0
    assert 0.0 < close.beside.kl.value < 0.1
    assert close.items is not None
    assert (close.items.num_items, close.items.num_abstained) == (12, 0)
    assert close.items.choice_agreement is not None
    assert [(speed.phase, speed.batch) for speed in close.speeds] == [
        ("prefill", 1),
        ("decode", 1),
        ("prefill", 2),
        ("decode", 2),
    ]
    assert all(speed.speedup and speed.cpu_speedup for speed in close.speeds)
    assert not any(speed.speedup for speed in base.speeds)
    assert close.sizes.file_bytes == base.sizes.file_bytes
    assert close.sizes.resident_bytes is not None
    assert close.missing == ()


def test_a_checkpoint_that_the_engine_cannot_run_has_its_size_and_the_reasons(compared: ComparisonFigures) -> None:
    foreign = of(compared, "foreign")

    assert (foreign.text, foreign.beside, foreign.items, foreign.speeds) == (None, None, None, ())
    assert foreign.sizes.file_bytes == of(compared, "base").sizes.file_bytes
    assert foreign.sizes.resident_bytes is None
    assert [reason.partition(":")[0] for reason in foreign.missing] == [
        "no figures on text",
        "no speeds, choices and resident memory",
    ]


def test_each_scoring_makes_a_voter_and_siblings_that_err_alike_are_named(compared: ComparisonFigures) -> None:
    texts, items = compared.diversity

    assert texts.names == ("base", "close")
    assert items.names == ("base", "base by sum_logprob", "close", "close by sum_logprob")
    assert ("base", "close") in [(pair.first, pair.second) for pair in compared.clones]
    assert compared.panel is not None
    assert "12 items are too few" in compared.panel.problem


def test_the_report_and_the_json_say_the_same(compared: ComparisonFigures) -> None:
    document = json.loads(json.dumps(comparison_to_json(compared), allow_nan=False))
    page = render_report(compared)

    by_name = {one["name"]: one for one in document["variants"]}
    assert by_name["close"]["beside"]["kl"]["value"] == of(compared, "close").beside.kl.value  # type: ignore[union-attr]
    assert document["conditions"]["num_passages"] == 4
    assert page.count("<svg") == 5
    assert 'src="http' not in page
    assert "martian" in page
    for remark in compared.remarks:
        assert remark in page


def test_what_is_kept_with_a_checkpoint_has_its_original_beside_it(compared: ComparisonFigures) -> None:
    kept = json.loads(json.dumps(evaluation_of(compared, "close"), allow_nan=False))

    assert (kept["variant"]["name"], kept["original"]["name"]) == ("close", "base")
    assert evaluation_of(compared, "base")["original"] is None


def test_families_with_other_tokenizers_are_compared_by_bits_and_words(tmp_path: Path) -> None:
    base, other = save_original(tmp_path / "base"), save(build_gemma3(), tmp_path / "gemma")
    variant = save_variant(tmp_path / "close", base, noise=0.001)
    tokenizer = json.loads((tmp_path / "gemma" / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "gemma" / "tokenizer.json").write_text(json.dumps(tokenizer))

    figures = compare_variants(task_for([base, other], [variant]))

    assert figures.families == ("base", "gemma")
    assert [one.name for one in figures.variants] == ["base", "close", "gemma"]
    assert figures.diversity[0].unit == "next word"
    assert "bits per byte" in render_report(figures)
    assert figures.panel is None


def test_a_classifier_has_choices_and_no_text(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", bert_config())
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    write_record(copy, base)
    items = tuple(LabelledItem(item_id=str(n), prompt=f"w{n} w{2 * n}", choices=LABELS, answer=n % 3) for n in range(6))

    figures = compare_variants(task_for([base], [str(copy)], items=items, speed=SpeedTask()))

    twin = of(figures, "copy")
    assert (twin.text, twin.speeds) == (None, ())
    assert twin.items is not None
    assert twin.items.choice_agreement is not None
    assert twin.items.choice_agreement.value == 1.0
    assert any("a classifier continues no text" in reason for reason in twin.missing)


def test_text_that_a_variants_steps_have_read_is_refused(tmp_path: Path) -> None:
    base = save_original(tmp_path / "base")
    text = load_judging_text(max_passages=4)
    variant = save_variant(tmp_path / "tuned", base, text_digests=text.digests)

    with pytest.raises(ConfigError, match="tuned was made with the text that it would be judged by"):
        compare_variants(task_for([base], [variant]))


def test_a_bos_token_is_for_families_that_are_there(tmp_path: Path) -> None:
    base = save_original(tmp_path / "base")

    with pytest.raises(ConfigError, match="'bas' is no original"):
        compare_variants(task_for([base], [], bos_families=frozenset({"bas"})))
