"""The submit script refuses what a job could not find, before anything is uploaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = ROOT / "deploy" / "specs" / "echo.yaml"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((SPEC, "in.jsonl", "/out.jsonl"), "submit: in.jsonl: it is relative"),
        ((SPEC, "s3://bucket/in.jsonl", "out.jsonl"), "submit: out.jsonl: it is relative"),
        (("none.yaml", "/in.jsonl", "/out.jsonl"), "submit: none.yaml: there is no such spec"),
        ((SPEC,), "deploy/jobs/submit.sh SPEC INPUT OUTPUT"),
    ],
)
def test_what_a_job_could_not_find_is_refused_at_once(arguments: tuple[object, ...], problem: str) -> None:
    command = [str(ROOT / "deploy" / "jobs" / "submit.sh"), *map(str, arguments)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603

    assert done.returncode == 2
    assert problem in done.stderr
