"""``ensemble render``: a spec in the words of what will run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.cli.validate import SpecPath
from ensemble.errors import ConfigError
from ensemble.files.whole_file import disk_watched, write_whole

render = typer.Typer(name="render", help="Write a spec in the words of what will run it.", no_args_is_help=True)


@render.callback()
def _targets() -> None:
    """Keep the target a word of its own, though there is one."""


@render.command()
def k8s(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    *,
    out: Annotated[Path, typer.Option(help="The overlay's folder; files of an earlier rendering are replaced.")],
    base: Annotated[Path, typer.Option(help="The folder k8s/base of this project.")] = Path("k8s/base"),
    image: Annotated[str, typer.Option(help="The image, by tag or digest; left out, the base's.")] = "",
    models: Annotated[
        Path | None,
        typer.Option(help="What sha256sum says of the volume's files, for checkpoints below /models; best in a copy."),
    ] = None,
    gpu_memory_gib: Annotated[
        float, typer.Option(min=0.0, help="Memory of each of the nodes' GPUs; left out, shares are not checked.")
    ] = 0.0,
    production: Annotated[
        bool,
        typer.Option("--production", help="With Redis for the head's state, Ray's token, and a route from a gateway."),
    ] = False,
) -> None:
    """Write a kustomize overlay that runs a spec: as many workers as it has routers, each with room for its replicas.

    The workers are the smallest on which `ensemble plan` finds a place for every replica, with cores and memory for
    twice as many: an update starts the new ones before the old ones end. Checkpoints are measured where they are at
    hand: in installed packages, and beside --models; elsewhere resources.memory_gib must say what a replica takes.

    Apply it with `kubectl apply -k DIR`. A spec that could not run there is refused, with 2 as the exit code.
    """
    # `--help` need not load YAML.
    from ensemble.manifests.overlay import Surroundings, build_overlay, with_heading  # noqa: PLC0415

    if not (base / "kustomization.yaml").is_file():
        raise ConfigError(f"--base {base}", "there is no kustomization.yaml", "give the folder k8s/base")
    around = Surroundings(image=image, models=models, gpu_memory_gib=gpu_memory_gib, in_production=production)
    overlay = build_overlay(spec, out, base=base, around=around)
    overlay = with_heading(overlay, f"Written by `ensemble render k8s {spec.name}`: render again rather than edit.")
    with disk_watched(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in overlay.content_by_name.items():
        write_whole(out / name, content)
    size = overlay.size
    gpus = f", {size.gpus} GPUs" if size.gpus else ""
    typer.echo(f"{out}: {size.workers} workers of {size.cpus} cores, {size.memory_gib} GiB{gpus}")
    typer.echo(f"try: kubectl kustomize {out}")
