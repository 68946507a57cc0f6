"""The ports a stack listens on, all of them on this machine only."""

from __future__ import annotations

import dataclasses
import random
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from engine.errors import StartupError

HOST: Final = "127.0.0.1"
# Below every range that systems give to outgoing connections: a client that reconnects to a
# killed server could otherwise be given that server's own port, and keep it from coming back.
FREE_RANGE: Final = range(20_000, 32_768)
ATTEMPTS: Final = 1_000

# What this process was given, whether it listens there yet or not.
_given: set[int] = set()


@dataclass(frozen=True, slots=True)
class Ports:
    """One port a listener; chain also carries the simulator's control service."""

    gateway: int
    router: int
    executor: int
    chain: int
    raydium: int
    meteora: int

    @classmethod
    def default(cls) -> Ports:
        """The documented ports."""
        return cls.starting_at(50051)

    @classmethod
    def starting_at(cls, gateway: int) -> Ports:
        """The documented ports, moved together: a second stack needs one number only."""
        return cls(gateway, gateway + 1, gateway + 2, gateway + 10, gateway + 11, gateway + 12)

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody listens on now."""
        return cls(*free_ports(len(dataclasses.fields(cls))))

    def names(self) -> Mapping[int, str]:
        """Which port is whose."""
        return {port: name for name, port in dataclasses.asdict(self).items()}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, never the same one twice."""
    with ExitStack() as held:
        found: list[int] = []
        for _ in range(ATTEMPTS):
            if len(found) == count:
                return found
            port = random.choice(FREE_RANGE)
            if port not in _given and (listener := _listen(port)) is not None:
                held.enter_context(listener)
                _given.add(port)
                found.append(port)
    raise StartupError(f"no {count} free ports from {FREE_RANGE.start} to {FREE_RANGE.stop - 1}")


def require_free(names: Mapping[int, str]) -> None:
    """StartupError naming the first of these ports that somebody listens on."""
    for port, name in names.items():
        listener = _listen(port)
        if listener is None:
            raise StartupError(
                f"port {port} ({name}) is taken; stop what listens there, or choose other ports"
            )
        listener.close()


def _listen(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As servers do, so that connections of the last run that linger in TIME_WAIT do not count.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(1)
    except OSError:
        listener.close()
        return None
    return listener
