"""What accounts may do: exact over all gateways, and told so that waiting helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from engine.store import Store
from engine.v1 import admin_pb2
from engine.v1 import orders_pb2 as pb
from oee.nats import Nats
from tests.gateway.running import (
    Gateway,
    code,
    detail,
    eventually,
    pays,
    reason,
    refusal,
    running,
    stored,
    swap,
    venues,
)


async def answers(gateway: Gateway, requests: list[pb.SubmitOrderRequest]) -> list[Any]:
    """What becomes of orders that are sent all at once."""
    return await asyncio.gather(
        *(gateway.client.SubmitOrder(request) for request in requests), return_exceptions=True
    )


async def exhaust(gateway: Gateway) -> None:
    """Place the seven orders that are allowed."""
    results = await answers(gateway, [swap() for _ in range(7)])
    assert len(accepted(results)) == 7, results


def accepted(results: list[Any]) -> list[pb.SubmitOrderResponse]:
    return [result for result in results if isinstance(result, pb.SubmitOrderResponse)]


async def age(dsn: str, by: timedelta) -> None:
    """Let so much time pass, as far as rates are concerned."""
    connection = await asyncpg.connect(dsn, timeout=10)
    await connection.execute("UPDATE account_rates SET full_at = full_at - $1::interval", by)
    await connection.close()


async def limited(gateway: Gateway, account: str, **limits: Any) -> None:
    """Set an account's limits, in force at this gateway."""
    request = admin_pb2.SetAccountLimitsRequest(
        account=account, limits=admin_pb2.AccountLimits(**limits)
    )
    await gateway.admin.SetAccountLimits(request)


@pytest.fixture
async def two(dsn: str, nats: Nats) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that allow seven orders a minute."""
    async with (
        running(dsn, nats.url, orders_per_minute=7) as one,
        running(dsn, nats.url, orders_per_minute=7) as other,
    ):
        yield one, other


def wait(status: status_pb2.Status) -> timedelta:
    """How long a refused client is told to wait."""
    assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    [violation] = detail(status, error_details_pb2.QuotaFailure).violations
    assert violation.subject == "account:default"
    delay: Duration = detail(status, error_details_pb2.RetryInfo).retry_delay
    return delay.ToTimedelta()


async def test_a_rate_is_exact_over_two_gateways(
    dsn: str, two: tuple[Gateway, Gateway], store: Store
) -> None:
    for round_, more in enumerate([7, 3, 7]):
        if round_:
            # A second less than whole shares: what is measured here takes far less.
            await age(dsn, timedelta(minutes=1) * more / 7 - timedelta(seconds=0.5))
        results = await asyncio.gather(
            *(answers(gateway, [swap() for _ in range(20)]) for gateway in two)
        )
        # The clock that runs meanwhile may make up for the half second, and no more.
        done = len(accepted(results[0])) + len(accepted(results[1]))
        assert done in ({7} if not round_ else {more - 1, more})
    assert len(await store.list_orders("default", limit=100)) in range(15, 18)


UNTIL_TWO_WAIT = """
DO $$ BEGIN
    FOR look IN 1..1000 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF (SELECT count(*) FROM pg_locks WHERE NOT granted) >= 2 THEN RETURN; END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE 'no two statements wait for a lock';
