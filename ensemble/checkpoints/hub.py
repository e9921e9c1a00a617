"""Checkpoints from the Hugging Face hub, or from its cache when there is no network."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm  # type: ignore[import-untyped]

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ensemble.checkpoints.reference import HubReference

_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt"]


def fetch_repository(reference: HubReference, *, on_phase: OnPhase = ignore_phase) -> Path:
    """Give the local snapshot of a repository: safetensors, config and tokenizer, never pickles or code.

    The hub's library sees to it that processes of one machine fetch a file once, and goes on where one was killed.

    Raises:
        CheckpointError: the hub cannot be reached and the cache lacks it, or there is no such repository or revision.
    """
    download = partial(
        snapshot_download, reference.repository, revision=reference.revision, allow_patterns=_FILES, etag_timeout=5
    )
    try:
        return Path(_download_told(download, on_phase))
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            reference.repository, "the hub has no such repository, or it is gated", "check the id and the hub token"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            reference.repository, f"the hub has no revision {reference.revision} of it", "check the commit or branch"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            reference.repository,
            f"it is not in the local cache, and the hub cannot be reached ({type(error).__name__})",
            "connect once, copy the hub's cache, or name a local folder",
        ) from error


def _download_told(download: partial[str], on_phase: OnPhase) -> str:
    """Download what is missing, and tell how much of it is there; silently when there is no telling."""
    on_phase("ask the hub", 0.0)
    try:
        files: Any = download(dry_run=True)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return download(tqdm_class=_silent_bar())
    num_bytes = sum(file.file_size for file in files if file.will_download)
    if not num_bytes:
        return download(tqdm_class=_silent_bar())
    phase = f"download {max(1, round(num_bytes / 1e6))} MB"
    on_phase(phase, 0.0)
    return download(tqdm_class=_silent_bar(lambda done_bytes: on_phase(phase, min(1.0, done_bytes / num_bytes))))


def _silent_bar(tell: Callable[[float], None] | None = None) -> type[tqdm]:
    """Make a progress bar's class that draws nothing, and tells how many bytes are there."""
    # Files are fetched by several threads, and what the later one tells must not be less.
    telling = threading.Lock()

    class Bar(tqdm):  # type: ignore[misc]  # it has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self._counts_bytes = kwargs.get("unit") == "B"
            self._num_done = float(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            with telling:
                self._num_done += n or 0
                if self._counts_bytes and tell is not None:
                    tell(self._num_done)

    return Bar


def find_repository(reference: HubReference) -> Path:
    """Give the snapshot of a repository that is in the local cache; nothing is fetched.

    Raises:
        CheckpointError: it is not there.
    """
    try:
        return Path(
            snapshot_download(
                reference.repository, revision=reference.revision, allow_patterns=_FILES, local_files_only=True
            )
        )
    except (LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            reference.repository,
            "it is not in the local cache, so it cannot be measured",
            "fetch it once (`hf download`), or name a local folder",
        ) from error
