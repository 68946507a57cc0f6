"""TLS between client, gateway, services and NATS: who is let in, who is not, and what is said."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs
from structlog.typing import EventDict

from engine import connections, tls
from engine.bus import Bus, open_bus
from engine.certificates import Files, Reloading, read
from engine.channel import open_channel
from engine.errors import StartupError
from engine.handshakes import Handshakes
from engine.native_log import handshake_in
from engine.rpc import serving
from engine.store import open_store
from oee.client import Client, connect
from oee.nats import Nats
from oee.ports import HOST, free_ports
from tests.certificates import Authority

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30


async def ask(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """The code of a health check."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def asked(port: int, files: Files | None) -> grpc.StatusCode:
    async with open_channel(f"{HOST}:{port}", files) as channel:
        return await ask(channel)


async def test_a_client_with_a_certificate_is_served_and_others_are_not(
    ca: Authority, stranger: Authority
) -> None:
    server, client = ca.signs("server"), ca.signs("client")
    foreign = replace(stranger.signs("foreign"), ca_file=ca.ca_file)
    async with serving(f"{HOST}:0", {}, tls=server) as started:
        answers = {
            "with a certificate": await asked(started.port, client),
            "without one": await asked(started.port, Files(ca_file=ca.ca_file)),
            "of another CA": await asked(started.port, foreign),
            "expired": await asked(started.port, ca.signs("old", expired=True)),
            "plaintext": await asked(started.port, None),
        }

    assert answers == dict.fromkeys(answers, grpc.StatusCode.UNAVAILABLE) | {
        "with a certificate": grpc.StatusCode.OK
    }


async def test_a_client_trusts_only_its_ca_and_no_expired_certificate(
    ca: Authority, stranger: Authority
) -> None:
    trusting = Files(ca_file=ca.ca_file)
    for server, expected in (
        (ca.signs("server"), grpc.StatusCode.OK),
        (ca.signs("old", expired=True), grpc.StatusCode.UNAVAILABLE),
        (stranger.signs("foreign"), grpc.StatusCode.UNAVAILABLE),
    ):
        async with serving(f"{HOST}:0", {}, tls=replace(server, ca_file=None)) as started:
            assert await asked(started.port, trusting) is expected


async def test_replaced_certificates_are_used_for_new_connections_and_no_call_is_cut(
    ca: Authority, stranger: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CHECK_SECONDS", 0)
    server, client = ca.signs("server"), ca.signs("client")
    async with (
        serving(f"{HOST}:0", {}, tls=server) as started,
        open_channel(f"{HOST}:{started.port}", client) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        seen = aiter(watch)
        await anext(seen)
        # Everything is signed by another CA from now on, under the same names.
        stranger.signs("server")
        shutil.copy(stranger.ca_file, ca.ca_file)
        before = tmp_path / "before"
        before.mkdir()
        old = Authority(before).signs("client")
        assert await asked(started.port, replace(old, ca_file=stranger.ca_file)) is (
            grpc.StatusCode.UNAVAILABLE
        )
        stranger.signs("client")
        assert await ask(channel) is grpc.StatusCode.OK
        # What began under the old certificates goes on.
        await started.report(serving=False)
        assert (await anext(seen)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_half_replaced_files_are_told_of_and_the_old_ones_stay(ca: Authority) -> None:
    server = replace(ca.signs("server"), ca_file=None)
    assert server.certificate_file is not None
    async with serving(f"{HOST}:0", {}, tls=server) as started:
        server.certificate_file.write_text("half")
        with capture_logs() as logs:
            code = await asked(started.port, Files(ca_file=ca.ca_file))

    assert code is grpc.StatusCode.OK
    [told] = [line for line in logs if line["log_level"] == "warning"]
    assert told["event"] == "new certificates are no use; the old ones stay"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: replace(files, key_file=None), "belong together"),
        (lambda files: replace(files, key_file=Path("/nowhere/key")), "/nowhere/key cannot be"),
        (lambda files: replace(files, key_file=files.ca_file), "its own PEM key"),
        (lambda files: replace(files, ca_file=files.key_file), "PEM certificates of CAs"),
    ],
)
def test_files_that_are_no_use_are_named_and_not_quoted(
    ca: Authority, spoil: Callable[[Files], Files], message: str
) -> None:
    with pytest.raises(StartupError, match=message) as refused:
        read(spoil(ca.signs("server")))
    assert "BEGIN" not in str(refused.value)


