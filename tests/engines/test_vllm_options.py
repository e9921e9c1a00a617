"""What a spec asks of vLLM is checked without importing it: options by name where it is installed, adapters by rank."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.engines import vllm_options
from ensemble.engines.vllm_options import check_options, find_largest_rank, read_argument_names
from ensemble.errors import CheckpointError, ConfigError
from tests.engines.vllm_runs import NEEDS_VLLM

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '''
from typing import ClassVar

class EngineArgs:
    """Arguments."""

    model: str = "m"
    max_num_batched_tokens: int | None = None
    registry: ClassVar[dict] = {}
    plain = 3

    def build(self) -> None:
        local: int = 3

class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False

class Unrelated:
    other: int = 3
'''


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Have this source found as vLLM's."""
    (folder / "engine").mkdir()
    (folder / "engine" / "arg_utils.py").write_text(source, "utf-8")
    spec = ModuleSpec("vllm", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(vllm_options, "find_spec", lambda _name: spec)


def test_the_names_are_the_fields_in_vllm_s_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, SOURCE)

    names = read_argument_names()

    assert names == {"model", "max_num_batched_tokens", "enable_log_requests"}


@pytest.mark.parametrize("source", ["class EngineArgs:", "ARGUMENTS = ()"])
def test_a_source_that_tells_nothing_gives_no_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    install(monkeypatch, tmp_path, source)

    assert read_argument_names() == frozenset()


def test_without_vllm_there_are_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_options, "find_spec", lambda _name: None)

    assert read_argument_names() == frozenset()


def test_an_unknown_option_is_named_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"engine\.options\.max_num_batch_tokens.*max_num_batched_tokens"):
        check_options(("max_num_batch_tokens",), {"max_num_batched_tokens", "seed"})


def test_without_names_an_option_is_left_to_the_start_unless_it_has_a_field_of_its_own() -> None:
    check_options(("max_num_batch_tokens",), ())

    with pytest.raises(ConfigError, match=r"max_num_seqs.*set engine\.max_batch instead"):
        check_options(("max_num_seqs",), ())


@pytest.mark.parametrize(
    ("config", "largest"),
    [
        ({"r": 4}, 8),
        ({"r": 8, "rank_pattern": None}, 8),
        ({"r": 300, "rank_pattern": {"q_proj": 8}}, 320),
        ({"r": 8, "rank_pattern": {"q_proj": 4, "v_proj": 20}}, 32),
    ],
)
def test_an_adapter_s_highest_rank_is_rounded_up_to_one_that_vllm_takes(
    tmp_path: Path, config: dict[str, Any], largest: int
) -> None:
    write_adapter(tmp_path, config)

    assert find_largest_rank(str(tmp_path)) == largest


@pytest.mark.parametrize("config", [{"r": 513}, {"r": 0}, {"r": "many"}, {"r": 8, "rank_pattern": [4]}, {}, [4]])
def test_an_adapter_without_a_rank_that_vllm_takes_is_refused(tmp_path: Path, config: object) -> None:
    write_adapter(tmp_path, config)

    with pytest.raises(CheckpointError, match=r"engine\.lora.*names no rank that vLLM takes"):
        find_largest_rank(str(tmp_path))


def write_adapter(folder: Path, config: object) -> None:
    """Write what tells an adapter's rank, beside weights that nobody reads here."""
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")


@NEEDS_VLLM
def test_reading_the_names_imports_no_vllm() -> None:
    before = "vllm" in sys.modules

    assert "gpu_memory_utilization" in read_argument_names()
    assert ("vllm" in sys.modules) is before


@pytest.mark.vllm
@NEEDS_VLLM
def test_the_names_that_are_read_are_those_that_vllm_takes() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - where vLLM is not installed, tests skip

    assert read_argument_names() == {field.name for field in fields(AsyncEngineArgs)}
