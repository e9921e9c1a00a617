"""A hub on this machine: the few pages of it that fetching a repository asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "1" * 40


class _Handler(BaseHTTPRequestHandler):
    """Serves the files of ``folder`` as every repository's."""

    protocol_version = "HTTP/1.1"
    folder: Path
    fetched: list[str]

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Keep silent."""

    def _answer(self, *, has_body: bool) -> None:
        path = self.path.partition("?")[0]
        names = sorted(file.name for file in self.folder.iterdir())
        if "/resolve/" in path:
            self._give(self.folder / path.rpartition("/")[2], has_body=has_body)
        elif "/tree/" in path:
            entries = [{"type": "file", "path": name, **_blob(self.folder / name)} for name in names]
            self._reply(json.dumps(entries).encode(), {"Content-Type": "application/json"}, has_body=has_body)
        elif path.startswith("/api/models/org/name"):
            info = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._reply(json.dumps(info).encode(), {"Content-Type": "application/json"}, has_body=has_body)
        else:
            self.send_error(404)

    def _give(self, file: Path, *, has_body: bool) -> None:
        if has_body:
            self.fetched.append(file.name)
        headers = {"ETag": f'"{_blob(file)["oid"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self._reply(file.read_bytes(), headers, has_body=has_body)

    def _reply(self, body: bytes, headers: dict[str, str], *, has_body: bool) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if has_body:
            self.wfile.write(body)


def _blob(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"oid": hashlib.sha1(content).hexdigest(), "size": len(content)}  # noqa: S324 - as git names blobs


@contextmanager
def hub_running(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as a repository; yields the address and, as they come, the names of the files that are fetched."""
    fetched: list[str] = []
    handler = type("Handler", (_Handler,), {"folder": folder, "fetched": fetched})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
