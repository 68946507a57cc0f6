"""A TCP proxy between a client and the gateway, whose connections break on command."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 64 * 1024
CONNECT_SECONDS = 5
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Proxy:
    """Forwards bytes both ways and looks for a text in them, which is in a string of a message.

    `broken` is the number of connections that it ended.
    """

    def __init__(self, target: str, text: str, breaks: Callable[[int], bool]) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._text = text.encode()
        self._breaks = breaks
        self._open: set[asyncio.StreamWriter] = set()
        self._asking: set[asyncio.StreamWriter] = set()
        self._asked = asyncio.Event()
        self._answers = 0
        self.broken = 0
        self.address = ""

    async def asked(self) -> None:
        """Return once the text was sent to the gateway over a connection that is open."""
        while not self._asking:
            self._asked.clear()
            await self._asked.wait()

    def reset(self) -> None:
        """Break every connection at once, without a word to either side."""
        for writer in self._open:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            self.broken += 1
        self._open.clear()
        self._asking.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, until either side ends it."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                above = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        self._open.add(writer)
        asking = asyncio.create_task(self._ask(reader, above[1], writer))
        try:
            await self._answer(above[0], writer)
        except OSError:
            pass  # the client has gone
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            self._open.discard(writer)
            self._asking.discard(writer)
            above[1].close()
            writer.close()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        above: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                above.write(chunk)
                await above.drain()
                if self._text in chunk:
                    self._asking.add(client)
                    self._asked.set()
        above.close()

    async def _answer(self, above: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while chunk := await above.read(CHUNK_BYTES):
            end = 0
            while (found := chunk.find(self._text, end)) >= 0:
                end = found + len(self._text)
                self._answers += 1
                if self._breaks(self._answers):
                    self.broken += 1
                    client.write(chunk[:end])
                    await client.drain()
                    return
            client.write(chunk)
            await client.drain()


@asynccontextmanager
async def open_proxy(
    target: str,
    text: str,
    *,
    breaks: Callable[[int], bool] = lambda answered: False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Proxy]:
    """A proxy in front of `target` that counts `text`; speaks TLS to clients when told how.

    When `breaks` says so of the n-th time that the text passes to the client, the connection
    ends right behind it, in the middle of the message.
    """
    proxy = Proxy(target, text, breaks)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.reset()
