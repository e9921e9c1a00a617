"""What a fused group is refused for before it serves, and what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ensemble import checkpoints
from ensemble.engines.config import FusedEngineConfig
from ensemble.errors import CheckpointError
from ensemble.fingerprint import fingerprint
from ensemble.spec_file import load_spec
from tests.engines.embedded_runs import make_prompt, text_of
from tests.engines.fused_runs import complete_plainly, fused_config, running_fused
from tests.engines.tiny_checkpoints import PARROT_TEXT, save_parrot, save_random_llama
from tests.engines.tiny_classifiers import gpt2_config, save_classifier


def _edit_tokenizer(folder: str, edit: Any) -> None:
    path = Path(folder, "tokenizer.json")
    content = json.loads(path.read_text("utf-8"))
    edit(content)
    path.write_text(json.dumps(content), "utf-8")


async def _refusal(*checkpoints: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        async with running_fused(checkpoints):
            pass
    return caught.value


async def test_another_vocabulary_is_refused_with_figures(tmp_path: Path) -> None:
    first = save_random_llama(tmp_path / "first")
    other = save_random_llama(tmp_path / "other", num_words=150)

    refusal = await _refusal(first, other)

    assert refusal.where == other
    assert f"not that of {first}" in refusal.problem
    assert "50 of 203 tokens differ (number 153 is None, not 'w150')" in refusal.problem


async def test_no_weights_are_loaded_for_a_group_without_a_common_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda *parts, **_: loaded.append(parts))
    first = save_random_llama(tmp_path / "first")
    other = save_random_llama(tmp_path / "other", num_words=150)

    refusal = await _refusal(first, other)

    assert (refusal.where, loaded) == (other, [])


async def test_two_tokens_that_have_changed_places_are_refused(tmp_path: Path) -> None:
    first, other = (save_random_llama(tmp_path / name) for name in ("first", "other"))

    def swap(content: Any) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["w5"], vocabulary["w6"] = vocabulary["w6"], vocabulary["w5"]

    _edit_tokenizer(other, swap)

    assert "2 of 203 tokens differ (number 8 is 'w6', not 'w5')" in (await _refusal(first, other)).problem


async def test_a_token_that_is_special_in_one_alone_is_refused(tmp_path: Path) -> None:
    first, other = (save_random_llama(tmp_path / name) for name in ("first", "other"))

    def make_special(content: Any) -> None:
        template = content["added_tokens"][0]
        content["added_tokens"].append({**template, "id": 10, "content": "w7", "special": True})

    _edit_tokenizer(other, make_special)

    problem = (await _refusal(first, other)).problem
    assert "1 of 4 special tokens differ (number 10 is 'w7', not None)" in problem
    assert "tokens up to" not in problem


async def test_merges_in_another_order_are_refused(tmp_path: Path) -> None:
    first, other = (save_parrot(tmp_path / name, PARROT_TEXT) for name in ("first", "other"))

    def merge(pairs: list[list[str]]) -> Any:
        def edit(content: Any) -> None:
            vocabulary = content["model"]["vocab"]
            for pair in (["q", "u"], ["u", "i"]):
                vocabulary.setdefault("".join(pair), len(vocabulary))
            content["model"]["merges"] = pairs

        return edit

    _edit_tokenizer(first, merge([["q", "u"], ["u", "i"]]))
    _edit_tokenizer(other, merge([["u", "i"], ["q", "u"]]))

    problem = (await _refusal(first, other)).problem
    assert "2 of 2 merges differ" in problem
    assert "it cuts 'The quick brown fox" in problem


async def test_a_normaliser_that_one_alone_has_is_found_by_what_it_does(tmp_path: Path) -> None:
    first, other = (save_parrot(tmp_path / name, PARROT_TEXT) for name in ("first", "other"))

    _edit_tokenizer(other, lambda content: content.update(normalizer={"type": "Lowercase"}))

    assert "it cuts 'The quick brown fox" in (await _refusal(first, other)).problem


async def test_rows_of_a_head_that_are_no_tokens_take_no_part(tmp_path: Path) -> None:
    group = (
        save_random_llama(tmp_path / "first", seed=5),
        save_random_llama(tmp_path / "other", seed=6, num_padding_rows=13),
    )
    async with running_fused(group, weights=(1.0, 2.0)) as engine:
        text = await text_of(engine, make_prompt(9), max_tokens=12)

    assert text == complete_plainly(group, make_prompt(9), 12, pooling="linear", weights=(1 / 3, 2 / 3))


async def test_a_head_that_lacks_tokens_of_the_group_is_refused(tmp_path: Path) -> None:
    first, other = save_random_llama(tmp_path / "first"), save_random_llama(tmp_path / "other", num_padding_rows=-3)

    refusal = await _refusal(first, other)

    assert refusal.where == other
    assert "its head has 200 rows, and the group's tokenizer has tokens up to number 202" in refusal.problem


async def test_a_checkpoint_that_is_missing_is_named(tmp_path: Path) -> None:
    refusal = await _refusal(save_random_llama(tmp_path / "first"), str(tmp_path / "nowhere"))

    assert str(tmp_path / "nowhere") in refusal.where


async def test_a_classifier_is_not_fused(tmp_path: Path) -> None:
    classifier = save_classifier(tmp_path / "classifier", gpt2_config())

    refusal = await _refusal(save_random_llama(tmp_path / "first"), classifier)

    assert (refusal.where, "text classifier" in refusal.problem) == (classifier, True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"weights": (1.0,)}, "weights has 1 numbers for 3 checkpoints"),
        ({"weights": (1.0, 2.0, 3.0, 4.0)}, "weights has 4 numbers for 3 checkpoints"),
        ({"weights": (1.0, 0.0, 1.0)}, "greater than 0"),
        ({"weights": (1.0, -1.0, 1.0)}, "greater than 0"),
        ({"weights": (1.0, float("inf"), 1.0)}, "finite"),
        ({"drafter": 3}, "drafter is 3, but the 3 checkpoints are numbered 0 to 2"),
        ({"method": "product"}, "logit_mix_linear"),
    ],
    ids=["too_few", "too_many", "zero", "negative", "infinite", "no_such_drafter", "no_such_method"],
)
def test_a_group_that_cannot_be_is_refused_with_the_spec(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        fused_config(("b", "c"), **options)


def test_a_group_has_others() -> None:
    with pytest.raises(ValidationError, match="others"):
        fused_config(())


def test_the_others_are_found_where_a_member_s_own_checkpoint_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = set()
    for cache in ("/somewhere", "/elsewhere"):
        monkeypatch.setenv("ENSEMBLE_CACHE_DIR", cache)
        member = load_spec(Path("deploy/specs/fused.yaml")).members[0]
        assert isinstance(member.engine, FusedEngineConfig)
        assert member.engine.others == (f"{cache}/compressed/smollm2-int8",)
        prints.add(fingerprint(member))

    # Its answers do not depend on where the cache is.
    assert len(prints) == 1
