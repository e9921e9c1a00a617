"""``ensemble render``: a spec in the words of what will run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.cli.validate import SpecPath
from ensemble.errors import ConfigError
from ensemble.files.whole_file import disk_watched, write_whole

if TYPE_CHECKING:
    from ensemble.manifests.sizing import WorkerSize

render = typer.Typer(name="render", help="Write a spec in the words of what will run it.", no_args_is_help=True)

Image = Annotated[str, typer.Option(help="The image, by tag or digest; left out, the manifests' own.")]
Base = Annotated[Path, typer.Option(help="The folder k8s/base of this project.")]
Models = Annotated[
    Path | None,
    typer.Option(help="What sha256sum says of the volume's files, for checkpoints below /models; best in a copy."),
]
GpuMemory = Annotated[
    float, typer.Option(min=0.0, help="Memory of each of the nodes' GPUs; left out, shares are not checked.")
]
BASE = Path("k8s/base")
TEMPLATE = Path("deploy/jobs/rayjob.yaml")


@render.command()
def k8s(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    *,
    out: Annotated[Path, typer.Option(help="The overlay's folder; files of an earlier rendering are replaced.")],
    base: Base = BASE,
    image: Image = "",
    models: Models = None,
    gpu_memory_gib: GpuMemory = 0.0,
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
    _tell(out, overlay.size)
    typer.echo(f"try: kubectl kustomize {out}")


@render.command()
def job(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    *,
    out: Annotated[Path, typer.Option(help="The manifest to write; one of an earlier rendering is replaced.")],
    template: Annotated[
        Path, typer.Option(help="deploy/jobs/rayjob.yaml of this project, or yours like it.")
    ] = TEMPLATE,
    base: Base = BASE,
    image: Image = "",
    models: Models = None,
    gpu_memory_gib: GpuMemory = 0.0,
) -> None:
    """Write a RayJob that runs `ensemble batch` with a spec on a cluster of its own, which ends with it.

    Its workers are those that `ensemble render k8s` makes for the spec, whose port, TLS and feedback a batch leaves
    out. What the job runs, and where input and output lie, is the template's.

    Apply it with `kubectl apply -f FILE`. A spec that could not run there is refused, with 2 as the exit code.
    """
    # `--help` need not load YAML.
    from ensemble.manifests.batch_job import build_job  # noqa: PLC0415
    from ensemble.manifests.overlay import Surroundings  # noqa: PLC0415

    around = Surroundings(image=image, models=models, gpu_memory_gib=gpu_memory_gib)
    rendered = build_job(spec, template=template, components=base.parent / "components", around=around)
    heading = f"# Written by `ensemble render job {spec.name}`: render again rather than edit.\n"
    with disk_watched(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, heading.encode() + rendered.content)
    _tell(out, rendered.size)
    typer.echo(f"try: kubectl apply --dry-run=server -f {out}")


def _tell(out: Path, size: WorkerSize) -> None:
    gpus = f", {size.gpus} GPUs" if size.gpus else ""
    typer.echo(f"{out}: {size.workers} workers of {size.cpus} cores, {size.memory_gib} GiB{gpus}")
