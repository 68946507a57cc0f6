"""The bus against a real nats-server: hints and announcements, and what its absence costs.

Traps of the client that cannot spring here: nothing is published with an acknowledgement that
could be awaited in vain or stay ambiguous, nothing calls flush() or rtt() while in service, no
message carries an id to be de-duplicated by, and every subject is made of fixed words and a UUID.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from nats.aio.msg import Msg
from nats.js import api

from engine import bus as bus_module
from engine.bus import ACK_WAIT_SECONDS, STREAM, Bus, Queue, open_bus, status_subject
from engine.errors import StartupError
from oee.nats import Nats
from oee.ports import free_ports

ORDER = UUID("01890000-0000-7000-8000-000000000001")
PATIENCE_SECONDS = 15


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it holds, under one timeout."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110 - asks another process
            await asyncio.sleep(0.01)


async def connected(bus: Bus) -> None:
    """Return at the next connect, or at once when there is a connection."""
    came = asyncio.Event()
    bus.on_connect(came.set)
    if not bus.connected:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await came.wait()


async def queue_is_read(bus: Bus) -> None:
    """Until the queues are there again."""

    async def known() -> bool:
        return await bus.waiting(Queue.ROUTE) is not None

    await until(known)


async def test_hints_wait_in_the_queue_they_were_offered_to(bus: Bus) -> None:
    await bus.ensure()

    await bus.publish(Queue.ROUTE.hints([ORDER]))
    await bus.publish(Queue.ROUTE.hints([ORDER]))
    await bus.publish(Queue.EXECUTE.hints([ORDER]))

    async def all_wait() -> bool:
        return [await bus.waiting(queue) for queue in Queue] == [2, 1]

    await until(all_wait)


async def test_a_hint_that_was_used_up_can_be_given_again_at_once(bus: Bus) -> None:
    await bus.ensure()
    assert bus.client is not None
    stream = bus.client.jetstream()

    for _ in range(3):
        await bus.publish(Queue.ROUTE.hints([ORDER]))
        queue = await stream.pull_subscribe_bind(consumer="route", stream=STREAM)
        [message] = await queue.fetch(1, timeout=PATIENCE_SECONDS)
        await message.ack()
        await queue.unsubscribe()
        assert UUID(bytes=message.data) == ORDER


async def test_the_queues_are_work_queues_that_never_give_a_hint_up(bus: Bus) -> None:
    await bus.ensure()
    assert bus.client is not None
    stream = bus.client.jetstream()

    config = (await stream.stream_info(STREAM)).config

    assert config.retention == api.RetentionPolicy.WORK_QUEUE
    assert config.storage == api.StorageType.FILE
    assert config.max_msgs is not None
    assert config.max_msgs > 0
    for queue in Queue:
        consumer = (await stream.consumer_info(STREAM, queue.value)).config
        assert consumer.filter_subject == queue.subject
        assert consumer.ack_policy == api.AckPolicy.EXPLICIT
        assert consumer.ack_wait == ACK_WAIT_SECONDS
        assert consumer.max_deliver == -1


async def test_many_may_create_the_queues_at_once(nats: Nats, bus: Bus) -> None:
    async with open_bus(nats.url, "other") as other:
        await connected(other)

        await asyncio.gather(*(b.ensure() for b in (bus, other) for _ in range(5)))

        assert await bus.waiting(Queue.ROUTE) == await other.waiting(Queue.EXECUTE) == 0


async def test_a_stream_that_an_operator_set_up_otherwise_is_left_as_it_is(bus: Bus) -> None:
    assert bus.client is not None
    stream = bus.client.jetstream()
    subjects = [queue.subject for queue in Queue]
    config = api.StreamConfig(
        name=STREAM, subjects=subjects, retention=api.RetentionPolicy.WORK_QUEUE, max_msgs=7
    )
    await stream.add_stream(config)

    await bus.ensure()

    assert (await stream.stream_info(STREAM)).config.max_msgs == 7
    assert await bus.waiting(Queue.ROUTE) == 0


async def test_whoever_asks_a_queue_that_is_gone_creates_it_anew(bus: Bus) -> None:
    await bus.ensure()
    assert bus.client is not None
    await bus.client.jetstream().delete_stream(STREAM)

    assert await bus.waiting(Queue.ROUTE) is None
    assert await bus.waiting(Queue.ROUTE) == 0


async def test_a_queue_that_cannot_be_created_is_unknown_and_no_error(bus: Bus) -> None:
    # The work's subject belongs to another stream: the consumers have no stream to stand on.
    assert bus.client is not None
    await bus.client.jetstream().add_stream(api.StreamConfig(name="FOREIGN", subjects=["work.>"]))

    assert await bus.waiting(Queue.ROUTE) is None
    assert await bus.waiting(Queue.ROUTE) is None


async def test_an_announcement_reaches_whoever_listens_to_that_order(bus: Bus) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    assert await bus.subscribe(status_subject(ORDER), heard.put) is not None

    await bus.publish([(status_subject(UUID(int=7)), b"of another order")])
    await bus.publish([(status_subject(ORDER), b"event")])

    async with asyncio.timeout(PATIENCE_SECONDS):
        message = await heard.get()
    assert (message.subject, message.data) == (f"orders.status.{ORDER}", b"event")
    assert heard.empty()


# ── NATS away ─────────────────────────────────────────────────────────────────────────────────


async def test_a_bus_opens_at_once_without_a_server_and_connects_when_one_comes(
    nats: Nats,
) -> None:
    await asyncio.to_thread(nats.stop)

    async with open_bus(nats.url, "early") as bus:
        assert not bus.connected
        await bus.publish(Queue.ROUTE.hints([ORDER]))
        await bus.publish([(status_subject(ORDER), b"event")])
        assert await bus.waiting(Queue.ROUTE) is None
        assert await bus.subscribe("orders.status.*", _ignore) is None

        await asyncio.to_thread(nats.start)
        await connected(bus)

        await queue_is_read(bus)


async def test_a_bus_whose_server_never_comes_closes_at_once(nats: Nats) -> None:
    await asyncio.to_thread(nats.stop)

    async with asyncio.timeout(PATIENCE_SECONDS):
        async with open_bus(nats.url, "never"):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:4222",
        "http://localhost:4222",
        "nats://",
        "nats://localhost:port",
        "nats://localhost:99999",
        "nats://localhost:4222,",
        "nats://user:secret@:4222",
    ],
)
async def test_an_address_that_is_none_is_refused_at_once_and_not_repeated(url: str) -> None:
    with pytest.raises(StartupError, match=r"^NATS_URL must be nats://HOST:PORT\[,"):
        async with open_bus(url, "never"):
            pass


async def test_one_of_several_servers_is_enough(nats: Nats) -> None:
    [dead] = free_ports(1)

    async with open_bus(f"nats://127.0.0.1:{dead}, {nats.url}", "either") as bus:
        await connected(bus)


async def test_a_server_that_takes_the_connection_and_says_nothing_holds_nobody_up() -> None:
    taken = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with open_bus(f"nats://127.0.0.1:{port}", "waits"):
                await taken.wait()


async def test_nothing_is_raised_while_the_server_is_away_however_much_is_said(
    nats: Nats, bus: Bus
) -> None:
    await asyncio.to_thread(nats.kill)

    # More than the client keeps for later.
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(40):
            await bus.publish([(status_subject(ORDER), bytes(100_000))])
            await bus.publish(Queue.ROUTE.hints([ORDER]))
        assert await bus.waiting(Queue.ROUTE) is None

    await asyncio.to_thread(nats.start)
    await queue_is_read(bus)


async def test_a_killed_server_is_found_again_and_subscriptions_go_on(nats: Nats, bus: Bus) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await bus.subscribe(status_subject(ORDER), heard.put)
    back = asyncio.Event()
    bus.on_connect(back.set)

    await asyncio.to_thread(nats.restart)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await back.wait()
        await bus.publish([(status_subject(ORDER), b"after")])
        message = await heard.get()

    assert message.data == b"after"


async def test_a_server_that_is_away_is_tried_without_end(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "RECONNECT_SECONDS", 0.001)
    tries = asyncio.Semaphore(0)

    async def count(error: Exception) -> None:
        tries.release()

    async with open_bus(nats.url, "stubborn") as bus:
        await connected(bus)
        monkeypatch.setattr(bus.client, "_error_cb", count)
        await asyncio.to_thread(nats.kill)
        # By default a client gives a server up for good after sixty.
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(70):
                await tries.acquire()
        await asyncio.to_thread(nats.start)

        await queue_is_read(bus)


async def test_a_wiped_store_is_set_up_again(nats: Nats, bus: Bus) -> None:
    await bus.ensure()
    await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.wipe)

    await asyncio.to_thread(nats.start)

    await queue_is_read(bus)
    assert await bus.waiting(Queue.EXECUTE) == 0


async def test_what_was_said_last_is_sent_before_the_bus_closes(nats: Nats, bus: Bus) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await bus.subscribe(status_subject(ORDER), heard.put)
    async with open_bus(nats.url, "brief") as brief:
        await connected(brief)
        await brief.publish([(status_subject(ORDER), b"last words")])

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await heard.get()).data == b"last words"


async def test_closing_is_not_reported_as_a_loss(
    nats: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_bus(nats.url, "brief") as brief:
        await connected(brief)

    assert "connection lost" not in "".join(capsys.readouterr())


async def _ignore(message: Msg) -> None:
    pass
