"""What the vLLM engine says when it cannot start."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import CheckpointError, ConfigError, MemberError
from tests.engines.tiny_checkpoints import save_random_llama
from tests.engines.vllm_runs import (
    HEAD_DIM,
    NEEDS_VLLM,
    START_TIMEOUT,
    find_vllms,
    read_text,
    running_vllm,
    vllm_config,
)

LONGEST_MESSAGE = 1000
ROOT = Path(__file__).parents[2]
END_TIMEOUT_S = 60.0
REPLICA = """
import asyncio, sys, psutil
from tests.engines.vllm_runs import running_vllm

async def run():
    async with running_vllm(sys.argv[1]):
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
        await asyncio.sleep(600)

asyncio.run(run())
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_random_llama(tmp_path_factory.mktemp("llama"), head_dim=HEAD_DIM)


async def start(checkpoint: str, prompt_format: PromptFormat | None = None, **options: Any) -> None:
    async with running_vllm(checkpoint, prompt_format, **options):
        pass


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"vllm needs the package vllm.*\[vllm\]"):
        build_engine(vllm_config(), checkpoint="x", member="m", prompt_format=PromptFormat())


def test_a_load_format_is_one_in_any_spelling() -> None:
    assert vllm_config(load_format="Dummy") == vllm_config(load_format="dummy")


@pytest.mark.vllm
@NEEDS_VLLM
class TestBeforeAnyProcessStarts:
    """Errors that cost no start: they come from the config and the files alone."""

    async def test_an_unknown_option_is_named_with_the_nearest_ones(self, llama: str) -> None:
        with pytest.raises(ConfigError, match=r"engine\.options\.max_num_batch_tokens.*max_num_batched_tokens"):
            await start(llama, options={"max_num_batch_tokens": 512})

    async def test_an_option_with_a_field_of_its_own_is_sent_there(self, llama: str) -> None:
        with pytest.raises(ConfigError, match=r"max_model_len.*set engine\.max_context instead"):
            await start(llama, options={"max_model_len": 512})

    async def test_an_option_s_wrong_value_is_told_in_vllm_s_words(self, llama: str) -> None:
        with pytest.raises(ConfigError, match="policy") as caught:
            await start(llama, options={"scheduling_policy": "whoever shouts"})

        assert len(str(caught.value)) < LONGEST_MESSAGE

    @pytest.mark.parametrize("load_format", ["pt", "PT", "NpCache"])
    async def test_a_format_of_pickles_is_refused(self, llama: str, load_format: str) -> None:
        with pytest.raises(ConfigError, match="pickles"):
            await start(llama, load_format=load_format)

    async def test_pickled_weights_are_refused(self, llama: str, tmp_path: Path) -> None:
        LlamaConfig(hidden_size=32).save_pretrained(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"")

        with pytest.raises(CheckpointError, match="pickled"):
            await start(str(tmp_path))

    async def test_a_checkpoint_that_is_not_there_is_a_checkpoint_error(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError):
            await start(str(tmp_path / "absent"))

    async def test_weights_that_are_cut_short_are_a_checkpoint_error(self, llama: str, tmp_path: Path) -> None:
        LlamaConfig(hidden_size=32).save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")

        with pytest.raises(CheckpointError, match="cut short"):
            await start(str(tmp_path))

    async def test_a_chat_without_a_chat_template_is_a_checkpoint_error(self, llama: str) -> None:
        with pytest.raises(CheckpointError, match="chat template"):
            await start(llama, PromptFormat(chat=True))

    async def test_a_device_that_this_vllm_does_not_run_on_is_a_config_error(self, llama: str) -> None:
        wrong = "cpu" if torch.cuda.is_available() else "cuda"
        with pytest.raises(ConfigError, match=r"engine\.device.*this vLLM runs on"):
            await start(llama, device=wrong)

    async def test_an_adapter_without_safetensors_is_a_checkpoint_error(self, llama: str, tmp_path: Path) -> None:
        (tmp_path / "adapter_model.bin").write_bytes(b"")

        with pytest.raises(CheckpointError, match=r"engine\.lora.*adapter_model\.safetensors"):
            await start(llama, lora=str(tmp_path))

    async def test_an_encoder_decoder_is_a_checkpoint_error(self, llama: str, tmp_path: Path) -> None:
        config = T5Config(vocab_size=203, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        T5ForConditionalGeneration(config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path)

        with pytest.raises(CheckpointError, match="encoder-decoder"):
            await start(str(tmp_path))

    async def test_a_model_that_vllm_does_not_know_is_a_checkpoint_error(self, llama: str, tmp_path: Path) -> None:
        copytree(llama, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text("utf-8"))
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["UnheardOfLM"]}), "utf-8")

        with pytest.raises(CheckpointError, match="UnheardOfLM") as caught:
            await start(str(tmp_path))

        assert len(str(caught.value)) < LONGEST_MESSAGE

    async def test_processes_that_end_without_a_word_may_have_lacked_memory(
        self, llama: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - where vLLM is not installed, tests skip

        def end(*_: object, **__: object) -> None:
            # vLLM's own words when the system has killed its process.
            raise RuntimeError(
                "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
            )

        monkeypatch.setattr(AsyncLLM, "from_vllm_config", end)

        with pytest.raises(ConfigError, match=r"without a word.*memory.*-9.*ensemble plan") as caught:
            await start(llama)

        # The checkpoint is not to blame.
        assert not isinstance(caught.value, CheckpointError)

    async def test_a_second_start_raises_what_the_first_raised(self, tmp_path: Path) -> None:
        engine = build_engine(
            vllm_config(), checkpoint=str(tmp_path / "absent"), member="m", prompt_format=PromptFormat()
        )
        with pytest.raises(CheckpointError):
            await engine.start()

        with pytest.raises(CheckpointError):
            await engine.start()
        with pytest.raises(MemberError, match="closed"):
            await read_text(engine, "w1")


@pytest.mark.vllm
@pytest.mark.slow
@NEEDS_VLLM
@START_TIMEOUT
async def test_a_cache_that_does_not_hold_one_request_is_a_config_error_with_figures(llama: str) -> None:
    others = find_vllms()
    with pytest.raises(ConfigError, match=r"does not fit.*KV cache") as caught:
        await start(llama, kv_cache_gib=0.0001)

    assert len(str(caught.value)) < LONGEST_MESSAGE
    _, alive = psutil.wait_procs(find_vllms() - others, timeout=END_TIMEOUT_S)
    assert alive == []


@pytest.mark.vllm
@pytest.mark.slow
@NEEDS_VLLM
@START_TIMEOUT
async def test_a_model_whose_logits_are_not_numbers_is_a_checkpoint_error(llama: str, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="not numbers"):
        await start(str(tmp_path))


@pytest.mark.vllm
@pytest.mark.slow
@NEEDS_VLLM
@START_TIMEOUT
def test_a_replica_that_is_killed_leaves_no_process_of_vllm_behind(llama: str) -> None:
    command = [sys.executable, "-c", REPLICA, llama]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as replica:  # noqa: S603 - as above
        assert replica.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in replica.stdout.readline().split()]
        names = [process.name() for process in processes]

        replica.kill()
        replica.wait()
        _, alive = psutil.wait_procs(processes, timeout=END_TIMEOUT_S)
        left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            process.kill()

    assert any("EngineCore" in name for name in names)
    assert left == []
