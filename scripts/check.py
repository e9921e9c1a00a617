"""Runs every linter and says which of them found something; one command for the hook, for CI and for people."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))
BUDGET_LINES = 300
BUDGET_FUNCTION_LINES = 40
FOLDERS = ("ensemble", "tests", "benchmarks", "examples", "scripts")

COMMANDS: dict[str, list[str]] = {
    "ruff check": [str(BIN / "ruff"), "check", "."],
    "ruff format": [str(BIN / "ruff"), "format", "--check", "."],
    "mypy": [str(BIN / "mypy")],
    "import-linter": [str(BIN / "lint-imports")],
    "buf lint": [str(BIN / "buf"), "lint", "protos"],
    "buf format": [str(BIN / "buf"), "format", "--diff", "--exit-code", "protos"],
    "yamllint": [str(BIN / "yamllint"), "--strict", "."],
    "hadolint": [str(BIN / "hadolint"), "deploy/Dockerfile"],
}


def run(command: list[str]) -> tuple[bool, str]:
    """Run one linter in the project's root; returns whether it was content, and what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)  # noqa: S603
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def generated_code_is_current() -> tuple[bool, str]:
    """Generate from the protos again and compare with what is committed."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        plugins = [f"--plugin=protoc-gen-{name}={BIN / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
        protos = [str(path.relative_to(ROOT)) for path in PROTOS]
        content, output = run([sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", *plugins, *outs, *protos])
        if not content:
            return False, output
        stale = [
            str(path.relative_to(folder))
            for path in sorted(Path(folder).rglob("*.py*"))
            if not (ROOT / path.relative_to(folder)).exists()
            or path.read_bytes() != (ROOT / path.relative_to(folder)).read_bytes()
        ]
    return not stale, f"run `make protos`: {', '.join(stale)}" if stale else ""


def protos_do_not_break_clients() -> tuple[bool, str]:
    """Compare the protos with the last two commits': one is this very state on a clean checkout."""
    for commit in ("HEAD", "HEAD~1"):
        has_protos, _ = run(["git", "cat-file", "-e", f"{commit}:protos/buf.yaml"])
        if has_protos:
            content, output = run(
                [str(BIN / "buf"), "breaking", "protos", "--against", f".git#ref={commit},subdir=protos"]
            )
            if not content:
                return False, output
    return True, ""


def source_files() -> list[Path]:
    """Find the files that people write."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if "v1" not in path.parts]


def code_keeps_its_budget() -> tuple[bool, str]:
    """Find files and functions that are too long to read in one go."""
    long = []
    for path in source_files():
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > BUDGET_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {BUDGET_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
                if lines > BUDGET_FUNCTION_LINES:
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    long.append(f"{where}: {node.name} has {lines} lines, at most {BUDGET_FUNCTION_LINES}")
    return not long, "\n".join(long)


def main() -> int:
    """Run all; the exit status is the number of those that found something."""
    checks: dict[str, Callable[[], tuple[bool, str]]] = {name: partial(run, args) for name, args in COMMANDS.items()}
    checks["generated code"] = generated_code_is_current
    checks["buf breaking"] = protos_do_not_break_clients
    checks["budgets"] = code_keeps_its_budget
    num_bad = 0
    for name, check in checks.items():
        started_s = time.monotonic()
        content, output = check()
        sys.stdout.write(f"{'ok  ' if content else 'FAIL'} {name} ({time.monotonic() - started_s:.1f} s)\n")
        if not content:
            num_bad += 1
            sys.stdout.write(output + "\n")
    return num_bad


if __name__ == "__main__":
    sys.exit(main())
