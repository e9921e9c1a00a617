"""What a recipe can say: steps in their order, each with its own options."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.compression.calibration_options import CalibrationOptions
from ensemble.compression.steps.llm_compressor import LlmCompressor
from ensemble.compression.steps.registry import AnyStep
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class Recipe(BaseModel):
    """Steps in the order in which they are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[AnyStep, ...] = Field(min_length=1, max_length=16)
    seed: int = Field(default=0, ge=0, lt=2**31, description="what steps that draw begin from")
    calibration: CalibrationOptions = CalibrationOptions()

    @model_validator(mode="after")
    def _quantize_last(self) -> Self:
        early = [step.type for step in self.steps[:-1] if step.is_last]
        if early:
            message = f"{early[0]} must be the last step: the others need float weights"
            raise ValueError(message)
        return self

    def with_compress_python(self, python: Path) -> Self:
        """Have this Python run the steps that need an environment of their own and name none."""
        steps = tuple(
            step.model_copy(update={"python": python})
            if isinstance(step, LlmCompressor) and step.python is None
            else step
            for step in self.steps
        )
        return self.model_copy(update={"steps": steps})


def recipe_schema() -> str:
    """Give the recipes' JSON schema, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        ConfigError: it cannot be read, or says something that a recipe cannot say.
    """
    return parse_recipe(read_document(path), where=str(path))


def read_document(path: Path) -> object:
    """Read what a recipe's file says, whatever it is.

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    try:
        text = path.read_text("utf-8")
        # A record is JSON. To YAML 1.1 its 1e-05 is a text, and a character beyond 16 bits two halves.
        with suppress(ValueError):
            return json.loads(text)
        return yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"the recipe cannot be read ({error})", "check the path") from error
    except RecursionError as error:
        raise ConfigError(str(path), "the recipe is nested too deeply", "write a list of steps") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"the recipe is not YAML ({error})", "check the indentation") from error


def parse_recipe(document: object, *, where: str) -> Recipe:
    """Check a recipe that was read already.

    Raises:
        ConfigError: it says something that a recipe cannot say.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise ConfigError(f"{where}: {place}", first["msg"], "see the recipes in deploy/recipes") from error
