"""Where hosts cannot be made, their tests are skipped, with the reason; where they can, they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.manifests.hosts import needs_root, obstacle
from tests.manifests.rendered import ROOT

SAY = "from tests.manifests.hosts import needs_root, obstacle; print(bool(needs_root.args[0]), obstacle())"
needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root, with setpriv, can put capabilities away"
)


def said(*before: str, path: str) -> str:
    """Say what a process without something is told."""
    command = [*before, sys.executable, "-c", SAY]
    done = subprocess.run(  # noqa: S603
        command, env={"PATH": path}, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_setpriv
@needs_root
@pytest.mark.parametrize("capability", ["sys_admin", "net_admin"])
def test_a_containers_root_makes_no_hosts(capability: str) -> None:
    path = os.environ["PATH"]  # noqa: TID251 - the tools are this machine's

    told = said("setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", path=path)

    assert told.startswith("True ")
    assert "ermitted" in told or "denied" in told, told
    # The same question, where it can be done.
    assert obstacle() == ""


def test_without_the_tools_there_are_no_hosts() -> None:
    assert said(path="/nowhere").strip() == "True there is no ip, iptables, unshare"
