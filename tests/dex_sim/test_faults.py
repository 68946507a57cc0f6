"""Faults: what they are aimed at, how often they hit, and calls that suffer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dex_sim.market import SOL, USDC
from engine.errors import StartupError
from engine.v1 import chain_pb2, venue_pb2
from engine.v1 import sim_pb2 as pb

if TYPE_CHECKING:
    from tests.dex_sim.conftest import Desk, OpenDesk

ONE_SOL = 10**9
HALF_A_SECOND = Duration(nanos=500_000_000)
AWAY = pb.FailCall(code="UNAVAILABLE")


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    """How a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def pattern(desk: Desk, calls: int) -> list[grpc.StatusCode]:
    return [await code_of(desk.quote("raydium", ONE_SOL)) for _ in range(calls)]


def venue_calls(desk: Desk, venue: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    stub = desk.venues[venue]
    return {
        "ListPools": lambda: stub.ListPools(venue_pb2.ListPoolsRequest()),
        "Quote": lambda: stub.Quote(venue_pb2.QuoteRequest()),
        "BuildSwap": lambda: stub.BuildSwap(venue_pb2.BuildSwapRequest()),
        "WatchPools": lambda: anext(aiter(stub.WatchPools(venue_pb2.WatchPoolsRequest()))),
    }


async def test_a_paused_venue_answers_nothing_until_it_is_cleared_and_the_other_goes_on(
    desk: Desk,
) -> None:
    pause = await desk.inject(venue="raydium", fail=AWAY)

    paused = {await code_of(call()) for call in venue_calls(desk, "raydium").values()}
    other = {await code_of(call()) for call in venue_calls(desk, "meteora").values()}
    chain = await code_of(desk.height())
    await desk.clear(pause)
    back = {await code_of(call()) for call in venue_calls(desk, "raydium").values()}

    assert paused == {grpc.StatusCode.UNAVAILABLE}
    assert other == back == {grpc.StatusCode.OK}
    assert chain is grpc.StatusCode.OK


async def test_a_pause_ends_open_watches_too(open_desk: OpenDesk) -> None:
    desk = await open_desk(drift_ppm=300, slot_milliseconds=1)
    watch = aiter(desk.venues["raydium"].WatchPools(venue_pb2.WatchPoolsRequest()))
    await anext(watch)
    await desk.inject(venue="raydium", fail=AWAY)

    async def to_its_end() -> None:
        async for _ in watch:
            pass

    assert await code_of(to_its_end()) is grpc.StatusCode.UNAVAILABLE


async def test_a_rate_limit_says_when_to_come_back(desk: Desk) -> None:
    limit = pb.FailCall(code="RESOURCE_EXHAUSTED", retry_delay=HALF_A_SECOND)
    await desk.inject(call="Quote", fail=limit)

    with pytest.raises(grpc.aio.AioRpcError) as limited:
        await desk.quote("raydium", ONE_SOL)

    status = rpc_status.from_call(limited.value)
    told = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(told)
    assert limited.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told.retry_delay == HALF_A_SECOND


async def test_only_the_nth_call_fails(desk: Desk) -> None:
    await desk.inject(call="Quote", venue="raydium", nth=3, times=1, fail=AWAY)

    codes = await pattern(desk, 5)

    assert [code.name for code in codes] == ["OK", "OK", "UNAVAILABLE", "OK", "OK"]


async def test_a_seed_repeats_which_calls_fail(open_desk: OpenDesk, tmp_path: Path) -> None:
    patterns = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        desk = await open_desk(seed=seed, data_directory=tmp_path / name)
        await desk.inject(call="Quote", percent=50, fail=AWAY)
        patterns.append(await pattern(desk, 40))

    one, two, three = patterns
    assert one == two
    assert one != three
    assert 10 < one.count(grpc.StatusCode.OK) < 30


async def test_a_fault_of_one_order_leaves_every_other_alone(desk: Desk) -> None:
    await desk.inject(order_id="unlucky", call="Quote", fail=AWAY)

    lucky = await code_of(desk.quote("raydium", ONE_SOL, order_id="lucky"))
    unlucky = await code_of(desk.quote("raydium", ONE_SOL, order_id="unlucky"))

    assert (lucky.name, unlucky.name) == ("OK", "UNAVAILABLE")


async def test_a_refusal_of_one_order_hits_its_item_and_not_the_others_of_the_call(
    desk: Desk,
) -> None:
    refuse = pb.RefuseItem(reason="RATE_LIMITED", retry_delay=HALF_A_SECOND)
    await desk.inject(order_id="unlucky", refuse=refuse)
    queries = [
        venue_pb2.QuoteQuery(
            order_id=order_id, mint_in=SOL.mint, mint_out=USDC.mint, amount_in=ONE_SOL
        )
        for order_id in ("lucky", "unlucky")
    ]

    answer = await desk.venues["raydium"].Quote(venue_pb2.QuoteRequest(queries=queries))

    lucky, unlucky = answer.results
    assert lucky.quote.amount_out
    assert unlucky.refusal.reason == venue_pb2.REFUSAL_REASON_RATE_LIMITED
    assert unlucky.refusal.retry_delay == HALF_A_SECOND


async def test_a_slow_venue_is_late_and_holds_up_nobody_else(desk: Desk) -> None:
    await desk.inject(venue="raydium", slow=pb.SlowCall(delay=Duration(seconds=30)))
    request = venue_pb2.QuoteRequest()

    slow = desk.venues["raydium"].Quote(request, timeout=0.2)
    quick = desk.venues["meteora"].Quote(request, timeout=5)

    assert await code_of(quick) is grpc.StatusCode.OK
    assert await code_of(slow) is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "late",
    [
        {"fail": pb.FailCall(code="DEADLINE_EXCEEDED", after_acting=True)},
        {"slow": pb.SlowCall(delay=Duration(seconds=30), after_acting=True)},
    ],
    ids=["fails", "is slow"],
)
async def test_a_transaction_lands_although_the_answer_to_it_is_lost(
    desk: Desk, late: dict[str, Any]
) -> None:
    raw = await desk.swap("raydium", ONE_SOL)
    await desk.inject(call="SendTransactions", order_id="order", times=1, **late)
    request = chain_pb2.SendTransactionsRequest(transactions=[raw])

    lost = await code_of(desk.chain.SendTransactions(request, timeout=1))
    swaps = await desk.until(desk.swaps, bool)

    assert lost is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [swap.memo for swap in swaps] == ["oee:order:1:key"]


