"""Many orders over one stream: each accepted or refused on its own, answered with its index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from engine.lifecycle import Status
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from gateway import acceptance
from oee.nats import Nats
from oee.postgres import Postgres
from tests import builders
from tests.gateway.running import (
    PATIENCE_SECONDS,
    Gateway,
    code,
    eventually,
    reason,
    refusal,
    running,
    stored,
    swap,
    violations,
)


def _batch(*orders: pb.SubmitOrderRequest) -> pb.SubmitOrdersRequest:
    return pb.SubmitOrdersRequest(orders=orders)


async def _submit(
    gateway: Gateway, *messages: pb.SubmitOrdersRequest
) -> dict[int, pb.SubmitOrdersResult]:
    """What became of each order of a stream that ended with OK, by index."""
    results: dict[int, pb.SubmitOrdersResult] = {}
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for response in gateway.client.SubmitOrders(iter(messages)):
            for result in response.results:
                assert result.index not in results, "an order is answered once"
                results[result.index] = result
    return results


async def _next(call: Any) -> list[pb.SubmitOrdersResult]:
    response = await asyncio.wait_for(call.read(), PATIENCE_SECONDS)
    assert response is not grpc.aio.EOF
    return list(response.results)


async def test_every_order_is_answered_by_its_index_over_the_whole_stream(
    gateway: Gateway,
) -> None:
    keys = [f"key-{n}" for n in range(60)]
    requests = [swap(key) for key in keys]
    messages = [_batch(*requests[:1]), _batch(), _batch(*requests[1:20]), _batch(*requests[20:])]

    results = await _submit(gateway, *messages)

    assert sorted(results) == [*range(60)]
    accepted = [results[n].accepted.order for n in range(60)]
    assert [order.client_order_id for order in accepted] == keys
    assert {order.status for order in accepted} == {pb.ORDER_STATUS_PENDING}
    listed = await gateway.client.ListOrders(pb.ListOrdersRequest(page_size=100))
    assert {o.order_id for o in listed.orders} == {o.order_id for o in accepted}


async def test_a_wrong_order_is_refused_alone_with_all_that_submit_order_would_tell(
    gateway: Gateway,
) -> None:
    wrong = swap("no key!", token_in="DOGE", amount_in="-1")
    results = await _submit(gateway, _batch(swap("key-1"), wrong, swap("key-2")))

    assert [results[n].WhichOneof("result") for n in range(3)] == [
        "accepted",
        "refused",
        "accepted",
    ]
    refused = results[1].refused
    told = violations(await refusal(gateway.client.SubmitOrder(wrong)))
    assert [(v.field, v.description) for v in refused.field_violations] == told
    assert (refused.code, refused.reason) == (3, "FIELD_INVALID")
    assert not refused.HasField("retry_delay")
    assert len(await stored(gateway)) == 2


async def test_the_same_order_twice_on_one_stream_is_one_order(gateway: Gateway) -> None:
    again = swap("key-1", amount_in="1.50")
    results = await _submit(gateway, _batch(swap("key-1"), again), _batch(swap("key-1")))

    accepted = [results[n].accepted for n in range(3)]
    assert len({a.order.order_id for a in accepted}) == 1
    assert sorted(a.duplicate for a in accepted) == [False, True, True]
    other = await _submit(gateway, _batch(swap("key-1", amount_in="2")))
    assert other[0].refused.reason == "CLIENT_ORDER_ID_REUSED"
    assert other[0].refused.metadata["first_difference"] == "amount_in"


async def test_an_order_that_waits_holds_up_no_other(gateway: Gateway) -> None:
    call = gateway.client.SubmitOrders()
    # Its venues are away, so its answer takes its time.
    await call.write(_batch(swap("slow", validate_only=True)))
    await call.write(_batch(swap("quick")))

    results = await _next(call)
    while all(result.index != 1 for result in results):
        results += await _next(call)
    await call.done_writing()
    assert await call.read() is not None


async def test_an_answer_comes_while_the_stream_stays_open(gateway: Gateway) -> None:
    call = gateway.client.SubmitOrders()
    for n in range(3):
        await call.write(_batch(swap(f"key-{n}")))
        assert [result.index for result in await _next(call)] == [n]
    await call.done_writing()
    assert await asyncio.wait_for(call.read(), PATIENCE_SECONDS) is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_too_many_orders_in_one_message_end_the_stream_once_the_others_are_answered(
    gateway: Gateway,
) -> None:
    many = _batch(*[swap()] * (acceptance.MAX_ORDERS_A_MESSAGE + 1))
    seen: list[pb.SubmitOrdersResult] = []

    async def read() -> None:
        async for response in gateway.client.SubmitOrders(iter([_batch(swap("key-1")), many])):
            seen.extend(response.results)

    [(field, description)] = violations(await refusal(read()))
    assert (field, "at most 500" in description) == ("orders", True)
    assert [result.accepted.order.client_order_id for result in seen] == ["key-1"]
    assert len(await stored(gateway)) == 1


async def test_a_client_that_goes_away_leaves_nothing_running(gateway: Gateway) -> None:
    before = len(asyncio.all_tasks())
    call = gateway.client.SubmitOrders()
    await call.write(_batch(swap("key-1")))
    await _next(call)
    call.cancel()

    async def as_before() -> bool:
        return len(asyncio.all_tasks()) <= before

    await eventually(as_before)


async def test_a_stream_without_end_is_read_no_faster_than_it_is_answered(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "MAX_UNANSWERED", 5)
    accept, running, most = acceptance.Acceptance.accept, 0, 0

    async def counted(*arguments: Any) -> pb.SubmitOrderResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await accept(*arguments)
        finally:
            running -= 1

    monkeypatch.setattr(acceptance.Acceptance, "accept", counted)

    results = await _submit(
        gateway, *[_batch(*[swap(f"{m}-{n}") for n in range(20)]) for m in "ab"]
    )
    assert sorted(results) == [*range(40)]
    assert most == 5


async def test_a_stopping_gateway_answers_what_it_has_read_and_sends_the_client_elsewhere(
    dsn: str, nats: Nats
) -> None:
    async with running(dsn, nats.url) as gateway:
        call = gateway.client.SubmitOrders()
        await call.write(_batch(swap("key-1")))
        assert [result.index for result in await _next(call)] == [0]

        gateway.stop.set()
        status = await refusal(_next(call))
        assert (code(status), reason(status)) == ("UNAVAILABLE", "SHUTTING_DOWN")


async def test_without_a_database_each_order_is_told_to_come_back(
    own_postgres: Postgres, nats: Nats
) -> None:
    async with running(own_postgres.dsn, nats.url) as gateway:
        await asyncio.to_thread(own_postgres.kill)
        try:
            results = await _submit(gateway, _batch(swap("key-1"), swap("key-2")))
        finally:
            await asyncio.to_thread(own_postgres.start)
        assert {r.refused.reason for r in results.values()} == {"STORE_UNAVAILABLE"}
        assert all(r.refused.HasField("retry_delay") for r in results.values())
        again = await _submit(gateway, _batch(swap("key-1"), swap("key-2")))
        assert [again[n].accepted.duplicate for n in range(2)] == [False, False]


# ── admission ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def full(dsn: str, nats: Nats) -> AsyncIterator[Gateway]:
    """A gateway that takes on three orders."""
    async with running(dsn, nats.url, max_waiting_orders=3) as gateway:
        results = await _submit(gateway, _batch(*[swap(f"key-{n}") for n in range(3)]))
        assert all(result.HasField("accepted") for result in results.values())
        yield gateway


async def test_one_order_too_many_is_refused_at_once_and_told_when_to_come_back(
    full: Gateway,
) -> None:
    status = await refusal(full.client.SubmitOrder(swap("key-4")))
    assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    [refused] = (await _submit(full, _batch(swap("key-5")))).values()
    assert (refused.refused.code, refused.refused.reason) == (8, "OVERLOADED")
    assert refused.refused.retry_delay.ToMilliseconds() > 0
    assert len(await stored(full)) == 3


async def test_orders_that_come_together_are_no_more_than_may_wait(dsn: str, nats: Nats) -> None:
    async with running(dsn, nats.url, max_waiting_orders=3) as gateway:
        batches = [_batch(*[swap(f"key-{b}-{n}") for n in range(200)]) for b in range(2)]
        results = await _submit(gateway, *batches)
        assert sum(result.HasField("accepted") for result in results.values()) == 3
        assert {r.refused.reason for r in results.values() if r.HasField("refused")} == {
            "OVERLOADED"
        }
        assert len(await stored(gateway)) == 3


async def test_an_accepted_order_is_answered_again_however_many_wait(full: Gateway) -> None:
    again = await full.client.SubmitOrder(swap("key-1"))
    assert again.duplicate


async def test_room_comes_back_as_orders_are_signed_or_end(
    full: Gateway, store: Store, relay: Relay
) -> None:
    await _lead(relay, store, [Status.SUBMITTED, Status.FAILED])

    async def accepted() -> bool:
        [result] = (await _submit(full, _batch(swap("key-6")))).values()
        return result.HasField("accepted")

    await eventually(accepted)


async def _lead(relay: Relay, store: Store, ends: Sequence[Status]) -> None:
    orders = await store.list_orders("default", limit=10)
    for order, end in zip(orders, ends, strict=False):
        for transition in builders.steps(order, end):
            order = await relay.commit(transition)


async def test_what_waits_already_counts_for_a_gateway_that_starts(
    dsn: str, nats: Nats, store: Store
) -> None:
    for _ in range(3):
        await store.add(builders.new_order())
    async with running(dsn, nats.url, max_waiting_orders=3) as gateway:

        async def refused() -> bool:
            [result] = (await _submit(gateway, _batch(swap()))).values()
            return result.HasField("refused")

        await eventually(refused)
