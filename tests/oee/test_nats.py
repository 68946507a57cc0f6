from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import nats
import psutil
import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

import oee
from engine.errors import StartupError
from oee.nats import Nats
from oee.processes import is_alive

ROOT: Final = Path(oee.__file__).parents[1]
OWNER: Final = """
import os, signal, sys
from pathlib import Path
from oee.nats import Nats
server = Nats(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server(home: Path) -> Iterator[Nats]:
    server = Nats(home / "nats")
    yield server
    server.stop()


@asynccontextmanager
async def jetstream(server: Nats) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url, connect_timeout=5, allow_reconnect=False)
    try:
        yield client.jetstream(timeout=5)
    finally:
        await client.close()


async def test_a_stored_message_survives_sigkill_at_the_same_address(server: Nats) -> None:
    server.start()
    url = server.url
    async with jetstream(server) as js:
        await js.add_stream(name="WORK", subjects=["work.*"])
        await js.publish("work.route", b"order")

    server.kill()
    server.start()

    assert server.url == url
    async with jetstream(server) as js:
        assert (await js.stream_info("WORK")).state.messages == 1


async def test_wiping_forgets_every_stream(server: Nats) -> None:
    server.start()
    async with jetstream(server) as js:
        await js.add_stream(name="WORK", subjects=["work.*"])

    server.kill()
    server.wipe()
    server.start()

    async with jetstream(server) as js:
        with pytest.raises(NotFoundError):
            await js.stream_info("WORK")


def test_a_running_server_is_not_wiped(server: Nats) -> None:
    server.start()

    with pytest.raises(StartupError, match="already in use"):
        server.wipe()


def test_it_listens_on_this_machine_only(server: Nats) -> None:
    server.start()

    listening = psutil.Process(server.pid).net_connections("inet")
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_a_taken_port_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=str(port)):
            Nats(home / "nats", port).start()


def test_the_next_start_ends_what_a_killed_owner_left(server: Nats, home: Path) -> None:
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, home / "nats"], stdout=subprocess.PIPE, check=False, cwd=ROOT
    )
    left = psutil.Process(int(owner.stdout))

    server.start()

    assert owner.returncode == -signal.SIGKILL
    assert not is_alive(left)