async def test_a_call_that_fails_before_it_acts_sends_nothing(desk: Desk) -> None:
    raw = await desk.swap("raydium", ONE_SOL)
    await desk.inject(call="SendTransactions", times=1, fail=AWAY)

    failed = await code_of(desk.send(raw))
    other = await desk.land(await desk.swap("meteora", ONE_SOL, memo="oee:other:1:key"))

    assert failed is grpc.StatusCode.UNAVAILABLE
    assert not other.HasField("error")
    assert [swap.memo for swap in await desk.swaps()] == ["oee:other:1:key"]


async def test_a_broken_node_fails_the_calls_that_it_answers_and_no_other(desk: Desk) -> None:
    await desk.inject(node="node-2", fail=pb.FailCall(code="INTERNAL"))

    answers = [await code_of(desk.height()) for _ in range(40)]
    chosen = await desk.inject(call="GetBlockHeight", choose_node=pb.ChooseNode(node="node-1"))
    healthy = {await code_of(desk.height()) for _ in range(10)}
    await desk.clear(chosen)
    await desk.inject(choose_node=pb.ChooseNode(node="node-2"))
    broken = {await code_of(desk.height()) for _ in range(10)}

    assert set(answers) == {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL}
    assert healthy == {grpc.StatusCode.OK}
    assert broken == {grpc.StatusCode.INTERNAL}


