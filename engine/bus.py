"""NATS: work hints on JetStream, committed events on plain subjects. Losing any costs only time."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, BadRequestError, NotFoundError
from nats.protocol.parser import PERMISSIONS_ERR

from engine.certificates import Files
from engine.errors import StartupError
from engine.nats_credentials import Credentials
from engine.nats_tls import NatsTls

logger = structlog.get_logger()

SCHEMES: Final = ("nats", "tls", "ws", "wss")
STREAM: Final = "WORK"
# Where whole batches of committed events are announced, each as one OrderEvents.
EVENTS_SUBJECT: Final = "orders.events"
CALL_SECONDS: Final = 2.0
# Declared as whole seconds by nats-py, used as given.
RECONNECT_SECONDS: Final[Any] = 0.2
MAX_RECONNECT_SECONDS: Final = 1.0
# A majority of three goes on without the third.
REPLICAS: Final = 3
# What one hint may be about: orders that were committed together need no message each.
HINT_ORDERS: Final = 16
# More hints than this are never useful: the reconciler offers again what is still due.
MAX_HINTS: Final = 1_000_000
ACK_WAIT_SECONDS: Final = 30.0

# The server's error codes for a stream that exists with other settings, for replicas without a
# cluster, and for more replicas than a cluster has servers.
_EXISTS_OTHERWISE: Final = 10058
_NO_CLUSTER: Final = 10074
_TOO_FEW_SERVERS: Final = 10005

# What nats-py raises when a server, a stream or an answer is missing.
ABSENT: Final = (nats.errors.Error, TimeoutError, OSError)


class Queue(StrEnum):
    """The work queues; also the names of their consumers."""

    ROUTE = "route"
    EXECUTE = "execute"

    @property
    def subject(self) -> str:
        return f"work.{self.value}"

    def hints(self, order_ids: Sequence[UUID]) -> list[tuple[str, bytes]]:
        """Messages that say that these orders have work in this queue, each about a few."""
        return [
            (self.subject, b"".join(i.bytes for i in order_ids[first : first + HINT_ORDERS]))
            for first in range(0, len(order_ids), HINT_ORDERS)
        ]


def status_subject(order_id: UUID) -> str:
    """Where an order's events are announced."""
    return f"orders.status.{order_id}"


class Bus:
    """One connection to NATS, kept for ever; while it is away, hints are dropped."""

    def __init__(self) -> None:
        self.client: _Client | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        return self.client is not None and self.client.is_connected

    def on_connect(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every connect and reconnect."""
        self._listeners.append(listener)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish hints and announcements. Never raises, never waits for an answer."""
        if self.client is None or not messages:
            return
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self.client.publish_all(messages)
        except ABSENT as error:
            logger.debug("hints dropped", error=repr(error))

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]]
    ) -> Subscription | None:
        """A subscription that survives reconnects, or None while there was no connection yet."""
        if self.client is None:
            return None
        try:
            return await asyncio.wait_for(self.client.subscribe(subject, cb=callback), CALL_SECONDS)
        except ABSENT:
            return None

    async def waiting(self, queue: Queue) -> int | None:
        """How many hints wait in this queue; None when that cannot be known now.

        Re-creates the stream and its consumers when they are missing.
        """
        if not self.connected:
            return None
        assert self.client is not None
        with suppress(*ABSENT):
            try:
                stream = self.client.jetstream(timeout=CALL_SECONDS)
                return int((await stream.consumer_info(STREAM, queue.value)).num_pending)
            except NotFoundError:
                await self.ensure()
        return None

    async def ensure(self) -> None:
        """Create the stream and its consumers if they are not there; safe to repeat and to race.

        The stream has three replicas where a cluster allows it, else one; one that has fewer
        than it could have gets them. Raises what nats-py raises when the server cannot do it now.
        """
        assert self.client is not None
        stream = self.client.jetstream(timeout=CALL_SECONDS)
        await _ensure_stream(stream)
        for queue in Queue:
            await stream.add_consumer(
                STREAM,
                api.ConsumerConfig(
                    durable_name=queue.value,
                    filter_subject=queue.subject,
                    ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=ACK_WAIT_SECONDS,
                    max_deliver=-1,
                    max_ack_pending=20_000,
                ),
            )

    async def _connected(self) -> None:
        logger.info("nats connected")
        for listener in self._listeners:
            listener()


async def _ensure_stream(stream: JetStreamContext) -> None:
    config = api.StreamConfig(
        name=STREAM,
        subjects=[queue.subject for queue in Queue],
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.NEW,
        max_msgs=MAX_HINTS,
        num_replicas=REPLICAS,
    )
    try:
        await stream.add_stream(config)
    except APIError as error:
        if error.err_code in (_NO_CLUSTER, _TOO_FEW_SERVERS):
            with suppress(BadRequestError):  # as below, but nothing to replicate it on
                await stream.add_stream(config.evolve(num_replicas=1))
        elif error.err_code == _EXISTS_OTHERWISE:
            await _replicate(stream)
        else:
            raise