def test_a_reason_that_repeats_is_told_once_in_a_while() -> None:
    handshakes = Handshakes()
    with capture_logs() as logs:
        for _ in range(3):
            handshakes.tell("PEER_DID_NOT_RETURN_A_CERTIFICATE")

    [told] = logs
    assert told["why"] == "the client sent no certificate"
    assert told["reason"] == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@pytest.mark.parametrize("protocols", [None, ["http/1.1"]])
async def test_a_client_that_does_not_ask_for_http_2_is_closed(
    ca: Authority, protocols: list[str] | None
) -> None:
    server = replace(ca.signs("server"), ca_file=None)
    context = ssl.create_default_context(cafile=str(ca.ca_file))
    if protocols:
        context.set_alpn_protocols(protocols)
    async with serving(f"{HOST}:0", {}, tls=server) as started, asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(HOST, started.port, ssl=context)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


def test_files_that_could_not_be_read_for_a_moment_are_read_the_next_time(ca: Authority) -> None:
    files, renewed = ca.signs("server"), ca.signs("renewed")
    reloading = Reloading(files)
    for old, new in (
        (files.certificate_file, renewed.certificate_file),
        (files.key_file, renewed.key_file),
    ):
        assert old is not None
        assert new is not None
        old.write_bytes(new.read_bytes())

    def short_of_descriptors(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(Path, "read_bytes", short_of_descriptors)
        assert [reloading.refresh() for _ in range(3)] == [False, False, False]
    assert [told["event"] for told in logs] == ["new certificates are no use; the old ones stay"]
    assert reloading.refresh()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "Handshake failed with error SSL_ERROR_SSL: error:100000c0:SSL routines:"
            "OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid certificate verification context",
            ("WRONG_VERSION_NUMBER", None),
        ),
        (
            "Handshake failed with error SSL_ERROR_SSL: error:1000007d:SSL routines:"
            "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired",
            ("CERTIFICATE_VERIFY_FAILED", "certificate has expired"),
        ),
        ("a connection ended", None),
    ],
)
def test_a_client_s_failed_handshakes_are_read_from_what_grpc_writes(
    line: str, found: tuple[str, str | None] | None
) -> None:
    assert handshake_in(line) == found


# ── the real gateway, as a process ────────────────────────────────────────────────────────────


class Process:
    """A running gateway: its address, and the records it has written."""

    def __init__(self, address: str, process: asyncio.subprocess.Process) -> None:
        self.address = address
        self._process = process
        self._untold: list[dict[str, object]] = []

    async def told(self, event: str) -> dict[str, object]:
        """The first record of this event that was not asked for yet."""
        assert self._process.stderr is not None
        for record in self._untold:
            if record["event"] == event:
                self._untold.remove(record)
                return record
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := await self._process.stderr.readline():
                record = json.loads(line)
                if record["event"] == event:
                    return dict(record)
                self._untold.append(record)
        raise AssertionError(f"the gateway ended without telling of {event!r}")


@asynccontextmanager
async def gateway(dsn: str, nats_url: str, files: Files, **settings: str) -> AsyncIterator[Process]:
    [port] = free_ports(1)
    environment: Mapping[str, str] = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats_url,
        "VENUES": f"raydium={HOST}:1",
        "LISTEN_ADDRESS": f"{HOST}:{port}",
        "TLS_CERTIFICATE_FILE": str(files.certificate_file),
        "TLS_KEY_FILE": str(files.key_file),
        "TLS_CLIENT_CA_FILE": str(files.ca_file),
        "DRAIN_SECONDS": "0",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        started = Process(f"{HOST}:{port}", process)
        await started.told("serving")
        yield started
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)