async def test_height_and_status_come_from_different_nodes_of_which_one_stands_still(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk(slot_milliseconds=5)
    before = (await desk.height(chain_pb2.COMMITMENT_PROCESSED)).context_slot
    frozen = await desk.inject(node="node-1", lag=pb.LagNode(frozen=True))
    await desk.inject(call="GetBlockHeight", choose_node=pb.ChooseNode(node="node-2"))
    await desk.inject(call="GetSignatureStatuses", choose_node=pb.ChooseNode(node="node-1"))
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature
    swaps = await desk.until(desk.swaps, bool)
    height = await desk.until(desk.height, lambda h: h.context_slot > swaps[0].slot + 40)

    unseen = await desk.status(signature)
    await desk.clear(frozen)
    status = await desk.finalized(signature)

    assert (height.node, unseen.node) == ("node-2", "node-1")
    assert not unseen.statuses[0].found
    assert before <= unseen.context_slot < swaps[0].slot
    assert status.slot == swaps[0].slot


async def test_every_node_but_one_stays_so_many_slots_behind(open_desk: OpenDesk) -> None:
    desk = await open_desk(slot_milliseconds=5)
    start = (await desk.height(chain_pb2.COMMITMENT_PROCESSED)).context_slot
    await desk.inject(except_node="node-3", lag=pb.LagNode(slots=40))
    behind = []
    for node in ("node-1", "node-2", "node-3"):
        await desk.inject(choose_node=pb.ChooseNode(node=node))
        behind.append(
            await desk.until(
                lambda: desk.height(chain_pb2.COMMITMENT_PROCESSED),
                lambda height: height.context_slot > start + 5,
            )
        )

    one, two, three = [height.context_slot for height in behind]
    assert [height.node for height in behind] == ["node-1", "node-2", "node-3"]
    assert three - one >= 40
    assert three - two >= 40


@pytest.mark.parametrize("by", ["slot", "time"])
async def test_a_fault_ends_after_its_slot_or_its_time(open_desk: OpenDesk, by: str) -> None:
    desk = await open_desk(slot_milliseconds=5)
    slot = (await desk.height(chain_pb2.COMMITMENT_PROCESSED)).context_slot
    ends: dict[str, dict[str, Any]] = {
        "slot": {"until_slot": slot + 100},
        "time": {"lasts": Duration(nanos=500_000_000)},
    }
    await desk.inject(call="Quote", fail=AWAY, **ends[by])
    first = await code_of(desk.quote("raydium", ONE_SOL))

    await desk.until(
        lambda: code_of(desk.quote("raydium", ONE_SOL)), lambda code: code is grpc.StatusCode.OK
    )

    [report] = await desk.faults()
    assert first is grpc.StatusCode.UNAVAILABLE
    assert report.over


async def test_faults_tell_what_they_did_until_they_are_cleared(desk: Desk) -> None:
    some = await desk.inject(call="Quote", nth=2, times=3, fail=AWAY)
    rest = await desk.inject(call="ListPools", fail=AWAY)
    await pattern(desk, 3)

    listed = await desk.faults()
    await pattern(desk, 2)
    [spent] = await desk.clear(some, some, 4711)
    [other] = await desk.clear()

    assert [(r.fault_id, r.seen, r.hits, r.over) for r in listed] == [
        (some, 3, 2, False),
        (rest, 0, 0, False),
    ]
    assert listed[0].remaining == 1
    assert not listed[1].HasField("remaining")
    assert (spent.hits, spent.remaining, spent.over) == (3, 0, True)
    assert other.fault_id == rest
    assert await desk.faults() == []
    assert await desk.clear() == []


async def test_a_fault_that_could_never_strike_is_refused_with_all_that_is_wrong(
    desk: Desk,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.inject(call="Qoute", venue="orca", node="node-4", fail=pb.FailCall())

    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(refused.value).details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == [
        "call",
        "venue",
        "node",
        "fail.code",
    ]
    assert await desk.faults() == []


async def test_a_run_may_begin_with_a_plan_of_faults(open_desk: OpenDesk, tmp_path: Path) -> None:
    plan = tmp_path / "faults.json"
    plan.write_text(
        json.dumps({"faults": [{"call": "Quote", "times": 2, "fail": {"code": "ABORTED"}}]})
    )

    desk = await open_desk(faults_file=plan)

    assert [code.name for code in await pattern(desk, 3)] == ["ABORTED", "ABORTED", "OK"]


@pytest.mark.parametrize(
    "content", ["", "{}{", "[1]", '{"faults": [{"drop": {}, "node": "node-1"}]}']
)
async def test_a_plan_that_makes_no_sense_stops_the_start(
    open_desk: OpenDesk, tmp_path: Path, content: str
) -> None:
    plan = tmp_path / "faults.json"
    plan.write_text(content)

    with pytest.raises(StartupError, match="FAULTS_FILE"):
        await open_desk(faults_file=plan)
