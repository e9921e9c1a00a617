"""Making a variant again from its record: of the same source, texts and files, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.compression.recipe import Recipe, parse_recipe, read_document
from ensemble.compression.record import read_versions
from ensemble.compression.steps.llm_compressor import LlmCompressor
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from ensemble.compression.calibration_text import CalibrationText


class _Text(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    digest: str


class _Calibration(BaseModel):
    model_config = ConfigDict(frozen=True)

    texts: tuple[_Text, ...]


class Remake(BaseModel):
    """What a record says that its variant was made of, and by which code."""

    model_config = ConfigDict(frozen=True)

    where: str
    source: str
    source_digest: str
    recipe: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    calibration: _Calibration
    calibration_digest: str
    versions: dict[str, str]
    threads: int

    @classmethod
    def read(cls, document: dict[str, Any], *, where: str) -> Self:
        """Take from a record what is needed.

        Raises:
            ConfigError: it is no whole record.
        """
        try:
            return cls.model_validate({**document, "where": where})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            remedy = "give a compression.json as it was written, or a recipe"
            raise ConfigError(f"{where}: {place}", f"the record cannot be read ({first['msg']})", remedy) from error

    def check(self, source_digest: str, text: CalibrationText, recipe: Recipe) -> None:
        """See that everything is given that the variant was made of.

        Raises:
            ConfigError: the source, a text or a file that the recipe names is another one.
        """
        if source_digest != self.source_digest:
            problem = f"its variant was made of {self.source}, {self.source_digest}, and not of {source_digest}"
            raise ConfigError(self.where, problem, "give that source, or the recipe alone to make another variant")
        if text.digest != self.calibration_digest:
            names = ", ".join(f"{text.name} ({text.digest})" for text in self.calibration.texts)
            problem = f"its variant was made with other text: {names}"
            raise ConfigError(self.where, problem, "give that as --calibration; nothing, for the package's own text")
        for number, step in enumerate(recipe.steps):
            findings = self.steps[number] if number < len(self.steps) else {}
            if not step.digest_files().items() <= findings.items():
                problem = f"{step.type} was given a file of other content"
                raise ConfigError(self.where, problem, "put that where the recipe names it")

    def list_differences(self) -> tuple[str, ...]:
        """Say in which versions and threads this process differs: the bytes may differ then, too."""
        now = read_versions()
        differences = [
            f"{name} was {version} and is {now.get(name, 'not there')}"
            for name, version in self.versions.items()
            if now.get(name) != version
        ]
        if self.threads != torch.get_num_threads():
            differences.append(
                f"torch had {self.threads} threads and has {torch.get_num_threads()} (OMP_NUM_THREADS sets it)"
            )
        return tuple(differences)


def load_recipe_or_record(path: Path) -> tuple[Recipe, Remake | None]:
    """Read a recipe, or a variant's record, which holds the recipe that made it.

    Raises:
        ConfigError: it can be read as neither, or a record names a program that would run.
    """
    document = read_document(path)
    if not isinstance(document, dict) or "source_digest" not in document:
        return parse_recipe(document, where=str(path)), None
    remake = Remake.read(document, where=str(path))
    recipe = parse_recipe(remake.recipe, where=str(path))
    # None is ever written down, and whoever makes a variant again has not read the recipe.
    if any(isinstance(step, LlmCompressor) and step.python is not None for step in recipe.steps):
        problem = "the record names a program to run, which no record does as it was written"
        raise ConfigError(f"{path}: recipe", problem, "take python out of it, or give a recipe that you trust")
    return recipe, remake
