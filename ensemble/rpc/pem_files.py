"""Certificates, keys and authorities in PEM files, checked before a connection depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ensemble.errors import ConfigError

MAX_BYTES = 1 << 22
"""A system's whole list of authorities takes a tenth of it."""


@dataclass(frozen=True, slots=True)
class Pem:
    """What a file holds, and how it is named to the operator: its setting and its path."""

    where: str
    raw: bytes


def read_pem(setting: str, path: Path) -> Pem:
    """Read the file that a setting names.

    Raises:
        ConfigError: it cannot be read.
    """
    where = f"{setting} ({path})"
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(where, f"it cannot be read ({error.strerror})", "give a PEM file that is there") from error
    except ValueError as error:  # a null character
        raise ConfigError(where, "that is no path", "give a PEM file that is there") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(where, f"it has more than {MAX_BYTES:,} bytes", "give a PEM file")
    return Pem(where, raw)


def check_identity(certificate: Pem, key: Pem) -> datetime:
    """Check that a certificate can be shown with its key now; gives the end of its time.

    Its file may go on with the certificates between it and its CA.

    Raises:
        ConfigError: one of the files is no PEM, the key is another's or of a kind that gRPC does not offer, or the
            certificate's time is not now.
    """
    own = _certificates(certificate)[0]
    if not _belong_together(own, _private_key(key)):
        problem = f"it is not the key of the first certificate in {certificate.where}"
        raise ConfigError(key.where, problem, "give the two that belong together; in a chain the server's own is first")
    now = datetime.now(UTC)
    if now > own.not_valid_after_utc:
        raise ConfigError(certificate.where, f"it expired at {own.not_valid_after_utc:%F %T} UTC", "renew it")
    if now < own.not_valid_before_utc:
        problem = f"it is not valid before {own.not_valid_before_utc:%F %T} UTC"
        raise ConfigError(certificate.where, problem, "wait until then, or set this machine's clock")
    return own.not_valid_after_utc


def check_authorities(authorities: Pem) -> None:
    """Check that a file of trusted certificates has one whose time is now.

    Raises:
        ConfigError: it is no PEM, or all have expired.
    """
    last = max(one.not_valid_after_utc for one in _certificates(authorities))
    if datetime.now(UTC) > last:
        raise ConfigError(authorities.where, f"the last of its certificates expired at {last:%F %T} UTC", "renew it")


def _belong_together(certificate: x509.Certificate, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a certificate for a key of another kind
        return False


def _certificates(pem: Pem) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.raw)
    except ValueError as error:
        remedy = "give a file with -----BEGIN CERTIFICATE-----"
        raise ConfigError(pem.where, "it holds no certificate, or a broken one", remedy) from error


def _private_key(pem: Pem) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    remedy = "give a file with -----BEGIN PRIVATE KEY-----"
    try:
        key = load_pem_private_key(pem.raw, password=None)
    except TypeError as error:
        raise ConfigError(pem.where, "it is encrypted", f"{remedy}, without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(pem.where, "it holds no private key, or a broken one", remedy) from error
    # What gRPC's clients and servers agree on without being told more.
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in {"secp256r1", "secp384r1"}:
        return key
    raise ConfigError(pem.where, "gRPC takes no keys of its kind", "make one of RSA, P-256 or P-384")
