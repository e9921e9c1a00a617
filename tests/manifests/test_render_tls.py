"""``ensemble render k8s`` of a spec with TLS: its workers have the files, and are found ready without TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensemble.cli.entry import app
from ensemble.spec_file import load_spec
from tests.manifests.rendered import K8S, ROOT, Resource, needs_kubectl, ray_service, render_folder

TLS = {
    "certificate": "/etc/ensemble-tls/tls.crt",
    "key": "/etc/ensemble-tls/tls.key",
    "client_ca": "/etc/ensemble-tls/ca.crt",
    "health_port": "9001",
}


def render_with(folder: Path, tls: dict[str, str]) -> tuple[int, str]:
    """Give the three nodes' spec TLS, and render it."""
    text = (ROOT / "deploy/specs/three-nodes.yaml").read_text(encoding="utf-8")
    lines = "".join(f"    {key}: {value}\n" for key, value in tls.items())
    path = folder / "spec.yaml"
    path.write_text(text.replace("router:\n", f"router:\n  tls:\n{lines}"), encoding="utf-8")
    arguments = ["render", "k8s", str(path), "--out", str(folder / "overlay"), "--base", str(K8S / "base")]
    outcome = CliRunner().invoke(app, arguments)
    return outcome.exit_code, outcome.output


@needs_kubectl
def test_workers_mount_the_whole_secret_and_are_probed_without_tls(tmp_path: Path) -> None:
    code, output = render_with(tmp_path, TLS)

    assert code == 0, output
    service = ray_service(render_folder(tmp_path / "overlay"))
    pod = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    container: Resource = pod["containers"][0]
    tls = load_spec(tmp_path / "spec.yaml").router.tls
    assert tls is not None
    assert {"name": "tls", "secret": {"secretName": "ensemble-tls"}} in pod["volumes"]
    # A subPath would be a copy that no rotation reaches.
    assert {"name": "tls", "mountPath": str(Path(tls.key).parent), "readOnly": True} in container["volumeMounts"]
    assert container["readinessProbe"]["grpc"] == {"port": tls.health_port}
    assert tls.health_port in [port["containerPort"] for port in container["ports"]]
    (port,) = service["spec"]["serveService"]["spec"]["ports"]
    assert "appProtocol" not in port


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"key": "/etc/ensemble/tls.key"}, "router.tls.key: /etc/ensemble/tls.key is no file of the secret"),
        ({"client_ca": "/etc/ensemble-tls"}, "router.tls.client_ca: /etc/ensemble-tls is no file of the secret"),
        ({"health_port": "0"}, "router.tls.health_port: it is 0, and the workers' readiness probe asks 9001"),
    ],
)
def test_tls_that_pods_could_not_have_is_refused_by_field(
    tmp_path: Path, changed: dict[str, str], problem: str
) -> None:
    code, output = render_with(tmp_path, TLS | changed)

    assert code == 2
    assert problem in output
