"""The operating guide, followed to the letter: from machines where nothing runs to a voted answer."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manifests.clusters import START_S, environment
from tests.manifests.hosts import Network, address_of, needs_root, network, wait_for
from tests.manifests.rendered import ROOT

GUIDE = (ROOT / "deploy/OPERATING.md").read_text(encoding="utf-8")
WORKERS = ("worker-1", "worker-2")
PLACES = {"HEAD": address_of("head"), "WORKER": address_of("worker-1")}
# An environment that a stranger's shell would have: this program's own variables come from the guide.
SHELL = {name: value for name, value in environment().items() if name not in {"RAY_AUTH_MODE", "OMP_NUM_THREADS"}}


def section(title: str) -> str:
    """Give a section of the guide."""
    (found,) = [part for part in GUIDE.split("\n## ") if part.startswith(f"{title}\n")]
    return found


def block(text: str, introduction: str) -> str:
    """Give the commands that follow an introduction, with the addresses filled in."""
    (found,) = re.findall(rf"^{re.escape(introduction)}.*:\n\n((?:    .+\n)+)", text, re.MULTILINE)
    for name, address in PLACES.items():
        found = re.sub(rf"\b{name}\b", address, found)
    return re.sub(r"^    ", "", found, flags=re.MULTILINE)


def test_links_of_the_guide_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}

    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (ROOT / "deploy" / target).exists(), target


def test_files_that_the_guide_names_are_there() -> None:
    named = set(re.findall(r"\b(?:deploy|k8s|tests|benchmarks)/[\w./-]+\w", GUIDE)) - {"k8s/overlays/mine"}

    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture
def hosts() -> Iterator[Network]:
    with network(f"guide{os.getpid()}") as made:
        yield made


@pytest.mark.ray
@pytest.mark.slow
@needs_root
@pytest.mark.timeout(1_500)
def test_a_stranger_gets_a_voted_answer_on_several_machines(hosts: Network, tmp_path: Path) -> None:
    text = section("On several machines")
    prepare = block(text, "On every machine, before Ray starts")
    head, worker = block(text, "On the head"), block(text, "On each worker")
    ask = block(text, "Then, on any of them")
    for host in ("head", *WORKERS):
        # A busy machine: "`ray stop --force` there, and again".
        again = f"until {(head if host == 'head' else worker).strip()}; do ray stop --force; done"
        script = f"cd {ROOT}\n{prepare}\n{again}\ntouch {tmp_path / host}.up\nsleep infinity"
        hosts.start_node(host, script, files=tmp_path / host, log=tmp_path / f"{host}.log", env=SHELL)
    ups = [tmp_path / f"{host}.up" for host in ("head", *WORKERS)]
    wait_for(lambda: all(up.exists() for up in ups), what="Ray on every machine", timeout_s=START_S)

    exports = "\n".join(line for line in prepare.splitlines() if line.startswith("export "))
    script = f"set -e\ncd {ROOT}\n{exports}\n{ask}"
    done = hosts.run("client", "bash", "-c", script, env=SHELL, timeout_s=START_S)

    sys.stdout.write(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\bhoney\b", done.stdout)
    assert "likely" in done.stdout
    assert "telling" in done.stdout
