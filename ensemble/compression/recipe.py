"""What a recipe can say: steps in their order, each with its own options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.checkpoints.layer_names import check_layer_name
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


HEADS = ("lm_head", "classifier", "score", "out_proj")
"""The last layers of causal models and classifiers: few weights of much effect, or shared with the embeddings."""
LayerName = Annotated[str, AfterValidator(check_layer_name)]


class PruneLayers(BaseModel):
    """Drop the decoder layers that change their input least on the calibration text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["prune_layers"] = "prune_layers"
    num_layers: int = Field(ge=1, le=1024, description="how many to drop")
    protect_first: int = Field(default=1, ge=0, description="layers at the start that stay")
    protect_last: int = Field(default=1, ge=0, description="layers at the end that stay")


class QuantizeInt8(BaseModel):
    """Round the weights of linear layers to 8 bits, one scale for each output channel; activations stay float."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["quantize_int8"] = "quantize_int8"
    ignore: tuple[LayerName, ...] = Field(
        default=("lm_head",), description="layers that stay float, by full name, last part, or re:pattern"
    )


class QuantizeInt4(BaseModel):
    """Round the weights of linear layers to 4 bits, one scale for each group of input features.

    A group is the largest of 128, 64 and 32 that divides a layer's input features; a layer that none divides stays
    float.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["quantize_int4"] = "quantize_int4"
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay float, by full name, last part, or re:pattern"
    )


class PruneWeights(BaseModel):
    """Set the weights of smallest magnitude to zero, layer by layer (Han et al. 2015, arXiv:1506.02626)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["prune_weights"] = "prune_weights"
    sparsity: float = Field(default=0.5, gt=0.0, lt=1.0, description="share of each layer's weights that become zero")
    targets: tuple[Literal["Linear", "Embedding"], ...] = Field(
        default=("Linear",), min_length=1, description="kinds of layers whose weights are pruned"
    )
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay whole, by full name, last part, or re:pattern"
    )


QUANTIZERS = (QuantizeInt8, QuantizeInt4)
Step = Annotated[PruneLayers | PruneWeights | QuantizeInt8 | QuantizeInt4, Field(discriminator="type")]


class Recipe(BaseModel):
    """Steps in the order in which they are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[Step, ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _quantize_last(self) -> Self:
        early = [step.type for step in self.steps[:-1] if isinstance(step, QUANTIZERS)]
        if early:
            message = f"{early[0]} must be the last step: the others need float weights"
            raise ValueError(message)
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        ConfigError: it cannot be read, or says something that a recipe cannot say.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"the recipe cannot be read ({error})", "check the path") from error
    except RecursionError as error:
        raise ConfigError(str(path), "the recipe is nested too deeply", "write a list of steps") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"the recipe is not YAML ({error})", "check the indentation") from error
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise ConfigError(f"{path}: {where}", first["msg"], "see the recipes in deploy/recipes") from error
