"""What ``ensemble render`` knows of the pods by heart is what the pods and the program have."""

from __future__ import annotations

import re
from typing import Any

from ensemble.manifests.fitness import HEALTH_PORT, NODE_DRAIN_S, PORT, REPLICA_MARGIN_S
from ensemble.serving.application import SHUTDOWN_MARGIN_S
from tests.manifests.rendered import K8S, ROOT, groups, load_file
from tests.manifests.test_image import WRITABLE

GUIDE = (ROOT / "deploy/OPERATING.md").read_text(encoding="utf-8")


def test_the_nodes_drain_is_that_of_every_pod() -> None:
    base = groups(load_file(K8S / "base/ray-service.yaml"))

    for group in base.values():
        env = {one["name"]: one["value"] for one in group["template"]["spec"]["containers"][0]["env"]}
        assert float(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) == NODE_DRAIN_S


def test_a_replicas_margin_is_serves() -> None:
    assert REPLICA_MARGIN_S == SHUTDOWN_MARGIN_S


def test_the_ports_are_those_that_are_asked() -> None:
    (worker,) = (one for name, one in groups(load_file(K8S / "base/ray-service.yaml")).items() if name != "head")
    changes: Any = load_file(K8S / "components/tls/router.yaml")[0]

    assert worker["template"]["spec"]["containers"][0]["readinessProbe"]["grpc"]["port"] == PORT
    assert [one["value"] for one in changes if one["path"].endswith("grpc/port")] == [HEALTH_PORT]
    # The image's own check knows no TLS either: the guide's does.
    assert f"--endpoint localhost:{HEALTH_PORT}" in GUIDE


def test_a_containers_folders_are_its_users_own_and_run_what_is_compiled_there() -> None:
    options_by_folder = {
        folder: set(options.split(",")) for folder, options in re.findall(r"--tmpfs ([\w/]+)(?::(\S+))?", GUIDE)
    }

    assert options_by_folder.keys() == WRITABLE.keys() - {"/dev/shm"}  # noqa: S108
    # Docker mounts them noexec otherwise, and engines load what they compile.
    assert all(options >= {"exec", "uid=10001"} for options in options_by_folder.values())
