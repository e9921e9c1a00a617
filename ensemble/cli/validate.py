"""``ensemble validate`` and ``ensemble schema``: a spec without running it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ensemble.checkpoints.check_reference import check_reference
from ensemble.cli.terminal import plain_table, stdout_console
from ensemble.config import MemberConfig, Spec
from ensemble.engines.config import VllmEngineConfig
from ensemble.engines.vllm_options import check_options, find_largest_rank, read_argument_names
from ensemble.errors import CheckpointError, ConfigError
from ensemble.router.config import QuorumConfig
from ensemble.spec_file import load_calibrations, load_spec, spec_schema

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file; see `ensemble schema`.")]


def validate(
    spec: SpecPath,
    *,
    skip_checkpoints: Annotated[
        bool,
        typer.Option(
            "--skip-checkpoints", help="Do not look for the checkpoints, nor at vLLM: they lie on another machine."
        ),
    ] = False,
) -> None:
    """Check a spec, and whether the checkpoints it names are there; exits with 2 and the reason when it is bad.

    `ensemble plan` reads their headers, too, and says what goes where.
    """
    checked = load_spec(spec)
    load_calibrations(checked)
    if not skip_checkpoints:
        check_runnable(checked)
    console = stdout_console()
    console.print(_draw_members(checked))
    console.print()
    console.print(_draw_ensembles(checked))
    host = f"[{checked.router.host}]" if ":" in checked.router.host else checked.router.host
    console.print(f"\n{spec} is valid; it answers on {host}:{checked.router.port}", markup=False)


class SchemaKind(StrEnum):
    """What has a schema."""

    SPEC = "spec"
    RECIPE = "recipe"


def schema(
    kind: Annotated[SchemaKind, typer.Argument(metavar="[spec|recipe]", help="Of which files.")] = SchemaKind.SPEC,
) -> None:
    """Print the JSON schema of specs, or of recipes, for editors that complete and check YAML."""
    if kind == SchemaKind.SPEC:
        typer.echo(spec_schema(), nl=False)
        return
    # It brings torch and transformers along, which take seconds to import.
    from ensemble.compression.recipe import recipe_schema  # noqa: PLC0415

    typer.echo(recipe_schema(), nl=False)


def check_runnable(spec: Spec) -> None:
    """Check that all checkpoints and adapters are there, and that vLLM has the options it gets, if known here.

    Raises:
        ConfigError: one is not, or it has not; it names the member and the field.
    """
    for index, member in enumerate(spec.members):
        for field, reference in member.checkpoint_by_field.items():
            try:
                check_reference(reference, has_weights=member.has_weights)
            except CheckpointError as error:
                where = f"members[{index}].{field} ({error.where})"
                raise CheckpointError(where, error.problem, error.remedy) from error
        if isinstance(member.engine, VllmEngineConfig):
            try:
                _check_vllm(member.engine)
            except ConfigError as error:
                raise type(error)(f"members[{index}].{error.where}", error.problem, error.remedy) from error


def _check_vllm(engine: VllmEngineConfig) -> None:
    if engine.options:
        check_options(engine.options, read_argument_names())
    if engine.lora:
        find_largest_rank(engine.lora)


def _draw_members(spec: Spec) -> Table:
    table = plain_table("member", "family", "engine", "replicas", "cpus", "gpus", "weight", "checkpoint")
    for member in spec.members:
        resources = member.resources
        _add_row(
            table,
            member.name,
            member.family,
            _describe_engine(member),
            str(member.replicas),
            f"{resources.cpus:g}",
            f"{resources.gpus:g}",
            f"{member.weight:g}",
            member.checkpoint,
        )
    return table


def _draw_ensembles(spec: Spec) -> Table:
    table = plain_table("ensemble", "classify", "generate", "quorum", "members")
    for ensemble in spec.ensembles:
        _add_row(
            table,
            ensemble.name,
            ensemble.classify_strategy,
            ensemble.generate_strategy,
            _describe_quorum(ensemble.quorum),
            ", ".join(ensemble.members),
        )
    return table


def _describe_engine(member: MemberConfig) -> str:
    return f"embedded {member.engine.dtype}" if member.engine.type == "embedded" else member.engine.type


def _describe_quorum(quorum: QuorumConfig) -> str:
    families = "1 family" if quorum.min_families == 1 else f"{quorum.min_families} families"
    ending = "stops early" if quorum.stop_early else "waits for all"
    return f"weight {quorum.min_weight:g}, {families}, {ending}"


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))
