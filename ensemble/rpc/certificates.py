"""The certificate that a server shows, and whose clients it takes; files that change are read again."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

import grpc

from ensemble.config import TlsConfig
from ensemble.errors import ConfigError
from ensemble.rpc.pem_files import Pem, check_authorities, check_identity, read_pem

_log = logging.getLogger(__name__)


class ServerCertificates:
    """A server's certificate and key, and the authorities of its clients' where those must have one.

    gRPC asks for them before each handshake, in threads of its own: whoever connects waits for the files, nobody else.
    """

    def __init__(self, config: TlsConfig) -> None:
        """Read and check the files.

        Raises:
            ConfigError: one cannot be used; it names the field and the file.
        """
        self._config = config
        self._lock = Lock()
        self._problem = ""
        self._shown = self._read()
        _check(self._shown)

    def credentials(self) -> grpc.ServerCredentials:
        """Give what a port is opened with; what it shows follows the files from then on."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._shown),
            self._changed,  # type: ignore[arg-type]  # the stubs forget None
            require_client_authentication=bool(self._config.client_ca),
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Give what is to be shown from now on; None leaves that as it is, as do files that cannot be used.

        Those are checked again each time: half of a pair may have been there, or a certificate whose time comes yet.
        """
        with self._lock:
            try:
                found = self._read()
                if found == self._shown:
                    self._problem = ""
                    return None
                _check(found)
            except ConfigError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    _log.warning("the certificate that was shown before stays: %s", error)
                return None
            self._shown, self._problem = found, ""
            _log.info("a new certificate is shown: %s", found[0].where)
            return _configuration(found)

    def _read(self) -> tuple[Pem, ...]:
        given = self._config.model_dump(include={"certificate", "key", "client_ca"})
        return tuple(read_pem(f"router.tls.{field}", Path(path)) for field, path in given.items() if path)


def _check(pems: tuple[Pem, ...]) -> None:
    certificate, key, *client_ca = pems
    check_identity(certificate, key)
    for authorities in client_ca:
        check_authorities(authorities)


def _configuration(pems: tuple[Pem, ...]) -> grpc.ServerCertificateConfiguration:
    certificate, key, *client_ca = (pem.raw for pem in pems)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], *client_ca)
