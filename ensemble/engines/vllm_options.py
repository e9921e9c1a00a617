"""What a spec asks of vLLM, checked without importing it, which takes seconds: its source can be read instead."""

from __future__ import annotations

import ast
import json
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_SOURCE = "engine/arg_utils.py"
_CLASSES = ("EngineArgs", "AsyncEngineArgs")
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM takes as the largest (vllm.config.lora, 0.32)."""
_OUR_NAME_BY_OPTION = {
    "model": "checkpoint",
    "model_weights": "checkpoint",
    "tokenizer": "checkpoint",
    "revision": "checkpoint",
    "dtype": "engine.dtype",
    "enable_lora": "engine.lora",
    "enable_prefix_caching": "engine.prefix_caching",
    "kv_cache_memory_bytes": "engine.kv_cache_gib",
    "load_format": "engine.load_format",
    "max_model_len": "engine.max_context",
    "max_num_seqs": "engine.max_batch",
    "pipeline_parallel_size": "engine.pipeline_parallel_size",
    "quantization": "engine.quantization",
    "tensor_parallel_size": "engine.tensor_parallel_size",
}


def check_options(options: Iterable[str], known: Collection[str]) -> None:
    """Check options by name; without ``known`` ones, only whether each is left to ``options``.

    Raises:
        ConfigError: one is no argument of vLLM's, or has a field of its own.
    """
    for name in options:
        if name in _OUR_NAME_BY_OPTION:
            raise ConfigError(
                f"engine.options.{name}", "it has a field of its own", f"set {_OUR_NAME_BY_OPTION[name]} instead"
            )
        if known and name not in known:
            near = get_close_matches(name, sorted(known), n=3)
            raise ConfigError(
                f"engine.options.{name}",
                "vLLM has no such engine argument",
                f"did you mean {', '.join(near)}?" if near else "see vLLM's engine arguments",
            )


def find_largest_rank(lora: str) -> int:
    """Give what vLLM must be told as the largest rank so that it takes the LoRA adapter in this folder.

    Raises:
        CheckpointError: it is not one, or is pickled.
    """
    folder = Path(lora).expanduser()
    if not (folder / "adapter_model.safetensors").is_file():
        raise CheckpointError("engine.lora", f"{folder} has no adapter_model.safetensors", "give an adapter's folder")
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        # Layers may have ranks of their own.
        rank = max(map(int, (config["r"], *(config.get("rank_pattern") or {}).values())))
        return next(largest for largest in _LORA_RANKS if 0 < rank <= largest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise CheckpointError(
            "engine.lora", f"{folder / 'adapter_config.json'} names no rank that vLLM takes ({error!r})", "see its r"
        ) from error


def read_argument_names() -> frozenset[str]:
    """Read the names of the installed vLLM's engine arguments; none where there is no vLLM, or it hides them."""
    found = find_spec("vllm")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        try:
            module = ast.parse((Path(folder) / _SOURCE).read_text("utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        return frozenset(_fields(module))
    return frozenset()


def _fields(module: ast.Module) -> Iterator[str]:
    """Give the names of the fields that the dataclasses of arguments have in their source."""
    for declared in module.body:
        if isinstance(declared, ast.ClassDef) and declared.name in _CLASSES:
            yield from filter(None, map(_field, declared.body))


def _field(line: ast.stmt) -> str:
    """Give a field's name; empty where a class says something else."""
    if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
        return ""
    return "" if "ClassVar" in ast.unparse(line.annotation) else line.target.id