async def test_the_gateway_serves_oee_over_mtls_and_tells_of_whom_it_refused(
    dsn: str, ca: Authority, stranger: Authority
) -> None:
    server, client = ca.signs("server"), ca.signs("client")
    async with gateway(dsn, f"nats://{HOST}:1", server) as started:

        def tokens() -> int:
            with connect(started.address, client) as channel:
                return len(list(Client(channel).tokens()))

        assert await asyncio.to_thread(tokens) > 1
        async with open_channel(started.address, Files(ca_file=ca.ca_file)) as channel:
            assert await ask(channel) is grpc.StatusCode.UNAVAILABLE
        assert (await started.told("tls connection refused"))["why"] == (
            "the client sent no certificate"
        )
        expired = ca.signs("expired", expired=True)
        async with open_channel(started.address, expired) as channel:
            assert await ask(channel) is grpc.StatusCode.UNAVAILABLE
        assert (await started.told("tls connection refused"))["reason"] == (
            "CERTIFICATE_VERIFY_FAILED: certificate has expired"
        )
        foreign = replace(stranger.signs("foreign"), ca_file=ca.ca_file)
        async with open_channel(started.address, foreign) as channel:
            assert await ask(channel) is grpc.StatusCode.UNAVAILABLE
        refused = await started.told("tls connection refused")
        assert str(refused["reason"]).startswith("CERTIFICATE_VERIFY_FAILED: unable to get")


# ── NATS ──────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def tls_nats(ca: Authority, directory: Path, *options: str) -> AsyncIterator[Nats]:
    """A nats-server with a certificate of this CA."""
    files = ca.signs("nats")
    certificate = ["--tlscert", str(files.certificate_file), "--tlskey", str(files.key_file)]
    server = Nats(directory, options=[*certificate, *options])
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


@pytest.fixture
async def secured(ca: Authority, tmp_path: Path) -> AsyncIterator[Nats]:
    """A nats-server that speaks TLS only and asks for a password."""
    password = "--user", "engine", "--pass", "swordfish"
    async with tls_nats(ca, tmp_path / "nats", "--tls", *password) as server:
        yield server


@pytest.fixture
async def verifying(ca: Authority, tmp_path: Path) -> AsyncIterator[Nats]:
    """A nats-server that lets nobody in without a certificate from our CA."""
    verify = "--tlsverify", "--tlscacert", str(ca.ca_file)
    async with tls_nats(ca, tmp_path / "nats", *verify) as server:
        yield server


async def test_the_gateway_reaches_nats_over_tls_with_user_and_password(
    dsn: str, ca: Authority, secured: Nats
) -> None:
    url = secured.url.replace("nats://", "nats://engine:swordfish@")
    async with gateway(dsn, url, ca.signs("server"), NATS_CA_FILE=str(ca.ca_file)) as started:
        assert await started.told("nats connected")


