"""PostgreSQL over TLS and after an outage; what no waiting mends is told at once."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from structlog.testing import capture_logs

from engine.certificates import Files
from engine.errors import StartupError, StoreUnavailable
from engine.lifecycle import Status
from engine.migrate import migrate
from engine.store import open_store
from oee.ports import HOST
from oee.postgres import Postgres
from tests import builders
from tests.builders import stored
from tests.certificates import Authority
from tests.engine.test_store import facts, read

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 15
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
CHUNK_BYTES = 65536


class Door:
    """Speaks PostgreSQL's TLS to clients, and passes on what they say to a server without it."""

    def __init__(self, server: str, files: Files) -> None:
        self._server = server
        self.show(files)
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, files: Files) -> None:
        """Have this certificate from now on; with a CA, ask for the client's."""
        assert files.certificate_file is not None
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.certificate_file, files.key_file)
        if files.ca_file is not None:
            tls.verify_mode = ssl.CERT_REQUIRED
            tls.load_verify_locations(files.ca_file)
        self._tls = tls

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            assert client.recv(len(SSL_REQUEST), socket.MSG_WAITALL) == SSL_REQUEST
            client.sendall(b"S")
            with self._tls.wrap_socket(
                client, server_side=True, do_handshake_on_connect=False
            ) as inside:
                try:
                    inside.do_handshake()
                except ssl.SSLError:
                    # Closed with anything unread, the connection is reset and the reason lost.
                    inside.shutdown(socket.SHUT_WR)
                    while inside.recv(CHUNK_BYTES):
                        pass
                    return
                server.connect(self._server)
                _pass_on(inside, server)


