"""Whether a spec can run in the pods of k8s/base at all."""

from __future__ import annotations

from pathlib import Path

from ensemble.checkpoints.reference import PACKAGE_PREFIX, STORE_PREFIX, parse_stored
from ensemble.config import MemberConfig, Spec, TlsConfig
from ensemble.errors import ConfigError
from ensemble.manifests.volumes import MODELS, STATE, TLS, is_below

PORT = 9000
HEALTH_PORT = 9001
"""What k8s/components/tls lets the kubelet ask, whose gRPC probes know no TLS."""
NODE_DRAIN_S = 90.0
"""RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S in k8s/base, itself less than the pods' grace period."""
REPLICA_MARGIN_S = 10.0
"""What Serve gives a replica beyond its drain."""


def check_fitness(spec: Spec, folder: Path) -> None:
    """Check what only shows in a cluster of pods; ``folder`` is the spec's own.

    Raises:
        ConfigError: the spec cannot run there; it names the field.
    """
    _check_router(spec)
    if spec.router.tls:
        _check_tls(spec.router.tls)
    if spec.serving.drain_timeout_s + REPLICA_MARGIN_S >= NODE_DRAIN_S:
        raise ConfigError(
            "serving.drain_timeout_s",
            f"it is {spec.serving.drain_timeout_s:g}, and a node has {NODE_DRAIN_S:g} s to drain all its replicas",
            f"set it below {NODE_DRAIN_S - REPLICA_MARGIN_S:g}",
        )
    check_members(spec, folder)


def check_members(spec: Spec, folder: Path) -> None:
    """Check what any pods must give to members, those of a batch, too, whose router is its own.

    Raises:
        ConfigError: the spec cannot run there; it names the field.
    """
    _check_head_stays_idle(spec)
    for index, member in enumerate(spec.members):
        for field, reference in _references_of(member).items():
            _check_reference(f"members[{index}].{field}", reference)
    _check_files(spec, folder)


def check_beside(file: Path, folder: Path, *, where: str) -> None:
    """Check that a file lies in the spec's folder.

    Raises:
        ConfigError: it does not.
    """
    if file.parent != folder.resolve():
        problem = f"{file} lies elsewhere than the spec"
        raise ConfigError(where, problem, "put it beside the spec: both travel in one ConfigMap")


def models_named(spec: Spec) -> dict[str, str]:
    """Give all that lies on the volume of models, by the field that names it."""
    return {
        f"members[{index}].{field}": _path_of(reference)
        for index, member in enumerate(spec.members)
        for field, reference in _references_of(member).items()
        if is_below(_path_of(reference), MODELS)
    }


def state_needed(spec: Spec) -> bool:
    """Say whether an ensemble keeps feedback."""
    return any(ensemble.feedback for ensemble in spec.ensembles)


def _check_router(spec: Spec) -> None:
    router = spec.router
    if router.host in {"127.0.0.1", "::1", "localhost"}:
        raise ConfigError("router.host", f"{router.host} is reached from its own pod alone", "set it to 0.0.0.0")
    if router.port != PORT:
        raise ConfigError("router.port", f"it is {router.port}, and the service asks {PORT}", f"set it to {PORT}")
    if router.max_per_node != 1:
        raise ConfigError(
            "router.max_per_node", f"it is {router.max_per_node}, and every worker needs a router", "set it to 1"
        )


def _check_tls(tls: TlsConfig) -> None:
    for field, path in tls.model_dump(include={"certificate", "key", "client_ca"}, exclude_defaults=True).items():
        if not is_below(path, TLS):
            problem = f"{path} is no file of the secret ensemble-tls"
            raise ConfigError(f"router.tls.{field}", problem, f"give {TLS}/NAME: the secret is mounted there")
    if tls.health_port != HEALTH_PORT:
        problem = f"it is {tls.health_port}, and the workers' readiness probe asks {HEALTH_PORT}, without TLS"
        raise ConfigError("router.tls.health_port", problem, f"set it to {HEALTH_PORT}")


def _check_head_stays_idle(spec: Spec) -> None:
    cpus_by_place = {f"members[{i}].resources": member.resources.cpus for i, member in enumerate(spec.members)}
    for where, cpus in (cpus_by_place | {"router": spec.router.cpus, "voting": spec.voting.cpus}).items():
        if not cpus:
            raise ConfigError(f"{where}.cpus", "with 0 it may land on the head, which does no work", "set it above 0")


def _references_of(member: MemberConfig) -> dict[str, str]:
    """Give all that a member loads, its adapter included, by the field that names it."""
    adapter = {"engine.lora": member.adapter} if member.adapter else {}
    return member.checkpoint_by_field | adapter


def _check_reference(where: str, reference: str) -> None:
    if reference.startswith(PACKAGE_PREFIX) or is_below(_path_of(reference), MODELS):
        return
    if reference.startswith(STORE_PREFIX):
        name, _, url = reference.partition("@")
        remedy = f"put the store on the volume of models, and write {name}@{MODELS}/NAME"
        raise ConfigError(where, f"{name} is in the store {url}, which workers may not reach", remedy)
    problem = "is a path of this machine" if reference.startswith("/") else "would be fetched, and workers may not"
    raise ConfigError(where, f"{reference} {problem}", f"put it on the volume of models, as {MODELS}/NAME")


def _path_of(reference: str) -> str:
    """Give where a checkpoint lies."""
    return parse_stored(reference).path if reference.startswith(STORE_PREFIX) else reference


def _check_files(spec: Spec, folder: Path) -> None:
    for index, ensemble in enumerate(spec.ensembles):
        where = f"ensembles[{index}]"
        if ensemble.calibration:
            check_beside(Path(ensemble.calibration), folder, where=f"{where}.calibration")
        if ensemble.feedback and not is_below(ensemble.feedback.state_dir, STATE):
            problem = f"{ensemble.feedback.state_dir} would be lost with its pod"
            raise ConfigError(f"{where}.feedback.state_dir", problem, f"choose a folder below {STATE}, a shared volume")
