"""The command line: start an ensemble, ask it, watch it, make its checkpoints."""

from ensemble.cli.entry import main

__all__ = ["main"]
