"""``ensemble models``: what is in a store of checkpoints, and how it gets in and out."""

from __future__ import annotations

import json
from dataclasses import asdict
from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemble.checkpoints.reference import DIGEST_CHARACTERS, STORE_PREFIX, StoreReference
from ensemble.cli.compress_view import MIB
from ensemble.cli.phases import show_phases
from ensemble.cli.stored import family_of, parse_target, short_name, with_store
from ensemble.cli.terminal import plain_table, printable, stderr_console, stdout_console
from ensemble.environment import cache_dir, store_url

if TYPE_CHECKING:
    from rich.table import Table

    from ensemble.checkpoints.store import CheckpointStore
    from ensemble.checkpoints.store_listing import StoredModel

models = typer.Typer(
    name="models",
    help="List a store's checkpoints: names for folders that are found by their digests.\n\n"
    "A spec and every command name one as store:NAME, or as store:sha256:DIGEST, which never means another. The store "
    "is a folder or an fsspec URL (s3://bucket/models): the reference's own, as in store:NAME@URL, or else "
    "ENSEMBLE_STORE, or else a folder in the cache. What lies elsewhere is fetched once a machine.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
StoreUrl = Annotated[str, typer.Option("--store", help="A folder or an fsspec URL; left out, ENSEMBLE_STORE's.")]
Replace = Annotated[bool, typer.Option("--replace", help="Let the name mean this checkpoint from now on.")]


@models.callback(invoke_without_command=True)
def list_all(
    context: typer.Context,
    *,
    store: StoreUrl = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known, as one JSON list.")] = False,
) -> None:
    """List the names; the callback's help is the group's."""
    context.obj = url = store or store_url()
    opened = _open(url)
    if context.invoked_subcommand:
        return
    from ensemble.checkpoints.store_listing import list_models  # noqa: PLC0415 - fsspec takes its time

    found = list_models(opened)
    if as_json:
        typer.echo(json.dumps([_document(one) for one in found], ensure_ascii=False, indent=2))
        return
    console = stdout_console()
    if not found:
        command = f"ensemble models add CHECKPOINT {short_name('NAME', url)}"
        remedy = f"`{command}` stores one, and `ensemble compress` makes smaller ones"
        console.print(f"{opened.root} has no models; {remedy}", markup=False, soft_wrap=True)
        return
    console.print(_draw(found))
    for one in found:
        if one.problem:
            console.print(printable(f"{one.name}: {one.problem}"), style="bold red", markup=False, soft_wrap=True)


@models.command()
def add(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="As a spec names it: a folder, a .gguf file, org/name, ...")],
    name: Annotated[str, typer.Argument(help="What it will be: store:NAME.")],
    *,
    family: Annotated[str, typer.Option(help="The base model it comes from; left out, told from its source.")] = "",
    replace: Replace = False,
) -> None:
    """Store a checkpoint under a name, converting or fetching it first; mends a damaged one of the same bytes."""
    from ensemble.checkpoints.resolve import resolve_checkpoint  # noqa: PLC0415 - heavy

    target, source = _place(context, name), with_store(checkpoint)
    with show_phases(stderr_console(), what=name) as on_phase:
        folder = resolve_checkpoint(source, cache_dir=cache_dir() / "checkpoints", on_phase=on_phase)
        stored = _open(target.url).put(
            folder,
            target.name,
            family=family or family_of(source),
            source=source,
            replace=replace,
            on_phase=on_phase,
        )
    typer.echo(f"store:{short_name(stored.name, target.url)} is {stored.digest}")


@models.command()
def remove(context: typer.Context, name: Annotated[str, typer.Argument(help="As it is listed.")]) -> None:
    """Take a name away; its checkpoint stays until `ensemble models prune`."""
    target = _place(context, name)
    removed = _open(target.url).remove(target.name)
    option = "" if target.url == store_url() else f" --store {target.url}"
    said = f"store:{short_name(removed.name, target.url)} was {removed.digest}"
    typer.echo(f"{said}, which stays until `ensemble models{option} prune`")


@models.command()
def prune(
    context: typer.Context,
    *,
    older_than_min: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="What was written more lately stays: it may be about to be named. Behind a URL nothing else tells "
            "what others are storing.",
        ),
    ] = 60.0,
) -> None:
    """Take away checkpoints that no name leads to, and what interrupted writers left."""
    freed: list[int] = []
    for name, num_bytes in _open(context.obj).prune(grace_s=older_than_min * 60):
        typer.echo(f"removed {name}")
        freed.append(num_bytes)
    if freed:
        typer.echo(f"{sum(freed) / MIB:.0f} MiB are free again")
    else:
        typer.echo(f"nothing is removed; what was written within the last {older_than_min:g} min stays")


def _place(context: typer.Context, name: str) -> StoreReference:
    """Give the name that is meant and its store: one with @URL says itself which, else --store does."""
    target = parse_target(f"{STORE_PREFIX}{name.removeprefix(STORE_PREFIX)}")
    return target if "@" in name else replaced(target, url=context.obj)


def _open(url: str) -> CheckpointStore:
    from ensemble.checkpoints.store import CheckpointStore  # noqa: PLC0415 - as above

    return CheckpointStore.at(url)


def _draw(found: tuple[StoredModel, ...]) -> Table:
    table = plain_table("name", "family", "source", "steps", "digest", numbers=("MiB", "perplexity", "evaluated"))
    for one in found:
        perplexities = "{:.2f} to {:.2f}".format(*one.perplexities) if one.perplexities else ""
        cells = (one.name, one.family, one.source, ", ".join(one.steps), one.digest[:DIGEST_CHARACTERS])
        figures = (f"{one.num_bytes / MIB:.0f}", perplexities, "yes" if one.evaluation else "")
        table.add_row(*map(printable, (*cells, *figures)), style="bold red" if one.problem else "")
    return table


def _document(one: StoredModel) -> dict[str, Any]:
    return {**asdict(one), "stored_at": one.stored_at.isoformat(), "steps": one.steps}
