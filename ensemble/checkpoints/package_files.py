"""GGUF files that installed Python packages bring along."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from ensemble.checkpoints.reference import PackageReference


def find_package_file(reference: PackageReference) -> Path:
    """Find a file inside an installed package, without importing the package.

    Raises:
        CheckpointError: the package is not installed or has no such file.
    """
    for folder in _find_package(reference.module).submodule_search_locations or ():
        path = Path(folder) / reference.inside
        if path.is_file():
            return path
    raise CheckpointError(
        f"package:{reference.module}/{reference.inside}",
        f"the package {reference.module} has no file {reference.inside}",
        "check the spelling against the installed version",
    )


def find_package_code(reference: PackageReference) -> Path:
    """Find the file that holds the package's ``assemble``: when it changes, so may the assembled checkpoint."""
    origin = _find_package(reference.module).origin
    if origin is None:
        raise CheckpointError(
            f"package:{reference.module}", "the package has no code to assemble a file with", "name a file inside it"
        )
    return Path(origin)


def assemble_package_file(reference: PackageReference, output: Path) -> None:
    """Have the package join its parts into ``output``; it checks the digest itself.

    Raises:
        CheckpointError: the package cannot, or what it joined is damaged.
    """
    where = f"package:{reference.module}"
    assemble = getattr(import_module(reference.module), "assemble", None)
    if not callable(assemble):
        raise CheckpointError(where, "the package has no function assemble(path)", f"write {where}/file.gguf")
    try:
        assemble(output)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(
            where, f"its parts do not make a whole file ({error})", "reinstall the package"
        ) from error


def _find_package(module: str) -> ModuleSpec:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        raise CheckpointError(
            f"package:{module}", f"the Python package {module} is not installed", "install it where the member runs"
        )
    return spec
