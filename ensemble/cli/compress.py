"""``ensemble compress``: from a checkpoint and recipes to smaller checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.cli.compress_view import describe_report, show_standing
from ensemble.cli.phases import show_phases
from ensemble.cli.stored import Output, read_text, with_store
from ensemble.cli.terminal import printable, stderr_console, stdout_console
from ensemble.environment import cache_dir, compress_python
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from ensemble.compression.record import CompressionReport
    from ensemble.compression.standing import Standing


def compress(
    source: Annotated[
        str, typer.Argument(help="A folder, a .gguf file, package:MODULE/FILE.gguf, store:NAME, or org/name.")
    ],
    output: Annotated[
        str, typer.Argument(help="The folder to write, or store:NAME; of several recipes, the folder of their results.")
    ],
    *,
    recipe: Annotated[
        list[Path],
        typer.Option(
            help="A recipe, a YAML file; see deploy/recipes. Several make a variant each. A variant's compression.json "
            "makes it again."
        ),
    ],
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to calibrate and judge by: a text file, JSON lines with text or prompt, or a data set "
            "(org/name[:config][@revision][#split]); may be given several times. Left out, a short English text."
        ),
    ] = None,
    allow_compressed: Annotated[
        bool, typer.Option("--allow-compressed", help="Take a source that a recipe has made, if its weights are float.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Let store:NAME mean what comes out.")] = False,
) -> None:
    """Make a smaller checkpoint by a recipe, or one by each of several, and say what it cost in perplexity.

    Ended by a kill, the same command goes on where it was. Of several recipes, each result is OUTPUT/NAME, by the
    name of the recipe's file; in a store, store:OUTPUT-NAME.

    A variant's record (its compression.json; of a stored one `ensemble models --json` tells it) stands for the recipe
    that made it: SOURCE and the text must then be the record's, by their digests, and `ensemble digest` of both
    variants says whether the bytes are the same.
    """
    console, named = stdout_console(), with_store(source)
    place = Output.of(output, replace=replace, made_from=[named, *(calibration or ()), *map(read_text, recipe)])
    recipe_by_output = name_outputs(place.folder, recipe)
    place.check(recipe_by_output)
    with show_standing(stderr_console()) as on_progress:
        reports = run_recipes(
            named,
            recipe_by_output,
            calibration=calibration or (),
            on_progress=on_progress,
            allow_compressed=allow_compressed,
        )
    for report in reports:
        console.print(describe_report(report), style="bold", markup=False)
        with show_phases(stderr_console(), what=output) as on_phase:
            where = place.publish(Path(report.output), source=named, on_phase=on_phase)
        console.print(f"written to {where}", markup=False, soft_wrap=True)


def name_outputs(output: Path, recipes: Sequence[Path]) -> dict[Path, Path]:
    """Give for each folder to write the recipe that it is made by.

    Raises:
        ConfigError: two recipes have one name.
    """
    if len(recipes) == 1:
        return {output: recipes[0]}
    from ensemble.compression.record import RECORD_NAME  # noqa: PLC0415 - torch takes seconds to import

    # Records all have the same name: their variants' folders say which is which.
    names = [one.absolute().parent.name if one.name == RECORD_NAME else one.stem for one in recipes]
    recipe_by_output = {output / name: recipe for name, recipe in zip(names, recipes, strict=True)}
    if len(recipe_by_output) < len(recipes):
        raise ConfigError("--recipe", "two recipes have the same name", "give their files different names")
    return recipe_by_output


def run_recipes(
    source: str,
    recipe_by_output: dict[Path, Path],
    *,
    calibration: Sequence[str],
    on_progress: Callable[[Standing], None],
    allow_compressed: bool = False,
) -> tuple[CompressionReport, ...]:
    """Read the recipes and compress by them.

    Raises:
        ConfigError: a recipe, the source or an output cannot be used.
    """
    # torch and transformers take seconds to import.
    from ensemble.compression.compress import Variant, make_variants  # noqa: PLC0415
    from ensemble.compression.remake import load_recipe_or_record  # noqa: PLC0415

    variants = []
    for output, path in recipe_by_output.items():
        recipe, remake = load_recipe_or_record(path)
        for difference in remake.list_differences() if remake else ():
            told = printable(f"{path}: {difference}: the bytes may differ")
            stderr_console().print(told, style="yellow", markup=False, soft_wrap=True)
        variants.append(Variant(recipe=recipe.with_compress_python(compress_python()), output=output, remake=remake))
    return make_variants(
        source,
        variants,
        calibration_texts=calibration,
        cache_dir=cache_dir() / "checkpoints",
        on_progress=on_progress,
        allow_compressed=allow_compressed,
    )
