"""``ensemble digest``: what a spec pins a checkpoint by."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.checkpoints.digest import compute_digest
from ensemble.cli.stored import with_store
from ensemble.environment import cache_dir


def digest(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CHECKPOINT...", help="As a spec names them.")],
) -> None:
    """Print a checkpoint's digest, for a member's checkpoint_digest: its replicas then start on these very bytes alone.

    Of a GGUF file it is the file's SHA-256; of a folder that of sha256sum's lines about weights, configs and tokenizer.
    A fused group is pinned whole: give the member's checkpoint and then engine.others, in order. So is a checkpoint
    with an adapter: give engine.lora after it.
    """
    typer.echo(compute_digest(*map(with_store, checkpoints), cache_dir=cache_dir() / "checkpoints"))
