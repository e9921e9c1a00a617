"""The Dockerfile: linted, nobody's root, bases pinned."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.manifests.rendered import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"
TARGETS = ("cpu", "gpu", "compress")
HADOLINT = Path(sys.executable).parent / "hadolint"


def stage(text: str, target: str) -> str:
    """Give the instructions of one stage."""
    parts = re.split(r"^FROM ", text, flags=re.MULTILINE)
    (found,) = [part for part in parts if re.match(rf"\S+ AS {target}\n", part)]
    return found


def problems(text: str) -> list[str]:
    """Say what is wrong with a Dockerfile of ours, by our own rules."""
    found = []
    bases = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    if not bases or not all(re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", base) for base in bases):
        found.append("a base is not pinned by digest")
    outside = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - set(re.findall(r" AS (\S+)$", text, re.MULTILINE))
    if outside != {"${BASE}"}:
        found.append("a base is no argument")
    for target in TARGETS:
        found += target_problems(target, stage(text, target))
    installed = stage(text, "runtime").partition("apt-get install")[2].partition("&&")[0].split()
    found += extras_problems(text)
    found += compress_problems(text)
    if "useradd --uid 10001 " not in stage(text, "runtime"):
        found.append("there is no user 10001 in the images")
    found += [
        f"{name} takes no further wheels"
        for name in ("dependencies-cpu", "dependencies-gpu", "dependencies-compress")
        if "ARG FIND_LINKS=" not in stage(text, name) or '--find-links "${FIND_LINKS}"' not in stage(text, name)
    ]
    found += [
        f"the images lack {tool}, which KubeRay needs" for tool in ("bash", "wget", "grep") if tool not in installed
    ]
    return found


def extras_problems(text: str) -> Iterator[str]:
    """Say which extras of the project an image lacks, and which it names that there are none of."""
    named = re.findall(r'^ARG EXTRAS="([^"]+)"$', text, re.MULTILINE)
    by_stage = {
        "dependencies-cpu": (set(" ".join(named).split()), {"embedded", "calibration", "batch"}),
        "dependencies-gpu": (
            set(re.findall(r"--extra ([\w-]+)", stage(text, "dependencies-gpu"))),
            {"embedded", "calibration", "batch", "vllm"},
        ),
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, (extras, wanted) in by_stage.items():
        if extras != wanted:
            yield f"{name} has {sorted(extras)}, and serves, evaluates and runs batches with {sorted(wanted)}"
        if unknown := extras - project["optional-dependencies"].keys():
            yield f"{name} names extras that the project has not: {sorted(unknown)}"


def compress_problems(text: str) -> Iterator[str]:
    """Say what keeps the image that compresses from finding llm-compressor where it says that it is."""
    named = re.findall(r"^ENV ENSEMBLE_COMPRESS_PYTHON=(\S+)/bin/python$", stage(text, "compress"), re.MULTILINE)
    built = stage(text, "dependencies-compress")
    groups = set(re.findall(r"--group ([\w-]+)", built))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if groups != {"compress"} or not groups <= project["dependency-groups"].keys():
        yield f"dependencies-compress has the groups {sorted(groups)}, and the project's is compress"
    for folder in named or ["/nowhere"]:
        if f"--python {folder}/bin/python" not in built:
            yield f"compress says that llm-compressor is in {folder}, and it is not built there"
        if f"COPY --from=dependencies-compress {folder} {folder}\n" not in stage(text, "compress"):
            yield f"compress does not take {folder}"


def target_problems(target: str, body: str) -> list[str]:
    found = []
    if re.findall(r"^USER (\S+)$", body, re.MULTILINE) != ["10001"]:
        found.append(f"{target} runs as somebody else than 10001")
    if target != "compress" and 'CMD ["ensemble", "health"]' not in body:
        found.append(f"{target} has no health check of ours")
    if "ARG PROGRAM=\nRUN --mount" not in body:
        found.append(f"a rebuilt {target} may keep an older program")
    # Of two environments, one layer each.
    if body.count("COPY") != (2 if target == "compress" else 1) or "COPY --from=dependencies-" not in body:
        found.append(f"{target} does not take the dependencies as one layer")
    return found


FAULTS: dict[str, Callable[[str], str]] = {
    "root": lambda text: text.replace("USER 10001", "USER root"),
    "base by tag": lambda text: re.sub(r"@sha256:\w+", "", text),
    "base in place": lambda text: text.replace("FROM ${BASE} AS build", "FROM debian:12 AS build"),
    "no health check": lambda text: text.replace('CMD ["ensemble", "health"]', "CMD true"),
    "no batches": lambda text: text.replace("embedded calibration batch", "embedded calibration"),
    "another user": lambda text: text.replace("useradd --uid 10001", 'useradd --uid "${UID}"'),
    "wheels for one image": lambda text: text.replace("AS dependencies-gpu\nARG FIND_LINKS=", "AS dependencies-gpu"),
    "wheels that nobody takes": lambda text: text.replace('--find-links "${FIND_LINKS}"', ""),
    "no vLLM": lambda text: text.replace(" --extra vllm", ""),
    "no llm-compressor": lambda text: text.replace("COPY --from=dependencies-compress", "COPY --from=dependencies-cpu"),
    "llm-compressor elsewhere": lambda text: text.replace("=/opt/llm-compressor/bin", "=/opt/compress/bin"),
    "llm-compressor unnamed": lambda text: text.replace("ENV ENSEMBLE_COMPRESS_PYTHON", "ENV COMPRESS_PYTHON"),
    "an unknown group": lambda text: text.replace("--group compress", "--group compressing"),
    "no revision": lambda text: text.replace("ARG PROGRAM=\n", ""),
    "no wget": lambda text: text.replace(" wget ", " "),
    "sources in the image": lambda text: text.replace("FROM runtime AS cpu\n", "FROM runtime AS cpu\nCOPY . .\n"),
}


def test_the_dockerfile_keeps_our_rules() -> None:
    assert problems(DOCKERFILE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str) -> None:
    broken = FAULTS[fault](DOCKERFILE.read_text(encoding="utf-8"))

    assert problems(broken)


def lint(text: str) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603


def test_hadolint_is_content() -> None:
    done = lint(DOCKERFILE.read_text(encoding="utf-8"))

    assert done.returncode == 0, done.stdout


def test_hadolint_sees_a_fault() -> None:
    done = lint("FROM debian:latest\nRUN cd /tmp && sudo apt-get install python\n")

    assert done.returncode != 0
    assert "DL3007" in done.stdout