END $$
"""


async def test_who_had_to_wait_for_others_to_be_counted_loses_nothing(
    dsn: str, two: tuple[Gateway, Gateway]
) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    await connection.execute("INSERT INTO account_rates VALUES ('default', now())")
    async with asyncio.TaskGroup() as group, connection.transaction():
        await connection.execute("SELECT FROM account_rates FOR UPDATE")
        ordering = [
            group.create_task(answers(gateway, [swap() for _ in range(4)])) for gateway in two
        ]
        await connection.execute(UNTIL_TWO_WAIT)
        # Somebody who came later and was faster.
        await connection.execute("UPDATE account_rates SET full_at = clock_timestamp()")
    await connection.close()
    assert len(accepted([result for one in ordering for result in one.result()])) == 7


async def test_who_waits_as_long_as_told_is_accepted_and_who_waits_less_is_not(
    dsn: str, two: tuple[Gateway, Gateway]
) -> None:
    await exhaust(two[0])
    told = wait(await refusal(two[1].client.SubmitOrder(swap())))
    # A share of a minute, less what has passed since the burst.
    assert timedelta(seconds=60 / 7 - 5) < told <= timedelta(seconds=60 / 7)
    await age(dsn, told - timedelta(seconds=3))
    again = wait(await refusal(two[0].client.SubmitOrder(swap())))
    assert again <= timedelta(seconds=3)
    await age(dsn, again)
    assert accepted(await answers(two[1], [swap(), swap()])) != []


async def test_those_refused_together_are_told_to_come_back_one_after_the_other(
    two: tuple[Gateway, Gateway],
) -> None:
    async def many() -> AsyncIterator[pb.SubmitOrdersRequest]:
        yield pb.SubmitOrdersRequest(orders=[swap() for _ in range(10)])

    results = [r for s in [s async for s in two[0].client.SubmitOrders(many())] for r in s.results]
    refused = [r.refused for r in results if r.HasField("refused")]
    assert {r.reason for r in refused} == {"RATE_LIMITED"}
    delays = sorted(r.retry_delay.ToTimedelta().total_seconds() for r in refused)
    assert len(delays) == 3
    assert delays == [pytest.approx(n * 60 / 7, abs=3) for n in (1, 2, 3)]


async def test_a_repeated_order_is_never_charged_nor_refused(
    two: tuple[Gateway, Gateway], store: Store
) -> None:
    same = [swap("again") for _ in range(30)]
    results = await asyncio.gather(*(answers(gateway, same) for gateway in two))
    repeated = accepted(results[0]) + accepted(results[1])
    assert len(repeated) == 60
    assert len({response.order.order_id for response in repeated}) == 1
    assert sum(not response.duplicate for response in repeated) == 1
    # Six are left of seven.
    assert len(accepted(await answers(two[0], [swap() for _ in range(10)]))) == 6
    assert len(accepted(await answers(two[1], same))) == 30
    assert len(await store.list_orders("default", limit=100)) == 7


async def test_refused_orders_are_not_stored_and_may_be_sent_again(
    dsn: str, two: tuple[Gateway, Gateway]
) -> None:
    await exhaust(two[0])
    wait(await refusal(two[0].client.SubmitOrder(swap("later"))))
    assert len(await stored(two[0])) == 7
    await age(dsn, timedelta(minutes=1))
    response = await two[1].client.SubmitOrder(swap("later"))
    assert not response.duplicate


async def test_accounts_do_not_count_for_each_other_even_in_one_batch(dsn: str, nats: Nats) -> None:
    async with running(dsn, nats.url, orders_per_minute=7) as gateway:
        desks: dict[str, str] = {}
        for account in ("desk", "bot", "free"):
            request = admin_pb2.CreateKeyRequest(account=account, role=admin_pb2.ROLE_OPERATOR)
            caller = gateway.called_with(next(iter(desks.values()), "")) if desks else gateway
            desks[account] = (await caller.admin.CreateKey(request)).secret
        operator = gateway.called_with(desks["desk"])
        await limited(operator, "bot", orders_per_minute=2)
        await limited(operator, "free", orders_per_minute=0)
        results = await asyncio.gather(
            *(
                answers(gateway.called_with(secret), [swap() for _ in range(20)])
                for secret in desks.values()
            )
        )
        assert [len(accepted(result)) for result in results] == [7, 2, 20]


async def test_only_so_many_orders_are_open_at_once(dsn: str, nats: Nats) -> None:
    async with running(dsn, nats.url, max_open_orders=3) as gateway:
        [first, *_] = results = accepted(await answers(gateway, [swap() for _ in range(5)]))
        assert len(results) == 3
        status = await refusal(gateway.client.SubmitOrder(swap()))
        assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        await gateway.client.CancelOrder(pb.CancelOrderRequest(order_id=first.order.order_id))
        assert accepted(await answers(gateway, [swap()]))


async def test_only_so_many_streams_are_open_at_once(dsn: str, nats: Nats) -> None:
    async with running(dsn, nats.url, max_streams=2) as gateway:
        request = pb.WatchOrdersRequest(snapshot=True)
        streams = [gateway.client.WatchOrders(request) for _ in range(2)]
        for stream in streams:
            await anext(aiter(stream))
        one_more = aiter(gateway.client.WatchOrders(request))
        status = await refusal(anext(one_more))
        assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        streams[0].cancel()

        async def has_room() -> bool:
            try:
                await anext(aiter(gateway.client.WatchOrders(request)))
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(has_room)


async def test_previews_have_a_pace_and_are_told_when_there_is_room_again(
    dsn: str, nats: Nats
) -> None:
    preview = pb.PreviewOrderRequest(token_in="SOL", token_out="USDC", amount_in="1.5")
    async with (
        venues(raydium=pays(225_000_000)) as addresses,
        running(dsn, nats.url, venues=addresses, routes_per_second=0.01) as gateway,
    ):
        assert (await gateway.client.PreviewOrder(preview)).route.venue == "raydium"
        told = wait(await refusal(gateway.client.PreviewOrder(preview)))
        one = wait(await refusal(gateway.client.SubmitOrder(swap(validate_only=True))))
        # Ten routes to pay off, a route each hundred seconds.
        assert timedelta(seconds=980) < told <= timedelta(seconds=1000)
        assert one <= told
        assert accepted(await answers(gateway, [swap()])) != []

        key = admin_pb2.CreateKeyRequest(account="other", role=admin_pb2.ROLE_OPERATOR)
        other = gateway.called_with((await gateway.admin.CreateKey(key)).secret)
        assert (await other.client.PreviewOrder(preview)).route.venue == "raydium"


async def test_tokens_and_amounts_beyond_an_accounts_limits_are_refused_by_name(
    gateway: Gateway,
) -> None:
    await limited(
        gateway,
        "default",
        allowed_tokens=["SOL", "USDC"],
        token_limits=[admin_pb2.TokenLimit(token="SOL", max_amount_in="2")],
    )
    assert accepted(await answers(gateway, [swap("kept", amount_in="2")]))
    status = await refusal(gateway.client.SubmitOrder(swap(amount_in="2.1", token_out="BONK")))
    assert (code(status), reason(status)) == ("FAILED_PRECONDITION", "RISK_LIMIT")
    violations = detail(status, error_details_pb2.PreconditionFailure).violations
    assert [violation.subject for violation in violations] == ["token_out", "amount_in"]
    status = await refusal(gateway.client.SubmitOrder(swap(amount_in="3", validate_only=True)))
    assert reason(status) == "RISK_LIMIT"
    preview = pb.PreviewOrderRequest(token_in="SOL", token_out="BONK", amount_in="2.1")
    status = await refusal(gateway.client.PreviewOrder(preview))
    assert (code(status), reason(status)) == ("FAILED_PRECONDITION", "RISK_LIMIT")
    assert detail(status, error_details_pb2.PreconditionFailure).violations == violations
    assert len(await stored(gateway)) == 1
    # What was accepted before stays accepted.
    await limited(
        gateway, "default", token_limits=[admin_pb2.TokenLimit(token="SOL", max_amount_in="1")]
    )
    assert (await gateway.client.SubmitOrder(swap("kept", amount_in="2"))).duplicate


async def test_a_preview_keeps_to_the_largest_price_impact(dsn: str, nats: Nats) -> None:
    async with (
        venues(raydium=pays(225_000_000)) as addresses,
        running(dsn, nats.url, venues=addresses) as gateway,
    ):
        preview = pb.PreviewOrderRequest(token_in="SOL", token_out="USDC", amount_in="1.5")
        assert (await gateway.client.PreviewOrder(preview)).route.venue == "raydium"
        # The venue's impact is 1.2 bps.
        await limited(gateway, "default", max_price_impact_bps=1)
        route = (await gateway.client.PreviewOrder(preview)).route
        assert (route.venue, "limit of 1 bps: raydium 1.20" in route.why) == ("", True)


async def test_limits_set_at_one_gateway_hold_at_the_others(
    two: tuple[Gateway, Gateway],
) -> None:
    await limited(two[0], "default", allowed_tokens=["USDC", "USDT"])

    async def refused() -> bool:
        call = two[1].client.SubmitOrder(swap(validate_only=True))
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return "token_in" in str(error.details())
        return False

    await eventually(refused)
