"""How long a connection lasts: until it is silent, or old."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from engine.limits import Limits

if TYPE_CHECKING:
    from engine.grpc_server.connection import Connection

# A connection that has not begun to speak HTTP/2 by then is closed.
HANDSHAKE_SECONDS: Final = 10.0
# A connection whose ping is not answered by then is closed, and what runs on it ends.
PING_ANSWER_SECONDS: Final = 10.0
# A client may change its settings so often, and once a second: each change is work for all streams.
MAX_SETTINGS: Final = 100
# Connections made together do not grow old together: up to so much more or less.
_AGE_JITTER: Final = 0.1


class Lifetime:
    """Tells a connection when to ask, to leave and to end."""

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._pinged = False
        self._began = self._heard
        self._settings = 0
        age = limits.max_connection_age_seconds * random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)
        self._handshake = self._loop.call_later(HANDSHAKE_SECONDS, self._must_have_spoken)
        self._age = self._loop.call_later(age, self._grow_old)
        self._liveness = self._loop.call_later(limits.keepalive_seconds, self._check_alive)

    def heard(self) -> None:
        """Something came from the client."""
        self._heard = self._loop.time()
        self._pinged = False

    def settings(self) -> None:
        """It was settings: HTTP/2's first words, and of little use again and again."""
        self._settings += 1
        if self._settings > MAX_SETTINGS + self._loop.time() - self._began:
            self._connection.abandon("it does nothing but change its settings")

    def end(self) -> None:
        """The connection is closed."""
        for timer in (self._handshake, self._age, self._liveness):
            timer.cancel()

    def _must_have_spoken(self) -> None:
        if not self._settings:
            self._connection.abandon("it never spoke HTTP/2")

    def _check_alive(self) -> None:
        if self._pinged:
            self._connection.abandon("a ping was not answered")
            return
        wait = self._heard + self._limits.keepalive_seconds - self._loop.time()
        if wait <= 0:
            self._pinged = True
            self._connection.ping()
            wait = PING_ANSWER_SECONDS
        self._liveness = self._loop.call_later(wait, self._check_alive)

    def _grow_old(self) -> None:
        self._connection.leave()
        self._age = self._loop.call_later(
            self._limits.max_connection_age_grace_seconds, self._connection.cut
        )
