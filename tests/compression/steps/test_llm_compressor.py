"""The step around llm-compressor, with the real script and a double of the library."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe, load_recipe
from ensemble.compression.steps.llm_compressor import LlmCompressor
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama, save
from tests.compression.fake_llm_compressor import build_python
from tests.compression.step_contexts import build_context
from tests.compression.test_other_python import are_gone, read_pids

if TYPE_CHECKING:
    from ensemble.compression.step import StepResult

_TAKE = """
import sys
from pathlib import Path
from tests.compression.steps.test_llm_compressor import build_step, take
take(build_step(Path(sys.argv[1]), asked={"hang": sys.argv[2]}), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_python(tmp_path_factory.mktemp("fake"))


def build_step(python: Path, *, name: str = "GPTQModifier", **options: Any) -> LlmCompressor:
    modifiers = [{"name": name, "options": {"ignore": ["lm_head"], **options}}]
    return LlmCompressor.model_validate({"modifiers": modifiers, "python": python, "timeout_s": 120.0})


def take(step: LlmCompressor, folder: Path) -> StepResult:
    return step.take(build_llama(num_layers=2), build_context(scratch=folder))


def test_the_library_gets_the_model_and_the_windows_and_its_result_takes_their_place(
    python: Path, tmp_path: Path
) -> None:
    model, original = build_llama(num_layers=2), build_llama(num_layers=2)
    phases: list[tuple[str, float]] = []
    context = build_context(scratch=tmp_path, on_phase=lambda phase, share: phases.append((phase, share)))

    result = build_step(python).take(model, context)

    weights, before = model.state_dict(), original.state_dict()
    for name, weight in weights.items():
        is_halved = "proj" in name
        assert torch.equal(weight, before[name] * 0.5 if is_halved else before[name]), name
    assert result.quantization is None
    assert result.findings["num_layers"] == 14
    assert result.findings["versions"]["llmcompressor"] == "9"
    assert [phase for phase in phases if "layer" in phase[0]] == [
        ("GPTQModifier, layer 1 of 2", 0.0),
        ("GPTQModifier, layer 2 of 2", 0.5),
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"bits": 3},
            r"llm_compressor.modifiers\[0\].options: .*unexpected keyword argument 'bits'.*; see GPTQModifier",
        ),
        ({"sparsity": [0.5, 1.0]}, r"llm_compressor.modifiers\[0\].options.sparsity: it is 1.0; give a share between"),
        ({"ignore": []}, "lm_head shares its weight with the embeddings; add lm_head to ignore"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(python: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build_step(python, **options).check(build_llama(num_layers=2))


def test_a_model_that_writes_no_text_is_refused(python: Path) -> None:
    model = build_llama(num_layers=2)
    model.config.num_hidden_layers = 3

    with pytest.raises(ConfigError, match=r"llm_compressor: .* has no plain stack of decoder layers"):
        build_step(python).check(model)


def test_an_environment_that_is_not_there_is_told_with_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"llm_compressor: .* is no Python; build the environment \(make compress-env"
    ):
        build_step(tmp_path / "none").check(build_llama(num_layers=2))


def test_a_python_without_the_library_is_told_by_its_last_words() -> None:
    with pytest.raises(ConfigError, match=r"failed with status 1: .*No module named"):
        build_step(Path(sys.executable)).check(build_llama(num_layers=2))


def test_the_librarys_failure_is_told_by_its_last_words(python: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"failed with status 1: .*RuntimeError: no memory for the Hessian"):
        take(build_step(python, asked={"fail": "no memory for the Hessian"}), tmp_path)


def test_a_step_that_is_killed_leaves_no_library_at_work(python: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    arguments = [python, tmp_path / "pids", tmp_path / "scratch"]
    command = [sys.executable, "-c", _TAKE, *map(str, arguments)]
    with subprocess.Popen(command) as parent:  # noqa: S603
        pids = _wait_for_pids(tmp_path / "pids", parent)

        parent.send_signal(signal.SIGKILL)

    assert are_gone(pids)


def _wait_for_pids(path: Path, parent: subprocess.Popen[bytes]) -> list[int]:
    deadline_s = time.monotonic() + 120.0
    while not (path.exists() and path.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return read_pids(path)


def test_what_the_library_has_finished_is_taken_up_without_it(python: Path, tmp_path: Path) -> None:
    first, again = build_llama(num_layers=2), build_llama(num_layers=2)
    (tmp_path / "one").mkdir()
    before = build_step(python).take(first, build_context(scratch=tmp_path / "one", progress=tmp_path / "kept"))

    after = build_step(tmp_path / "none").take(again, build_context(progress=tmp_path / "kept"))

    assert after.findings == before.findings
    assert all(torch.equal(*weights) for weights in zip(first.parameters(), again.parameters(), strict=True))


def test_a_recipe_says_by_which_python_and_its_record_does_not(python: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "steps:\n- type: llm_compressor\n  modifiers:\n  - {name: GPTQModifier, options: {ignore: [lm_head]}}"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml").with_compress_python(python)
    source = save(build_llama(num_layers=2), tmp_path / "source")

    compress(source, recipe, tmp_path / "out", cache_dir=tmp_path / "cache")

    record = json.loads((tmp_path / "out/compression.json").read_text())
    assert record["recipe"]["steps"] == [
        {
            "type": "llm_compressor",
            "modifiers": [{"name": "GPTQModifier", "options": {"ignore": ["lm_head"]}}],
            "timeout_s": 86_400.0,
        }
    ]


def test_a_recipes_own_python_stays(tmp_path: Path) -> None:
    own = build_step(tmp_path / "own")

    recipe = Recipe(steps=(own,)).with_compress_python(tmp_path / "another")

    assert recipe.steps == (own,)