def _pass_on(inside: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        ready = [inside] if inside.pending() else select.select([inside, server], [], [])[0]
        for end in ready:
            if not (chunk := end.recv(CHUNK_BYTES)):
                return
            (server if end is inside else inside).sendall(chunk)


@contextmanager
def door(dsn: str, files: Files) -> Iterator[Door]:
    """A door in front of the test's database."""
    [directory] = parse_qs(urlsplit(dsn).query)["host"]
    opened = Door(f"{directory}/.s.PGSQL.5432", files)
    try:
        yield opened
    finally:
        opened.close()


def through(opened: Door, dsn: str, **settings: object) -> str:
    """The DSN of the same database behind the door, with a password that nobody must repeat."""
    query = urlencode(settings)
    return f"postgresql://oee:swordfish@{HOST}:{opened.port}{urlsplit(dsn).path}?{query}"


async def test_orders_are_kept_and_schemas_migrated_over_verified_tls(
    dsn: str, ca: Authority
) -> None:
    client = ca.signs("client")
    with door(dsn, ca.signs("postgres")) as opened:
        own = through(
            opened,
            dsn,
            sslmode="verify-full",
            sslrootcert=ca.ca_file,
            sslcert=client.certificate_file,
            sslkey=client.key_file,
        )
        assert await migrate(own) == []
        async with open_store(own) as store:
            order = (await store.add(builders.new_order())).order
            assert await store.get(order.order_id) is not None


Situation = Callable[[Authority, Authority], tuple[Files, dict[str, object]]]


def _nobody_asks(files: Files) -> Files:
    """The same of a server that wants no certificate of clients."""
    return replace(files, ca_file=None)


def wrong_ca(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    return _nobody_asks(ca.signs("postgres")), {"sslrootcert": stranger.ca_file}


def expired(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    return _nobody_asks(ca.signs("postgres", expired=True)), {"sslrootcert": ca.ca_file}


def client_shows_none(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    return ca.signs("postgres"), {"sslrootcert": ca.ca_file}


def client_shows_a_strangers(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    client = stranger.signs("client")
    return ca.signs("postgres"), {
        "sslrootcert": ca.ca_file,
        "sslcert": client.certificate_file,
        "sslkey": client.key_file,
    }


def no_such_ca_file(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    return ca.signs("postgres"), {"sslrootcert": "/nowhere/ca.pem"}


def no_pem(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    files = ca.signs("postgres")
    return files, {"sslrootcert": files.key_file}


def no_ca_file_at_all(ca: Authority, stranger: Authority) -> tuple[Files, dict[str, object]]:
    return ca.signs("postgres"), {}


REFUSALS: dict[Situation, str] = {
    wrong_ca: "certificate is not trusted .unable to get local issuer certificate",
    expired: "certificate is not trusted .certificate has expired",
    client_shows_none: "certificate required",
    client_shows_a_strangers: "unknown ca",
    no_such_ca_file: "sslrootcert names /nowhere/ca.pem",
    no_pem: "no certificate or crl found",
    no_ca_file_at_all: "root certificate file .* does not exist",
}


@pytest.mark.parametrize(
    ("situation", "cause"),
    [pytest.param(*refused, id=refused[0].__name__) for refused in REFUSALS.items()],
)
async def test_what_tls_refuses_is_told_at_once_with_its_cause(
    dsn: str,
    ca: Authority,
    stranger: Authority,
    situation: Situation,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    files, settings = situation(ca, stranger)
    with door(dsn, files) as opened:
        own = through(opened, dsn, sslmode="verify-full", **settings)
        with capture_logs() as logs:
            with pytest.raises(StartupError, match=f"^POSTGRES_DSN: .*{cause}") as migrating:
                await migrate(own)
            with pytest.raises(StartupError, match=f"^POSTGRES_DSN: .*{cause}") as opening:
                async with open_store(own):
                    pass

    # Nothing waited for a server that might yet come up.
    assert not [line for line in logs if line["event"] == "waiting for the database"]
    assert "swordfish" not in f"{migrating.value}{opening.value}{logs}"


async def test_a_user_whom_the_server_refuses_is_told_at_once(dsn: str) -> None:
    own = dsn.replace("//oee@", "//nobody:swordfish@")

    with pytest.raises(StartupError, match=r'^POSTGRES_DSN: .*role "nobody" does not') as refused:
        async with open_store(own):
            pass
    assert "swordfish" not in str(refused.value)


async def test_a_certificate_that_expires_in_service_is_told_of_with_every_call(
    dsn: str, ca: Authority
) -> None:
    with door(dsn, _nobody_asks(ca.signs("postgres"))) as opened:
        own = through(opened, dsn, sslmode="verify-full", sslrootcert=ca.ca_file)
        async with open_store(own) as store:
            opened.show(_nobody_asks(ca.signs("postgres", expired=True)))
            await store._connections._pool.expire_connections()
            with capture_logs() as logs, pytest.raises(StoreUnavailable):
                await store.get(builders.new_order().order_id)
            opened.show(_nobody_asks(ca.signs("postgres")))
            assert await store.get(builders.new_order().order_id) is None

    [told] = [line for line in logs if line["event"] == "database is away"]
    assert "certificate has expired" in told["reason"]


async def test_a_process_that_tls_refuses_exits_2_with_one_line(dsn: str, ca: Authority) -> None:
    with door(dsn, _nobody_asks(ca.signs("postgres", expired=True))) as opened:
        own = through(opened, dsn, sslmode="verify-full", sslrootcert=ca.ca_file)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "engine.migrate"),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "POSTGRES_DSN": own},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)

    lines = said.decode().splitlines()
    assert process.returncode == 2
    assert "POSTGRES_DSN" in lines[-1]
    assert "certificate has expired" in lines[-1]
    assert "swordfish" not in said.decode()


async def test_a_database_that_goes_away_and_returns_is_used_again(tmp_path: Path) -> None:
    server = Postgres(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        await migrate(server.dsn)
        async with open_store(server.dsn) as store:
            order = await stored(store, Status.ROUTING)
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreUnavailable):
                await store.add(builders.new_order())
            with pytest.raises(StoreUnavailable):
                await store.save(order.fail(builders.FAILURE))
            await asyncio.to_thread(server.start)

            assert facts(await read(store, order)) == facts(order)
            await store.save(order.fail(builders.FAILURE))
    finally:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.wipe)


async def test_a_server_that_would_lose_commits_is_refused(dsn: str) -> None:
    with pytest.raises(StartupError, match="synchronous_commit"):
        async with open_store(f"{dsn}&synchronous_commit=off"):
            pass
