"""Whether a checkpoint is there, without loading it: what can be known before anything starts."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ensemble.checkpoints.folder import find_weight_files, read_config
from ensemble.checkpoints.package_files import find_package_code, find_package_file
from ensemble.checkpoints.reference import FolderReference, PackageReference, StoreReference, parse_reference
from ensemble.errors import CheckpointError


def check_reference(reference: str, *, has_weights: bool = True) -> None:
    """Check that a folder or a stored checkpoint is whole, a file exists, a package is installed.

    A repository is the hub's to know.

    A folder without weights will do for who makes them up.

    Raises:
        CheckpointError: it is not there.
        ConfigError: a store cannot be reached.
    """
    if Path(reference).is_absolute() and not _may_exist(Path(reference)):
        raise CheckpointError(
            reference, "there is no such folder or file", "check the path, or make it with `ensemble compress`"
        )
    match parse_reference(reference):
        case FolderReference(folder=folder):
            read_config(folder)
            if has_weights:
                find_weight_files(folder)
        case StoreReference() as stored:
            import_module("ensemble.checkpoints.store").CheckpointStore.at(stored.url).find(stored).check_sizes()
        case PackageReference(inside="") as package:
            find_package_code(package)
        case PackageReference() as package:
            find_package_file(package)


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # Too long, say: parse_reference tells.
        return True
