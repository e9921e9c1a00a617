"""TLS in a spec and in the environment: what is taken, and where the files are looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ensemble.cli.evaluation_run import private_spec
from ensemble.cli.options import endpoint_tls
from ensemble.config import TlsConfig
from ensemble.errors import ConfigError
from ensemble.rpc.certificates import ServerCertificates
from ensemble.rpc.client import ClientTls
from ensemble.spec_file import load_spec
from tests.certificates import Authority, Mount
from tests.cli.specs import GOOD, write_spec

FILES = {"certificate": "tls/tls.crt", "key": "tls/tls.key"}


def load_tls(folder: Path, **tls: Any) -> TlsConfig:
    """Load a spec whose router has TLS."""
    router = yaml.safe_dump({"router": {"tls": {**FILES, **tls}}})
    loaded = load_spec(write_spec(folder, f"{GOOD}{router}")).router.tls
    assert loaded is not None
    return loaded


def test_without_tls_the_port_is_plain(tmp_path: Path) -> None:
    assert load_spec(write_spec(tmp_path, GOOD)).router.tls is None


def test_files_are_taken_from_the_specs_folder_and_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    tls = load_tls(tmp_path, key="/etc/tls/key.pem", client_ca="~/ca.pem")

    assert tls.certificate == str(tmp_path / "tls" / "tls.crt")
    assert tls.key == "/etc/tls/key.pem"
    assert tls.client_ca == str(tmp_path / "home" / "ca.pem")


def test_a_mount_that_is_exchanged_after_the_spec_was_read_is_followed(tmp_path: Path) -> None:
    mount, authority = Mount(tmp_path / "tls"), Authority()
    mount.put_identity(authority.issue())
    tls = load_tls(tmp_path)
    mount.put({"tls.crt": b"another", "tls.key": b"another"})

    with pytest.raises(ConfigError, match="it holds no certificate"):
        ServerCertificates(tls)


@pytest.mark.parametrize(
    ("tls", "place"),
    [
        ({"certificate": ""}, "router.tls.certificate"),
        ({"key": None}, "router.tls.key"),
        ({"health_port": 9000}, "router: tls.health_port is 9000, which is the router's own port"),
        ({"health_port": 70_000}, "router.tls.health_port"),
        ({"ca": "ca.pem"}, "router.tls.ca: there is no such key"),
        ({"key": "~nosuchuser/key"}, "router.tls.key: '~nosuchuser/key' cannot be a path"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(tmp_path: Path, tls: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tls(tmp_path, **tls)

    assert place in str(caught.value)


def test_an_evaluation_on_this_machine_alone_needs_no_certificates(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, f"{GOOD}{yaml.safe_dump({'router': {'tls': FILES}})}"))

    assert private_spec(spec, spec.ensembles[0]).router.tls is None


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give an environment that says nothing of TLS."""
    for part in ("CA", "CERTIFICATE", "KEY", "NAME"):
        monkeypatch.delenv(f"ENSEMBLE_TLS_{part}", raising=False)
    return monkeypatch


def test_commands_have_no_tls_unless_the_environment_says_so(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENSEMBLE_TLS_CA", "")

    assert endpoint_tls() is None


def test_commands_take_their_files_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    for part in ("CA", "CERTIFICATE", "KEY", "NAME"):
        environment.setenv(f"ENSEMBLE_TLS_{part}", f"/{part}")

    assert endpoint_tls() == ClientTls(ca=Path("/CA"), certificate=Path("/CERTIFICATE"), key=Path("/KEY"), name="/NAME")


def test_an_environment_without_authorities_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENSEMBLE_TLS_NAME", "ensemble.example")

    with pytest.raises(ConfigError, match="it is not set, and ENSEMBLE_TLS_NAME is") as caught:
        endpoint_tls()

    assert caught.value.where == "ENSEMBLE_TLS_CA"
