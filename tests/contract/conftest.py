"""The engines under test, each with a tiny checkpoint of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.engine_subjects import (
    MANY_TOKENS,
    Subject,
    VllmSubject,
    echo_config,
    embedded_config,
    fused_config,
    shared_vllm_config,
)
from tests.engines.tiny_checkpoints import (
    PARROT_TEXT,
    save_few_bits_llama,
    save_parrot,
    save_random_gemma,
    save_random_llama,
)
from tests.engines.vllm_runs import NEEDS_VLLM, START_TIMEOUT

if TYPE_CHECKING:
    from tests.engines.vllm_runs import SharedVllm

FUSED = ("logit_mix_linear", "logit_mix_geometric", "mix_sample", "speculative")
SAVE_BY_NAME = {"gemma_with_sliding_window": save_random_gemma, "few_bits": save_few_bits_llama}
VLLM = pytest.param("vllm", marks=[pytest.mark.vllm, NEEDS_VLLM, START_TIMEOUT])


@pytest.fixture(scope="session", params=["echo", "llama", "gemma_with_sliding_window", "few_bits", *FUSED, VLLM])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Give every engine in turn."""
    if request.param == "echo":
        return Subject(
            checkpoint="",
            config=echo_config,
            long_prompt="w3 " * MANY_TOKENS,
            counts_blocks=False,
            gives_unneeded_logprobs=False,
        )
    if request.param in FUSED:
        folder = tmp_path_factory.mktemp(request.param)
        checkpoint, other = save_random_llama(folder / "llama"), save_random_gemma(folder / "gemma")
        return Subject(checkpoint=checkpoint, config=fused_config(other, request.param), long_prompt="w3")
    return _run_one_checkpoint(request, tmp_path_factory)


@pytest.fixture(scope="session", params=["llama", "gemma_with_sliding_window", "fused_with_itself", VLLM])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Give every engine that computes what one checkpoint does, so that transformers can be asked too."""
    return _run_one_checkpoint(request, tmp_path_factory)


@pytest.fixture(scope="session", params=["embedded", *FUSED])
def parrot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Give the engines that run a model which says PARROT_TEXT a byte at a time and breaks at ``#``."""
    checkpoint = save_parrot(tmp_path_factory.mktemp("parrot"), PARROT_TEXT, broken_by="#")
    config = embedded_config if request.param == "embedded" else fused_config(checkpoint, request.param)
    return Subject(checkpoint=checkpoint, config=config, long_prompt="a")


def _run_one_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    if request.param == "vllm":
        shared: SharedVllm = request.getfixturevalue("tiny_vllm")
        return VllmSubject(checkpoint=shared.checkpoint, config=shared_vllm_config, long_prompt="w3", shared=shared)
    save = SAVE_BY_NAME.get(request.param, save_random_llama)
    checkpoint = save(tmp_path_factory.mktemp("one"))
    is_fused = request.param == "fused_with_itself"
    config = fused_config(checkpoint, "logit_mix_linear") if is_fused else embedded_config
    return Subject(checkpoint=checkpoint, config=config, long_prompt="w3")
