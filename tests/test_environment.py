"""What the environment's variables mean."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ensemble.environment import cache_dir, compress_python, compress_runtime_env, set_ray_environment


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path))

    assert cache_dir() == tmp_path


def test_the_cache_lies_below_the_home_folder_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENSEMBLE_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_dir() == tmp_path / ".cache" / "ensemble"


def test_what_the_operator_set_for_ray_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)

    set_ray_environment()

    assert os.environ["RAY_AUTH_MODE"] == "token"  # noqa: TID251 - what the test is about
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"  # noqa: TID251 - what the test is about


def test_the_python_with_llm_compressor_is_the_one_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_COMPRESS_PYTHON", str(tmp_path / "python"))

    assert compress_python() == tmp_path / "python"
    assert compress_runtime_env() == {"env_vars": {"ENSEMBLE_COMPRESS_PYTHON": str(tmp_path / "python")}}


def test_the_python_with_llm_compressor_lies_beside_ours_otherwise_on_every_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ENSEMBLE_COMPRESS_PYTHON", raising=False)

    assert compress_python() == Path(sys.prefix).parent / ".venv-compress/bin/python"
    assert compress_runtime_env() == {}
