"""The worker against a real nats-server: bounded, and back at work after anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo

from engine import work
from engine.bus import ABSENT, STREAM, Bus, Queue, open_bus
from engine.errors import StoreUnavailable
from engine.work import Handle, Worker, working
from oee import nats as oee_nats
from oee.nats import Nats
from oee.ports import free_ports
from oee.processes import Server

PATIENCE_SECONDS = 20


class Hands:
    """A handler that shows what it holds, and holds it until told to let go."""

    def __init__(self, *, holding: bool = False) -> None:
        self.taken: list[UUID] = []
        self.held: set[UUID] = set()
        self.most_held = 0
        self.cancelled: list[UUID] = []
        self._holding = holding
        self._changed = asyncio.Condition()

    async def __call__(self, order_id: UUID) -> None:
        async with self._changed:
            self.taken.append(order_id)
            self.held.add(order_id)
            self.most_held = max(self.most_held, len(self.held))
            self._changed.notify_all()
            try:
                await self._changed.wait_for(lambda: not self._holding or order_id not in self.held)
            except asyncio.CancelledError:
                self.cancelled.append(order_id)
                raise
            finally:
                self.held.discard(order_id)

    async def have(self, holds: Callable[[Hands], bool]) -> None:
        """Wait until it holds, under one timeout."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: holds(self))

    async def let_go(self, order_id: UUID | None = None) -> None:
        """Finish this order, or all and those to come."""
        async with self._changed:
            self._holding = self._holding and order_id is not None
            self.held.discard(order_id or UUID(int=0))
            self._changed.notify_all()


def each(handle: Callable[[UUID], Awaitable[None]]) -> Handle:
    """Handles all orders of a hint at once, each by itself."""

    async def together(order_ids: Sequence[UUID]) -> Sequence[UUID]:
        done = await asyncio.gather(*map(handle, order_ids), return_exceptions=True)
        for failure in filter(None, done):
            raise failure
        return ()

    return together


@asynccontextmanager
async def at_work_on_groups(
    bus: Bus, handle: Handle, *, slots: int, grace_seconds: float = 10
) -> AsyncIterator[Worker]:
    """A worker on the route queue, pulling; leaving stops the pull and drains, as services do."""
    async with working(
        bus, Queue.ROUTE, handle, slots=slots, grace_seconds=grace_seconds
    ) as worker:
        pulling = asyncio.create_task(worker.pull())
        try:
            yield worker
        finally:
            pulling.cancel()
            await asyncio.wait({pulling})


def at_work(
    bus: Bus,
    handle: Callable[[UUID], Awaitable[None]],
    *,
    slots: int = 4,
    grace_seconds: float = 10,
) -> AbstractAsyncContextManager[Worker]:
    """The same, of orders one by one."""
    return at_work_on_groups(bus, each(handle), slots=slots, grace_seconds=grace_seconds)


async def offer(bus: Bus, count: int = 1) -> set[UUID]:
    orders = [uuid4() for _ in range(count)]
    for order_id in orders:
        await bus.publish(Queue.ROUTE.hints([order_id]))
    return set(orders)


async def consumer(bus: Bus) -> ConsumerInfo:
    assert bus.client is not None
    info: ConsumerInfo = await bus.client.jetstream().consumer_info(STREAM, Queue.ROUTE.value)
    return info


async def consumer_is(bus: Bus, holds: Callable[[ConsumerInfo], bool]) -> None:
    """Until the queue is there and as wanted; unlike Bus.waiting, this re-creates nothing."""

    async def known() -> bool:
        with suppress(*ABSENT):
            return holds(await consumer(bus))
        return False

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await known():  # noqa: ASYNC110 - asks another process
            await asyncio.sleep(0.01)


def all_acked(info: ConsumerInfo) -> bool:
    return (info.num_pending, info.num_ack_pending) == (0, 0)


