"""Opens clients' channels to an endpoint, with TLS or without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from ensemble.errors import ConfigError

Options = tuple[tuple[str, str | int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """PEM files for a connection with TLS, read when a client is made.

    ``ca`` holds the authorities that the server's certificate must come from; ``certificate`` and ``key`` are the
    client's own, for servers that want one. ``name`` is whom the server's certificate must be for, where that is not
    the host of the address.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    name: str = ""


def open_channel(address: str, tls: ClientTls | None, *, options: Options = ()) -> grpc.Channel:
    """Open a channel for threads.

    Raises:
        ConfigError: a file of ``tls`` cannot be used.
    """
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, _credentials(tls), options=(*options, *_name_options(tls)))


def open_async_channel(address: str, tls: ClientTls | None, *, options: Options = ()) -> grpc.aio.Channel:
    """Open a channel for an event loop.

    Raises:
        ConfigError: a file of ``tls`` cannot be used.
    """
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, _credentials(tls), options=(*options, *_name_options(tls)))


def _credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    # Most clients have no TLS, and need not wait for what it takes.
    from ensemble.rpc.pem_files import check_authorities, check_identity, read_pem  # noqa: PLC0415

    authorities = read_pem("tls.ca", tls.ca)
    check_authorities(authorities)
    if tls.certificate is None and tls.key is None:
        return grpc.ssl_channel_credentials(authorities.raw)
    if tls.certificate is None or tls.key is None:
        missing, given = ("key", "certificate") if tls.key is None else ("certificate", "key")
        raise ConfigError(f"tls.{missing}", f"it is missing beside tls.{given}", "give both or none")
    certificate, key = read_pem("tls.certificate", tls.certificate), read_pem("tls.key", tls.key)
    check_identity(certificate, key)
    return grpc.ssl_channel_credentials(authorities.raw, key.raw, certificate.raw)


def _name_options(tls: ClientTls) -> Options:
    return (("grpc.ssl_target_name_override", tls.name),) if tls.name else ()
