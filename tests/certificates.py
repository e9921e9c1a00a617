"""Real certificates for tests, and folders of them as Kubernetes mounts secrets."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from ensemble.config import TlsConfig
from ensemble.rpc.client import ClientTls

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
HANDSHAKE_TIMEOUT_S = 20.0


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a key of the usual kind."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The certificate as a file holds it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as a file holds it."""
        return self._key_pem(NoEncryption())

    def encrypted_key_pem(self, password: str) -> bytes:
        """Give the key as a file with a password holds it."""
        return self._key_pem(BestAvailableEncryption(password.encode()))

    def _key_pem(self, encryption: KeySerializationEncryption) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def build_certificate(  # the parts in which tests differ
    name: str,
    key: Key,
    issuer: Issued | None,
    *,
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
    begins_in: timedelta = timedelta(hours=-1),
    ends_in: timedelta = timedelta(days=1),
) -> Issued:
    """Make a certificate; one without an issuer is an authority."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins_in)
        .not_valid_after(now + ends_in)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(one) for one in hosts]), critical=False
        )
    signer = issuer.key if issuer else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(certificate=builder.sign(signer, algorithm), key=key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates."""

    name: str = "authority"
    own: Issued = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", build_certificate(self.name, new_key(), None))

    def issue(
        self,
        name: str = "server",
        *,
        key: Key | None = None,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        begins_in: timedelta = timedelta(hours=-1),
        ends_in: timedelta = timedelta(days=1),
    ) -> Issued:
        """Make a certificate for hosts of this machine."""
        key = key or new_key()
        return build_certificate(name, key, self.own, hosts=hosts, begins_in=begins_in, ends_in=ends_in)


@dataclass(slots=True)
class Mount:
    """A folder as Kubernetes mounts a secret: its files are links into a folder that is exchanged as a whole."""

    folder: Path
    _num_put: int = 0

    def put(self, content_by_name: Mapping[str, bytes]) -> None:
        """Exchange all files at once."""
        self._num_put += 1
        dated = self.folder / f"..{self._num_put}"
        dated.mkdir(parents=True)
        for name, content in content_by_name.items():
            (dated / name).write_bytes(content)
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data") / name)
        (self.folder / "..new").symlink_to(dated.name)
        os.replace(self.folder / "..new", self.folder / "..data")  # noqa: PTH105 - in one step

    def put_identity(self, issued: Issued, *, client_ca: Authority | None = None) -> None:
        """Exchange certificate and key, and the authority of clients with them."""
        authorities = {"ca.crt": client_ca.own.pem} if client_ca else {}
        self.put({"tls.crt": issued.pem, "tls.key": issued.key_pem, **authorities})

    def config(self, *, with_clients: bool = False, health_port: int = 0) -> TlsConfig:
        """Name the files as a spec does."""
        return TlsConfig(
            certificate=str(self.folder / "tls.crt"),
            key=str(self.folder / "tls.key"),
            client_ca=str(self.folder / "ca.crt") if with_clients else "",
            health_port=health_port,
        )


def client_tls(folder: Path, authority: Authority, *, own: Issued | None = None, name: str = "") -> ClientTls:
    """Write a client's files; ``own`` is its own certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(authority.own.pem)
    if own is None:
        return ClientTls(ca=folder / "ca.pem", name=name)
    (folder / "own.pem").write_bytes(own.pem)
    (folder / "own.key").write_bytes(own.key_pem)
    return ClientTls(ca=folder / "ca.pem", certificate=folder / "own.pem", key=folder / "own.key", name=name)


def shown_serial(address: str) -> int:
    """Connect, and read the serial number of the certificate that the server shows."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what it shows is read, whoever signed it
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=HANDSHAKE_TIMEOUT_S) as plain,
        context.wrap_socket(plain) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