async def _replicate(stream: JetStreamContext) -> None:
    """Give the stream its replicas; its other settings are an operator's choice."""
    config = (await stream.stream_info(STREAM)).config
    if (config.num_replicas or 1) < REPLICAS:
        with suppress(BadRequestError):  # the cluster is too small
            await stream.update_stream(config.evolve(num_replicas=REPLICAS))
            logger.info("stream replicated", stream=STREAM, replicas=REPLICAS)


@asynccontextmanager
async def open_bus(
    url: str, name: str, *, tls: Files | None = None, creds_file: Path | None = None
) -> AsyncIterator[Bus]:
    """A bus that connects in the background, so that a service starts without NATS too.

    All files are read again with every connection. Raises StartupError when `url` is no address
    at all, or a file is no use.
    """
    bus = Bus()
    options: dict[str, Any] = {}
    if tls:
        options["tls"] = NatsTls(tls)
    if creds_file is not None:
        credentials = Credentials(creds_file)
        options |= {"user_jwt_cb": credentials.jwt, "signature_cb": credentials.sign}
    connecting = asyncio.create_task(_connect(bus, _servers(url), name, options))
    try:
        yield bus
    finally:
        while not connecting.done():
            # More than once: wait_for() loses a cancel that meets its answer.
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=RECONNECT_SECONDS)
        if not connecting.cancelled():
            connecting.result()
        if bus.client is not None:
            # Pull subscriptions make drain() hang; what is still buffered are hints.
            with suppress(*ABSENT):
                await asyncio.wait_for(bus.client.close(), CALL_SECONDS)


def _servers(url: str) -> list[str]:
    servers = [server.strip() for server in url.split(",")]
    for server in servers:
        try:
            parts = urlsplit(server)
            right = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            right = False
        if not right:  # not repeated: it may hold a password
            raise StartupError("NATS_URL must be nats://HOST:PORT[,nats://HOST:PORT…]")
    return servers


class _Client(Client):
    """One that outlives whatever the server ends a connection with, an expired JWT for one, and
    publishes many messages at the price of one."""

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """As publish() does each of them, on subjects that are known to be right."""
        if not self.is_connected or max(len(data) for _, data in messages) > self.max_payload:
            for subject, data in messages:
                await self.publish(subject, data)
            return
        await self._send_command(
            b"".join(
                [b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(data), data) for to, data in messages]
            )
        )
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_err(self, err_msg: str) -> None:
        # nats-py would close for good; the next connection may be let in, or tells why not.
        error = nats.errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        if PERMISSIONS_ERR not in err_msg:
            await self._process_op_err(error)


def _refusal(error: Exception) -> dict[str, str]:
    """Why there is no connection, where the other side or its certificate tells."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return {"reason": error.verify_message}
    if isinstance(error, ssl.SSLError) and error.reason:
        return {"reason": error.reason}
    if type(error) is nats.errors.Error:  # in the server's words
        return {"reason": str(error).removeprefix("nats: ").strip("'")}
    return {}


async def _connect(bus: Bus, servers: list[str], name: str, options: dict[str, Any]) -> None:
    """Connect once; from then on the client keeps itself connected."""
    said: set[tuple[str, ...]] = set()
    tries = 0
    delay = RECONNECT_SECONDS

    async def lost() -> None:
        if not client.is_closed:
            logger.warning("nats connection lost; reconnecting")

    async def failed(error: Exception) -> None:
        """Say so once, and each refusal's reason once: an outage ends connections in many ways.

        The client waits for this before it tries the next server.
        """
        nonlocal tries, delay
        refusal = _refusal(error)
        told = tuple(refusal.values())
        level = logger.debug if told in said else logger.warning
        said.add(told)
        event = "nats connection refused" if refusal else "nats is not answering"
        level(event, error=type(error).__name__, **refusal)
        tries += 1
        if not client.is_connected and client._transport is not None:
            # After a TLS handshake that failed, nats-py waits for ever for the end of a connection
            # that is over.
            client._transport.close()  # type: ignore[no-untyped-call]
            client._transport = None
        if client.is_connected or tries % len(client.servers):
            return  # the other servers are tried at once
        await asyncio.sleep(delay * random.uniform(1, 1.5))
        delay = min(MAX_RECONNECT_SECONDS, delay * 2)

    async def back() -> None:
        nonlocal tries, delay
        said.clear()
        tries, delay = 0, RECONNECT_SECONDS
        await bus._connected()

    client = _Client()
    try:
        await client.connect(
            servers,
            name=name,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_SECONDS,
            connect_timeout=2,
            ping_interval=5,
            max_outstanding_pings=2,
            drain_timeout=2,
            error_cb=failed,
            disconnected_cb=lost,
            reconnected_cb=back,
            **options,
        )
    except asyncio.CancelledError:
        await client.close()  # a greeting under way would keep its socket open
        raise
    bus.client = client
    await back()
