"""A server's files: what is refused at its start, and what follows when they change."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ensemble.errors import ConfigError, EndpointError
from ensemble.rpc.certificates import ServerCertificates
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.client_channel import open_async_channel
from ensemble.v1 import ensemble_service_pb2 as pb
from tests.certificates import Authority, Issued, Key, Mount, build_certificate, client_tls, new_key, shown_serial
from tests.rpc.systems import LONG_S, endpoint_running, wait_until
from tests.rpc.wire import ENSEMBLE_SERVICE, send

AUTHORITY = Authority()
GOOD = AUTHORITY.issue()
OTHER = AUTHORITY.issue()
TOMORROW = AUTHORITY.issue(begins_in=timedelta(days=1), ends_in=timedelta(days=2))
CUT = GOOD.pem[: len(GOOD.pem) // 2]
QUESTION = pb.ClassifyRequest(prompt="Is it still there?", choices=["yes", "no"]).SerializeToString()
NUM_CLIENTS = 6
NUM_ROTATIONS = 12


def files(
    certificate: bytes = GOOD.pem, key: bytes = GOOD.key_pem, client_ca: bytes = AUTHORITY.own.pem
) -> dict[str, bytes]:
    """Give the content of the mount."""
    return {"tls.crt": certificate, "tls.key": key, "ca.crt": client_ca}


def of(issued: Issued) -> dict[str, bytes]:
    """Give a good mount of another certificate."""
    return files(issued.pem, issued.key_pem)


EXPIRED = build_certificate("old", new_key(), None, begins_in=timedelta(days=-2), ends_in=timedelta(days=-1)).pem
BAD: list[tuple[dict[str, bytes], str, str]] = [
    (files(certificate=b""), "certificate", "it holds no certificate, or a broken one"),
    (files(certificate=b"\x30\x82 DER, say"), "certificate", "it holds no certificate, or a broken one"),
    (files(certificate=CUT), "certificate", "it holds no certificate, or a broken one"),
    (files(certificate=GOOD.key_pem), "certificate", "it holds no certificate, or a broken one"),
    (files(key=GOOD.pem), "key", "it holds no private key, or a broken one"),
    (files(key=b"\0" * 100), "key", "it holds no private key, or a broken one"),
    (files(key=GOOD.encrypted_key_pem("secret")), "key", "it is encrypted"),
    (files(key=OTHER.key_pem), "key", "it is not the key of the first certificate in router.tls.certificate"),
    (files(certificate=AUTHORITY.own.pem + GOOD.pem), "key", "it is not the key of the first certificate"),
    (of(AUTHORITY.issue(key=ed25519.Ed25519PrivateKey.generate())), "key", "gRPC takes no keys of its kind"),
    (of(AUTHORITY.issue(key=ec.generate_private_key(ec.SECP521R1()))), "key", "gRPC takes no keys of its kind"),
    (of(AUTHORITY.issue(begins_in=timedelta(days=-2), ends_in=timedelta(days=-1))), "certificate", "it expired at 20"),
    (of(TOMORROW), "certificate", "it is not valid before 20"),
    (files(client_ca=b"nothing"), "client_ca", "it holds no certificate, or a broken one"),
    (files(client_ca=EXPIRED), "client_ca", "the last of its certificates expired at 20"),
    (files(client_ca=b"#" * (1 << 22) + b"\n"), "client_ca", "it has more than 4,194,304 bytes"),
]


@pytest.mark.parametrize(("content", "field", "problem"), BAD)
def test_a_file_that_cannot_be_used_is_one_error_with_its_field_and_path(
    tmp_path: Path, content: dict[str, bytes], field: str, problem: str
) -> None:
    mount = Mount(tmp_path)
    mount.put(content)
    config = mount.config(with_clients=True)

    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        ServerCertificates(config)

    assert caught.value.where == f"router.tls.{field} ({getattr(config, field)})"
    assert caught.value.remedy


@pytest.mark.parametrize("field", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, field: str) -> None:
    mount = Mount(tmp_path)
    mount.put(files())
    config = mount.config(with_clients=True).model_copy(update={field: str(tmp_path)})

    with pytest.raises(ConfigError, match=r"it cannot be read \(Is a directory\)") as caught:
        ServerCertificates(config)

    assert caught.value.where == f"router.tls.{field} ({tmp_path})"


def test_a_list_of_authorities_may_hold_some_that_have_expired(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.put(files(client_ca=EXPIRED + AUTHORITY.own.pem))

    ServerCertificates(mount.config(with_clients=True)).credentials()


KEYS: list[Callable[[], Key]] = [
    new_key,
    lambda: ec.generate_private_key(ec.SECP384R1()),
    lambda: rsa.generate_private_key(public_exponent=65_537, key_size=2_048),
]


@pytest.mark.parametrize("make_key", KEYS)
async def test_keys_that_are_taken_serve(tmp_path: Path, make_key: Callable[[], Key]) -> None:
    mount = Mount(tmp_path / "server")
    mount.put_identity(AUTHORITY.issue(key=make_key()))
    tls = client_tls(tmp_path / "client", AUTHORITY)

    async with (
        endpoint_running(tls=mount.config()) as endpoint,
        AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=tls) as client,
    ):
        summaries = await client.list_ensembles()

    assert len(summaries) == 1


async def test_certificates_are_exchanged_under_traffic_and_no_request_is_lost(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "server")
    mount.put_identity(AUTHORITY.issue())
    tls = client_tls(tmp_path / "client", AUTHORITY)
    num_answered = [0] * NUM_CLIENTS
    is_over = asyncio.Event()

    async def call_on(number: int, address: str, *, calls_a_connection: int) -> None:
        while not is_over.is_set():
            # Without the client's retries, which would hide a loss.
            async with open_async_channel(address, tls, options=(("grpc.enable_retries", 0),)) as channel:
                for _ in range(calls_a_connection):
                    await send(channel, f"{ENSEMBLE_SERVICE}/Classify", QUESTION)
                    num_answered[number] += 1

    shown = []
    async with endpoint_running(tls=mount.config()) as endpoint, asyncio.TaskGroup() as group:
        for number in range(NUM_CLIENTS):
            # Half of them connect anew for each call.
            calls = 1 if number % 2 else 50
            group.create_task(call_on(number, endpoint.address, calls_a_connection=calls))
        put = [AUTHORITY.issue() for _ in range(NUM_ROTATIONS)]
        for issued in put:
            before = list(num_answered)
            mount.put_identity(issued)
            shown.append(await asyncio.to_thread(shown_serial, endpoint.address))
            await wait_until(lambda before=before: all(map(int.__gt__, num_answered, before)))  # type: ignore[misc]
        is_over.set()

    assert shown == [issued.certificate.serial_number for issued in put]


async def test_a_new_authority_of_clients_counts_from_the_next_connection_on(tmp_path: Path) -> None:
    mount, others = Mount(tmp_path / "server"), Authority("others")
    mount.put_identity(GOOD, client_ca=AUTHORITY)
    old = client_tls(tmp_path / "old", AUTHORITY, own=AUTHORITY.issue("client"))
    new = client_tls(tmp_path / "new", AUTHORITY, own=others.issue("client"))

    async with (
        endpoint_running(tls=mount.config(with_clients=True)) as endpoint,
        AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=old) as early,
        AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=old) as late,
        AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=new) as client,
    ):
        await early.list_ensembles()
        mount.put_identity(GOOD, client_ca=others)
        await client.list_ensembles()
        await early.list_ensembles()  # what was connected stays
        with pytest.raises(EndpointError, match="a client's certificate that it trusts"):
            await late.list_ensembles()


@pytest.mark.parametrize(("content", "field", "problem"), BAD)
async def test_a_bad_new_file_is_logged_once_and_leaves_the_old_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: dict[str, bytes], field: str, problem: str
) -> None:
    mount = Mount(tmp_path / "server")
    mount.put(files())
    later = AUTHORITY.issue()

    async with endpoint_running(tls=mount.config(with_clients=True)) as endpoint:
        with caplog.at_level(logging.INFO, logger="ensemble.rpc.certificates"):
            mount.put(content)
            kept = [await asyncio.to_thread(shown_serial, endpoint.address) for _ in range(3)]
            mount.put(of(later))
            mended = await asyncio.to_thread(shown_serial, endpoint.address)

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert kept == [GOOD.certificate.serial_number] * 3
    assert mended == later.certificate.serial_number
    assert len(warnings) == 1
    assert f"router.tls.{field}" in warnings[0]
    assert problem in warnings[0]


async def test_a_pair_that_is_written_one_half_after_the_other_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.put(files())

    async with endpoint_running(tls=mount.config()) as endpoint:
        (tmp_path / "tls.crt").write_bytes(OTHER.pem)
        between = await asyncio.to_thread(shown_serial, endpoint.address)
        (tmp_path / "tls.key").write_bytes(OTHER.key_pem)
        after = await asyncio.to_thread(shown_serial, endpoint.address)

    assert between == GOOD.certificate.serial_number
    assert after == OTHER.certificate.serial_number


async def test_files_that_are_gone_leave_the_old_certificate(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.put(files())

    async with endpoint_running(tls=mount.config()) as endpoint:
        os.unlink(tmp_path / "..data")  # noqa: PTH108 - as the mount is made
        shown = await asyncio.to_thread(shown_serial, endpoint.address)

    assert shown == GOOD.certificate.serial_number
