"""What a client has asked for and does not take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from engine.grpc_server.outgoing import Outgoing

if TYPE_CHECKING:
    from engine.grpc_server.connection import Connection

# Bytes of answers that may wait for their client. Above it, one that is not there is not heard, and
# one that takes nothing for so many seconds is left.
MAX_BYTES: Final = 64 * 1_048_576
STALLED_SECONDS: Final = 5.0


class Backlog:
    """Keeps what waits for one client near a bound, without haste: many answers at once are no
    fault of a client that takes them."""

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, outgoing: Outgoing
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._outgoing = outgoing
        self._written = 0
        self._unheard = False
        self._stalling: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self._written += len(data)
        self._transport.write(data)

    def watch(self, *, paused: bool) -> None:
        """There may be more; `paused`: the system takes nothing for the client at the moment."""
        if self._waiting() <= MAX_BYTES:
            return
        if self._stalling is None:
            loop = self._connection.loop
            self._stalling = loop.call_later(STALLED_SECONDS, self._look_again, self._taken())
        # What else it asks for would only wait as well. While the system takes something, though,
        # the client has to be heard: it says how much more it will take.
        if paused and not self._unheard:
            self._unheard = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The system takes something again."""
        if self._unheard:
            self._unheard = False
            self._transport.resume_reading()

    def end(self) -> None:
        """The connection is closed."""
        if self._stalling is not None:
            self._stalling.cancel()

    def _look_again(self, taken_before: int) -> None:
        self._stalling = None
        if self._waiting() > MAX_BYTES and self._taken() == taken_before:
            self._connection.abandon("it does not take its answers")
        else:
            self.watch(paused=False)

    def _waiting(self) -> int:
        return self._outgoing.waiting() + self._transport.get_write_buffer_size()

    def _taken(self) -> int:
        return self._written - self._transport.get_write_buffer_size()
