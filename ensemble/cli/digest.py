"""``ensemble digest``: what a spec pins a checkpoint by."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.checkpoints.digest import compute_digest
from ensemble.config import cache_dir


def digest(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="As a spec names it.")],
) -> None:
    """Print a checkpoint's digest, for a member's checkpoint_digest: its replicas then start on these very bytes alone.

    Of a GGUF file it is the file's SHA-256; of a folder that of sha256sum's lines about weights, configs and tokenizer.
    """
    typer.echo(compute_digest(checkpoint, cache_dir=cache_dir() / "checkpoints"))