class Beginnings:
    """How often a worker began anew: each time it looks after the queues first."""

    def __init__(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unseen = asyncio.Semaphore(0)
        self._ensure = bus.ensure
        monkeypatch.setattr(bus, "ensure", self._counted)

    async def _counted(self) -> None:
        self.unseen.release()
        await self._ensure()

    async def come(self, times: int) -> None:
        """Wait for so many more."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(times):
                await self.unseen.acquire()


# ── at work ───────────────────────────────────────────────────────────────────────────────────


async def test_every_hint_is_handled_and_used_up(bus: Bus) -> None:
    await bus.ensure()
    early = await offer(bus, 5)
    hands = Hands()

    async with at_work(bus, hands):
        await hands.have(lambda h: set(h.taken) == early)
        late = await offer(bus, 5)
        await hands.have(lambda h: set(h.taken) == early | late)
        await consumer_is(bus, all_acked)

    assert len(hands.taken) == 10


async def test_no_more_are_in_hand_than_slots_and_the_rest_stays_in_the_queue(bus: Bus) -> None:
    await bus.ensure()
    orders = await offer(bus, 10)
    hands = Hands(holding=True)

    async with at_work(bus, hands, slots=3):
        await hands.have(lambda h: len(h.held) == 3)
        await consumer_is(bus, lambda info: info.num_ack_pending == 3)
        # Seven wait at the server: they were not even asked for.
        assert (await consumer(bus)).num_pending == 7
        await hands.let_go(next(iter(hands.held)))
        await hands.have(lambda h: len(h.taken) == 4)
        assert len(hands.held) == 3
        await hands.let_go()
        await hands.have(lambda h: set(h.taken) == orders)

    assert hands.most_held == 3


async def test_one_slow_order_holds_up_no_other(bus: Bus) -> None:
    hands = Hands(holding=True)

    async with at_work(bus, hands, slots=2):
        await consumer_is(bus, all_acked)
        [slow] = await offer(bus)
        await hands.have(lambda h: h.held == {slow})
        for _ in range(5):
            [quick] = await offer(bus)
            await hands.have(lambda h, quick=quick: quick in h.held)  # type: ignore[misc]
            await hands.let_go(quick)
        assert slow in hands.held
        await hands.let_go()


async def test_two_workers_share_a_queue(nats: Nats, bus: Bus) -> None:
    here, there = Hands(holding=True), Hands(holding=True)

    async with (
        open_bus(nats.url, "other") as other,
        at_work(bus, here, slots=2),
        at_work(other, there, slots=2),
    ):
        await consumer_is(bus, lambda info: info.num_waiting == 2)
        orders = await offer(bus, 4)
        await here.have(lambda h: len(h.held) == 2)
        await there.have(lambda h: len(h.held) == 2)
        await here.let_go()
        await there.let_go()

    assert {*here.taken, *there.taken} == orders


async def test_the_same_hint_twice_is_handled_twice(bus: Bus) -> None:
    hands = Hands()
    [order_id] = await offer(bus)

    async with at_work(bus, hands):
        await consumer_is(bus, all_acked)
        for _ in range(2):
            await bus.publish(Queue.ROUTE.hints([order_id]))
        await hands.have(lambda h: h.taken == [order_id] * 2)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("a bug"), TimeoutError()])
async def test_a_hint_whose_handling_failed_comes_again_and_the_others_go_on(
    bus: Bus, error: Exception
) -> None:
    hands = Hands()
    await bus.ensure()
    [bad] = await offer(bus)

    async def handle(order_id: UUID) -> None:
        await hands(order_id)
        if order_id == bad:
            raise error

    async with at_work(bus, handle, slots=1):
        await hands.have(lambda h: h.taken == [bad])
        good = await offer(bus, 5)
        await hands.have(lambda h: set(h.taken) == {bad} | good)
        await consumer_is(bus, lambda info: info.num_pending == 0 and info.num_ack_pending == 1)


async def test_a_hint_about_several_orders_is_used_up_once_all_of_them_are_dealt_with(
    bus: Bus,
) -> None:
    hands = Hands(holding=True)
    good, bad, slow = uuid4(), uuid4(), uuid4()

    async def handle(order_id: UUID) -> None:
        if order_id == bad:
            raise StoreUnavailable("away")
        await hands(order_id)

    await bus.ensure()
    await bus.publish(Queue.ROUTE.hints([good, slow]) + Queue.ROUTE.hints([good, bad]))
    async with at_work(bus, handle, slots=20):
        await hands.have(lambda h: sorted(h.taken) == sorted([good, slow, good]))
        await hands.let_go(good)
        await consumer_is(bus, lambda info: info.num_ack_pending == 2)
        await hands.let_go()
        # The one that failed comes again; the other one is done.
        await consumer_is(bus, lambda info: (info.num_pending, info.num_ack_pending) == (0, 1))


async def test_of_orders_that_fail_together_one_that_cannot_be_handled_fails_alone(
    bus: Bus,
) -> None:
    hands = Hands()
    good, bad, other = uuid4(), uuid4(), uuid4()
    parties: list[Sequence[UUID]] = []

    async def handle(order_ids: Sequence[UUID]) -> Sequence[UUID]:
        parties.append(order_ids)
        if bad in order_ids:
            raise ValueError("a bug")
        return await each(hands)(order_ids)

    await bus.ensure()
    async with at_work_on_groups(bus, handle, slots=20):
        await bus.publish(Queue.ROUTE.hints([good, bad, other]))
        await hands.have(lambda h: set(h.taken) == {good, other})
        await consumer_is(bus, lambda info: (info.num_pending, info.num_ack_pending) == (0, 1))

    assert parties == [[good, bad, other], [good], [bad], [other]]


async def test_orders_that_a_handler_leaves_take_slots_of_their_own_alone(bus: Bus) -> None:
    hands = Hands(holding=True)
    quick, slow, other = uuid4(), uuid4(), uuid4()

    async def handle(order_ids: Sequence[UUID]) -> Sequence[UUID]:
        if order_ids == [quick, slow]:
            return [slow]
        return await each(hands)(order_ids)

    await bus.ensure()
    async with at_work_on_groups(bus, handle, slots=2):
        await bus.publish(Queue.ROUTE.hints([quick, slow]))
        await hands.have(lambda h: h.held == {slow})
        # With two slots, one of which the quick one gave back.
        await bus.publish(Queue.ROUTE.hints([other]))
        await hands.have(lambda h: h.held == {slow, other})
        await consumer_is(bus, lambda info: info.num_ack_pending == 2)
        await hands.let_go()
        await consumer_is(bus, all_acked)


@pytest.mark.parametrize("junk", [b"", b"x", b"not sixteen bytes", bytes(17), bytes(16 * 17)])
async def test_what_is_no_hint_is_thrown_away_and_the_others_go_on(bus: Bus, junk: bytes) -> None:
    await bus.ensure()
    assert bus.client is not None
    await bus.client.publish(Queue.ROUTE.subject, junk)
    orders = await offer(bus, 3)
    hands = Hands()

    async with at_work(bus, hands, slots=1):
        await hands.have(lambda h: set(h.taken) == orders)
        await consumer_is(bus, all_acked)


# ── what may happen to a worker ───────────────────────────────────────────────────────────────


async def restart(nats: Nats, bus: Bus) -> None:
    await asyncio.to_thread(nats.restart)


async def wipe(nats: Nats, bus: Bus) -> None:
    await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.wipe)
    await asyncio.to_thread(nats.start)


async def delete_stream(nats: Nats, bus: Bus) -> None:
    assert bus.client is not None
    await bus.client.jetstream().delete_stream(STREAM)


async def delete_consumer(nats: Nats, bus: Bus) -> None:
    assert bus.client is not None
    await bus.client.jetstream().delete_consumer(STREAM, Queue.ROUTE.value)


DISTURBANCES = [restart, wipe, delete_stream, delete_consumer]


@pytest.mark.parametrize("disturb", DISTURBANCES)
async def test_an_idle_worker_handles_what_comes_after(
    nats: Nats, bus: Bus, disturb: Callable[[Nats, Bus], Awaitable[None]]
) -> None:
    hands = Hands()
    async with at_work(bus, hands):
        await consumer_is(bus, lambda info: info.num_waiting == 1)

        await disturb(nats, bus)
        await consumer_is(bus, lambda info: info.num_waiting == 1)

        orders = await offer(bus, 3)
        await hands.have(lambda h: set(h.taken) == orders)
        await consumer_is(bus, all_acked)


@pytest.mark.parametrize("disturb", DISTURBANCES)
async def test_a_busy_worker_finishes_what_it_has_and_handles_what_comes_after(
    nats: Nats, bus: Bus, disturb: Callable[[Nats, Bus], Awaitable[None]]
) -> None:
    hands = Hands(holding=True)
    await bus.ensure()
    before = await offer(bus, 2)
    async with at_work(bus, hands, slots=2):
        await hands.have(lambda h: h.held == before)

        await disturb(nats, bus)
        await hands.let_go()
        await consumer_is(bus, lambda info: info.num_waiting == 1)

        after = await offer(bus, 3)
        await hands.have(lambda h: before | after <= set(h.taken))

    assert hands.most_held == 2
    assert hands.cancelled == []


async def test_a_worker_that_starts_without_a_server_begins_when_one_comes(nats: Nats) -> None:
    await asyncio.to_thread(nats.stop)
    hands = Hands()

    async with open_bus(nats.url, "early") as bus, at_work(bus, hands):
        await asyncio.to_thread(nats.start)
        while not bus.connected:  # noqa: ASYNC110 - another process answers
            await asyncio.sleep(0.01)
        await consumer_is(bus, all_acked)
        orders = await offer(bus)
        await hands.have(lambda h: set(h.taken) == orders)


async def test_a_server_that_is_back_is_asked_at_once(
    nats: Nats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Silence alone would be noticed only after longer than the test may take.
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", 7)
    async with at_work(bus, Hands()), asyncio.timeout(10):
        await consumer_is(bus, lambda info: info.num_waiting == 1)
        await asyncio.to_thread(nats.restart)
        await consumer_is(bus, lambda info: info.num_waiting == 1)


async def test_a_pull_that_ends_empty_is_followed_by_the_next_and_costs_no_new_beginning(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", 0.4)
    monkeypatch.setattr(work, "PULL_SECONDS", 0.8)
    begins = Beginnings(bus, monkeypatch)
    pulls = asyncio.Semaphore(0)

    async def count(message: Msg) -> None:
        pulls.release()

    await bus.subscribe(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.*", count)
    async with at_work(bus, Hands()), asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(3):
            await pulls.acquire()

    await begins.come(1)
    assert begins.unseen.locked(), "it never began anew"


async def test_a_pull_that_falls_silent_is_begun_anew(
    nats: Nats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", 0.2)
    hands = Hands()
    async with at_work(bus, hands):
        await consumer_is(bus, lambda info: info.num_waiting == 1)
        # The restarted server knows nothing of the pull, and nobody tells the worker.
        monkeypatch.setattr(bus, "_listeners", [])

        await asyncio.to_thread(nats.restart)
        await consumer_is(bus, lambda info: info.num_waiting == 1)

        orders = await offer(bus)
        await hands.have(lambda h: set(h.taken) == orders)


async def test_a_worker_that_was_busy_for_long_does_not_take_its_own_silence_for_a_loss(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", 0.3)
    begins = Beginnings(bus, monkeypatch)
    hands = Hands(holding=True)
    async with at_work(bus, hands, slots=2):
        await begins.come(1)
        await consumer_is(bus, lambda info: info.num_waiting == 1)
        first, second = await offer(bus, 2)
        await hands.have(lambda h: len(h.held) == 2)
        # Both slots are taken for much longer than a pull may be silent.
        await asyncio.sleep(1)

        await hands.let_go(first)
        await consumer_is(bus, lambda info: info.num_waiting == 1)
        await hands.let_go(second)
        await hands.let_go()
        orders = await offer(bus, 4)
        await hands.have(lambda h: {first, second} | orders == set(h.taken))

    assert begins.unseen.locked(), "it never began anew"


# Begun anew five times, a worker has waited four times: at least 50, 100, 200 and 400 ms.
FIVE_TIMES_SECONDS = 0.74


async def test_without_jetstream_a_worker_asks_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    server = Server(tmp_path, "plain")
    server.start([str(oee_nats._program()), "--addr", "127.0.0.1", "--port", str(port)])
    try:
        async with open_bus(f"nats://127.0.0.1:{port}", "plain") as bus:
            begins = Beginnings(bus, monkeypatch)
            async with at_work(bus, Hands()):
                await begins.come(1)
                started = asyncio.get_running_loop().time()
                await begins.come(4)
                passed = asyncio.get_running_loop().time() - started
    finally:
        server.kill()

    assert passed >= FIVE_TIMES_SECONDS


async def test_a_queue_without_a_leader_is_asked_less_and_less_often(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins = Beginnings(bus, monkeypatch)
    async with working(bus, Queue.ROUTE, each(Hands()), slots=1) as worker:
        # Nobody answers for this consumer, while creating streams and consumers succeeds.
        monkeypatch.setattr(worker, "_next", f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.leaderless")
        pulling = asyncio.create_task(worker.pull())
        await begins.come(1)
        started = asyncio.get_running_loop().time()
        await begins.come(4)
        passed = asyncio.get_running_loop().time() - started
        pulling.cancel()
        await asyncio.wait({pulling})

    assert passed >= FIVE_TIMES_SECONDS


# ── the end ───────────────────────────────────────────────────────────────────────────────────


async def test_leaving_waits_for_what_is_in_hand_and_leaves_the_rest_to_others(
    nats: Nats, bus: Bus
) -> None:
    hands, others = Hands(holding=True), Hands()
    await bus.ensure()
    before = await offer(bus, 2)

    async def work_until(left: asyncio.Event) -> None:
        async with at_work(bus, hands, slots=4):
            await left.wait()

    left = asyncio.Event()
    leaving = asyncio.create_task(work_until(left))
    await hands.have(lambda h: h.held == before)
    left.set()
    async with asyncio.timeout(work.PULL_SECONDS / 3):  # it is taken back, it does not run out
        await consumer_is(bus, lambda info: info.num_waiting == 0)

    # The worker has stopped asking, and has not gone: what comes now is another's.
    async with open_bus(nats.url, "other") as other, at_work(other, others):
        after = await offer(bus, 4)
        await others.have(lambda h: set(h.taken) == after)
        assert not leaving.done()
        assert hands.held == before
        await hands.let_go()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await leaving
        await consumer_is(bus, all_acked)

    assert set(hands.taken) == before
    assert hands.cancelled == []


async def test_what_outlasts_the_grace_is_cancelled_and_its_hint_comes_again(bus: Bus) -> None:
    hands = Hands(holding=True)
    await bus.ensure()
    orders = await offer(bus, 2)

    async with asyncio.timeout(PATIENCE_SECONDS):
        async with at_work(bus, hands, grace_seconds=0.05):
            await hands.have(lambda h: h.held == orders)

    assert set(hands.cancelled) == orders, "nothing runs on after the worker has gone"
    assert (await consumer(bus)).num_ack_pending == 2


async def test_leaving_and_closing_take_no_time_when_nothing_is_in_hand(nats: Nats) -> None:
    hands = Hands()
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with open_bus(nats.url, "brief") as bus, at_work(bus, hands):
            while not bus.connected:  # noqa: ASYNC110 - another process answers
                await asyncio.sleep(0.01)
            await consumer_is(bus, all_acked)
            orders = await offer(bus, 50)
            await hands.have(lambda h: set(h.taken) == orders)
            started = asyncio.get_running_loop().time()
    # drain() of a client whose pull subscription once held a message would wait two seconds.
    assert asyncio.get_running_loop().time() - started < 1


async def test_leaving_without_a_server_is_bounded(nats: Nats, bus: Bus) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with at_work(bus, Hands()):
            await consumer_is(bus, all_acked)
            await asyncio.to_thread(nats.kill)
