"""Checkpoints from the Hugging Face hub, or from its cache when there is no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from ensemble.checkpoints.reference import HubReference

_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt"]


def fetch_repository(reference: HubReference) -> Path:
    """Give the local snapshot of a repository: safetensors, config and tokenizer, never pickles or code.

    Raises:
        CheckpointError: the hub cannot be reached and the cache lacks it, or there is no such repository.
    """
    try:
        return Path(
            snapshot_download(reference.repository, revision=reference.revision, allow_patterns=_FILES, etag_timeout=5)
        )
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            reference.repository, "the hub has no such repository, or it is gated", "check the id and the hub token"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            reference.repository,
            f"it is not in the local cache, and the hub cannot be reached ({type(error).__name__})",
            "connect once, copy the hub's cache, or name a local folder",
        ) from error