class Refused:
    """A processor of structlog that notices the first refusal whose reason is logged."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    def __call__(self, logger: object, method: str, line: EventDict) -> EventDict:
        if line.get("reason"):
            self.told.set()
        return line


async def test_a_nats_that_is_not_trusted_is_told_of_until_its_ca_is_trusted(
    ca: Authority, stranger: Authority, secured: Nats
) -> None:
    url = secured.url.replace("nats://", "nats://engine:swordfish@")
    trusted = Path(shutil.copy(stranger.ca_file, stranger.ca_file.with_name("trusted.pem")))
    connected = asyncio.Event()
    refused = Refused()
    with capture_logs([refused]) as logs:
        async with open_bus(url, "test", tls=Files(ca_file=trusted)) as bus:
            bus.on_connect(connected.set)
            await asyncio.wait_for(refused.told.wait(), PATIENCE_SECONDS)
            assert not connected.is_set()
            shutil.copy(ca.ca_file, trusted)
            await asyncio.wait_for(connected.wait(), PATIENCE_SECONDS)

    [told] = [line for line in logs if line["log_level"] == "warning"]
    assert told["error"] == "SSLCertVerificationError"
    assert told["reason"] == "unable to get local issuer certificate"
    assert "swordfish" not in str(logs)


async def test_the_gateway_shows_its_certificate_to_a_nats_that_wants_one(
    dsn: str, ca: Authority, verifying: Nats
) -> None:
    client = ca.signs("client")
    facts = {
        "NATS_CA_FILE": str(client.ca_file),
        "NATS_CERTIFICATE_FILE": str(client.certificate_file),
        "NATS_KEY_FILE": str(client.key_file),
    }
    async with gateway(dsn, verifying.url, ca.signs("server"), **facts) as started:
        assert await started.told("nats connected")


@asynccontextmanager
async def refused_by(server: Nats, tls: Files) -> AsyncIterator[tuple[Bus, str]]:
    """A bus that this server does not let in, and the reason that is told."""
    with capture_logs() as logs:
        async with open_bus(server.url, "test", tls=tls) as bus:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not any(line.get("reason") for line in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not bus.connected
            [told] = [line for line in logs if line.get("reason")]
            assert told["event"] == "nats connection refused"
            yield bus, told["reason"]


async def test_a_nats_that_does_not_like_what_we_show_is_told_of(
    ca: Authority, stranger: Authority, verifying: Nats
) -> None:
    shown = {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED": Files(ca_file=ca.ca_file),
        "TLSV1_ALERT_UNKNOWN_CA": replace(stranger.signs("foreign"), ca_file=ca.ca_file),
        "SSLV3_ALERT_CERTIFICATE_EXPIRED": ca.signs("expired", expired=True),
    }
    for reason, files in shown.items():
        async with refused_by(verifying, files) as (_, told):
            assert told == reason


async def test_a_certificate_for_nats_is_renewed_by_replacing_its_files(
    ca: Authority, verifying: Nats
) -> None:
    connected = asyncio.Event()
    async with refused_by(verifying, ca.signs("client", expired=True)) as (bus, _):
        bus.on_connect(connected.set)
        ca.signs("client")
        await asyncio.wait_for(connected.wait(), PATIENCE_SECONDS)


async def test_nats_files_that_are_no_use_are_named(ca: Authority, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    good, other = ca.signs("good"), ca.signs("other")
    for files, named in (
        (Files(ca_file=nowhere), r"NATS_CA_FILE: .*nowhere"),
        (replace(good, certificate_file=None), r"NATS_CERTIFICATE_FILE and NATS_KEY_FILE"),
        (replace(good, key_file=None), r"NATS_CERTIFICATE_FILE and NATS_KEY_FILE"),
        (replace(good, key_file=nowhere), r"NATS_CERTIFICATE_FILE, .*good\.pem and .*nowhere"),
        (replace(good, key_file=other.key_file), r"its own PEM key"),
    ):
        with pytest.raises(StartupError, match=named):
            async with open_bus(f"nats://{HOST}:1", "test", tls=files):
                pass
    with pytest.raises(StartupError, match=r"NATS_CREDS_FILE: .*nowhere"):
        async with open_bus(f"nats://{HOST}:1", "test", creds_file=nowhere):
            pass


async def test_a_database_without_tls_hears_nothing_when_the_dsn_requires_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(8))
        writer.write(b"N")
        heard.append(await reader.read())
        writer.close()

    monkeypatch.setattr(connections, "OPEN_SECONDS", 0)
    async with await asyncio.start_server(answer, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StartupError, match=r"no migrated database answered"):
            async with open_store(f"postgresql://engine:swordfish@{HOST}:{port}/x?sslmode=require"):
                pass

    ssl_request = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
    assert heard[:2] == [ssl_request, b""]
