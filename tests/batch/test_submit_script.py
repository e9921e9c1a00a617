"""The submit script refuses what a job could not find, before anything is uploaded."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


class FakeJobServer(ThreadingHTTPServer):
    """Takes jobs as Ray's head does, and keeps what it was given."""

    jobs: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: FakeJobServer

    def do_GET(self) -> None:
        # A package that it asks for is there, too.
        self._answer({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    def do_POST(self) -> None:
        self.server.jobs.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer({"job_id": "job", "submission_id": "job"})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def head() -> Iterator[FakeJobServer]:
    server = FakeJobServer(("127.0.0.1", 0), _Handler)
    server.jobs = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_names_that_a_shell_would_take_apart_reach_the_job_whole(
    head: FakeJobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{head.server_port}")
    monkeypatch.setenv("RAY_JOB_OPTIONS", "--no-wait")
    spec = tmp_path / "a spec;.yaml"
    spec.write_bytes(SPEC.read_bytes())
    words = ["/data/a b;c$(id).jsonl", 's3://bucket/$HOME & "all".jsonl', "--ensemble", "it's"]
    command = [str(ROOT / "deploy" / "jobs" / "submit.sh"), str(spec), *words]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)  # noqa: S603

    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = head.jobs
    expected = ["ensemble", "batch", spec.name, *words[:2], "--address", "auto", *words[2:]]
    assert shlex.split(job["entrypoint"]) == expected
    printed = subprocess.run(  # noqa: S602 - as the head does with an entrypoint
        f"ensemble() {{ printf '%s\\n' \"$@\"; }}; {job['entrypoint']}", shell=True, capture_output=True, check=True
    )
    assert printed.stdout.decode().splitlines() == expected[1:]
