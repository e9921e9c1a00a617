"""Specs as people write them, good and bad."""

from __future__ import annotations

import textwrap
from pathlib import Path

MEMBERS = """
members:
  - {name: a, family: x, engine: {type: echo}}
  - {name: b, family: y, engine: {type: echo}}
"""
ENSEMBLES = """
ensembles:
  - {name: default, members: [a, b]}
"""
GOOD = f"version: 1{MEMBERS}{ENSEMBLES}"


def write_spec(folder: Path, text: str) -> Path:
    """Write a spec into a file."""
    path = folder / "spec.yaml"
    path.write_text(textwrap.dedent(text), "utf-8")
    return path
