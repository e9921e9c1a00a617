"""Whether a spec can run in the pods of k8s/base at all."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ensemble.checkpoints.reference import PACKAGE_PREFIX
from ensemble.config import MemberConfig, Spec
from ensemble.errors import ConfigError
from ensemble.manifests.sizing import wanted_resources

PORT = 9000
NODE_DRAIN_S = 90.0
"""RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S in k8s/base, itself less than the pods' grace period."""
REPLICA_MARGIN_S = 10.0
"""What Serve gives a replica beyond its drain."""
MODELS = PurePosixPath("/models")
STATE = PurePosixPath("/var/lib/ensemble")


def check_fitness(spec: Spec, folder: Path) -> None:
    """Check what only shows in a cluster of pods; ``folder`` is the spec's own.

    Raises:
        ConfigError: the spec cannot run there; it names the field.
    """
    _check_router(spec)
    _check_head_stays_idle(spec)
    if spec.serving.drain_timeout_s + REPLICA_MARGIN_S >= NODE_DRAIN_S:
        raise ConfigError(
            "serving.drain_timeout_s",
            f"it is {spec.serving.drain_timeout_s:g}, and a node has {NODE_DRAIN_S:g} s to drain all its replicas",
            f"set it below {NODE_DRAIN_S - REPLICA_MARGIN_S:g}",
        )
    for index, member in enumerate(spec.members):
        _check_checkpoint(f"members[{index}].checkpoint", member)
    _check_files(spec, folder)


def models_needed(spec: Spec) -> bool:
    """Say whether a member's checkpoint lies on the volume of models."""
    return any(member.checkpoint and _is_below(member.checkpoint, MODELS) for member in spec.members)


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


def _check_head_stays_idle(spec: Spec) -> None:
    for where, (resources, _) in wanted_resources(spec).items():
        if not resources.cpus:
            raise ConfigError(f"{where}.cpus", "with 0 it may land on the head, which does no work", "set it above 0")


def _check_checkpoint(where: str, member: MemberConfig) -> None:
    checkpoint = member.checkpoint
    if not checkpoint or checkpoint.startswith(PACKAGE_PREFIX) or _is_below(checkpoint, MODELS):
        return
    problem = "is a path of this machine" if checkpoint.startswith("/") else "would be fetched, and workers may not"
    raise ConfigError(where, f"{checkpoint} {problem}", f"put it on the volume of models, as {MODELS}/NAME")


def _check_files(spec: Spec, folder: Path) -> None:
    for index, ensemble in enumerate(spec.ensembles):
        where = f"ensembles[{index}]"
        if ensemble.calibration and Path(ensemble.calibration).parent != folder.resolve():
            problem = f"{ensemble.calibration} lies elsewhere than the spec"
            raise ConfigError(f"{where}.calibration", problem, "put it beside the spec: both travel in one ConfigMap")
        if ensemble.feedback and not _is_below(ensemble.feedback.state_dir, STATE):
            problem = f"{ensemble.feedback.state_dir} would be lost with its pod"
            raise ConfigError(f"{where}.feedback.state_dir", problem, f"choose a folder below {STATE}, a shared volume")


def _is_below(path: str, folder: PurePosixPath) -> bool:
    return PurePosixPath(path).is_relative_to(folder) and PurePosixPath(path) != folder
