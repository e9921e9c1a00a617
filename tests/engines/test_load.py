"""Choosing an engine, wording prompts, and the echo engine's faults."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from ensemble.engines.config import EchoEngineConfig, EngineConfig
from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import ConfigError, MemberError
from ensemble.generation import GenerationRequest, ScoringRequest

BUILD_ECHO = """
import asyncio, sys
from ensemble.engines.config import EchoEngineConfig
from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import ScoringRequest
engine = build_engine(EchoEngineConfig(fail=sys.argv[1]), checkpoint="", member="m", prompt_format=PromptFormat())
assert "torch" not in sys.modules
asyncio.run(engine.score(ScoringRequest(request_id="s", prompt="a", choices=("b",))))
"""


def test_a_spec_s_text_chooses_the_engine() -> None:
    config = TypeAdapter[EngineConfig](EngineConfig).validate_python({"type": "echo", "seed": 3})

    engine = build_engine(config, checkpoint="", member="m", prompt_format=PromptFormat())

    assert type(engine).__name__ == "EchoEngine"


@pytest.mark.parametrize(("fail", "exit_code"), [("", 0), ("exit", 1)])
def test_echo_needs_no_torch_and_exits_only_when_told_to(fail: str, exit_code: int) -> None:
    finished = subprocess.run([sys.executable, "-c", BUILD_ECHO, fail], check=False, timeout=60, capture_output=True)  # noqa: S603 our own text

    assert (finished.returncode, finished.stderr) == (exit_code, b"")


async def test_echo_fails_every_request_when_told_to() -> None:
    config = EchoEngineConfig(fail="error")
    engine = build_engine(config, checkpoint="", member="m", prompt_format=PromptFormat())

    with pytest.raises(MemberError):
        await anext(engine.generate(GenerationRequest(request_id="r", prompt="a")))
    with pytest.raises(MemberError):
        await engine.score(ScoringRequest(request_id="s", prompt="a", choices=("b",)))


async def test_echo_repeats_the_prompt_and_its_seed_changes_the_scores() -> None:
    engines = [
        build_engine(EchoEngineConfig(seed=n), checkpoint="", member="m", prompt_format=PromptFormat()) for n in (1, 2)
    ]
    request = ScoringRequest(request_id="s", prompt="a", choices=("b", "c"))

    text = "".join(
        [chunk.text async for chunk in engines[0].generate(GenerationRequest(request_id="r", prompt="a  b c"))]
    )

    assert text == "a  b c"
    assert (await engines[0].score(request)).logprobs != (await engines[1].score(request)).logprobs


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensemble.engines.echo", None)

    with pytest.raises(ConfigError, match=r"ensemble-serving\[echo\]"):
        build_engine(EchoEngineConfig(), checkpoint="", member="m", prompt_format=PromptFormat())


def test_braces_of_prompts_and_templates_are_literal() -> None:
    prompt_format = PromptFormat(generate_template="{x} {prompt} {}", score_template="{prompt}:", choice_prefix="{")

    assert prompt_format.generation_text("{prompt} {0}") == "{x} {prompt} {0} {}"
    assert prompt_format.scoring_text("{y}") == "{y}:"
    assert prompt_format.choice_text("}") == "{}"


@pytest.mark.parametrize("template", ["", "no place", "{prompt} {prompt}"])
def test_a_template_has_exactly_one_place_for_the_prompt(template: str) -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        PromptFormat(generate_template=template)


def test_a_chat_has_a_system_message_only_when_one_is_given() -> None:
    assert PromptFormat(chat=True).chat_messages("hi") == [{"role": "user", "content": "hi"}]
    assert PromptFormat(chat=True, system="be brief").chat_messages("hi")[0] == {
        "role": "system",
        "content": "be brief",
    }
