"""What the environment says: the only reader of its variables."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ensemble.compression.other_python import default_compress_python

COMPRESS_PYTHON = "ENSEMBLE_COMPRESS_PYTHON"


def cache_dir() -> Path:
    """Where converted checkpoints are kept: ``ENSEMBLE_CACHE_DIR``, or ``~/.cache/ensemble``."""
    return Path(os.environ.get("ENSEMBLE_CACHE_DIR", "~/.cache/ensemble")).expanduser()


def store_url() -> str:
    """Where ``store:NAME`` is: what ``ENSEMBLE_STORE`` says, a folder or an fsspec URL, or a folder in the cache."""
    said = os.environ.get("ENSEMBLE_STORE") or str(cache_dir() / "store")
    return said if "://" in said else str(Path(said).expanduser().absolute())


def compress_python() -> Path:
    """Which Python has llm-compressor: ``ENSEMBLE_COMPRESS_PYTHON``, or that of ``.venv-compress`` beside ours."""
    said = os.environ.get(COMPRESS_PYTHON)
    return Path(said).expanduser() if said else default_compress_python()


def compress_runtime_env() -> dict[str, dict[str, str]]:
    """Give the Ray runtime environment in which a recipe's steps find llm-compressor as they do here.

    Where the operator names no Python, each machine finds its own: the compress image's, or ``.venv-compress``.
    """
    said = os.environ.get(COMPRESS_PYTHON)
    return {"env_vars": {COMPRESS_PYTHON: said}} if said else {}


def visible_gpus() -> tuple[str, ...]:
    """Name the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` does: by number or UUID."""
    return tuple(name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip())


def gpu_lock_dir() -> Path:
    """Where this machine's processes agree on who starts on a GPU: ``ENSEMBLE_GPU_LOCK_DIR``, or a temporary folder."""
    return Path(os.environ.get("ENSEMBLE_GPU_LOCK_DIR") or Path(tempfile.gettempdir()) / "ensemble-gpus")


def client_tls_variables() -> dict[str, str]:
    """Give what ``ENSEMBLE_TLS_CA``, ``_CERTIFICATE``, ``_KEY`` and ``_NAME`` say, by their last words."""
    said = {part: os.environ.get(f"ENSEMBLE_TLS_{part.upper()}", "") for part in ("ca", "certificate", "key", "name")}
    return {part: value for part, value in said.items() if value}


def set_ray_environment() -> None:
    """Set what Ray reads when it starts, unless the operator has set it already."""
    for name, value in {
        # Token authentication would switch itself on when the user's home has a token of another cluster.
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's workers would run at niceness 15, and wait for whoever else wants the processor.
        "RAY_worker_niceness": "0",
    }.items():
        os.environ.setdefault(name, value)
