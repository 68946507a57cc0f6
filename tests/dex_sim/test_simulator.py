"""The whole simulator, over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from dex_sim import chain_service
from dex_sim.chain import clock_at
from dex_sim.market import BONK, RAY, SOL, USDC, USDT, opening_pools
from dex_sim.program import arrays_to_name, parties_of
from engine.amm.kinds import KINDS
from engine.errors import StartupError
from engine.instructions.swap import swap_instruction
from engine.instructions.terms import SwapTerms
from engine.v1 import chain_pb2, sim_pb2, venue_pb2

if TYPE_CHECKING:
    from tests.dex_sim.conftest import Desk, OpenDesk

ONE_SOL = 10**9
FEE_LAMPORTS = 5000 + 100  # a signature; 1_000_000 compute units at 100 micro-lamports each
VENUES = ["raydium", "meteora"]
PATIENCE_SECONDS = 20


def terms_of(address: str, wallet: Pubkey, amount_in: int) -> SwapTerms:
    """A swap of SOL for whatever the pool has beside it, as it opens."""
    pool = next(pool for pool in opening_pools() if pool.address == address)
    arrays = arrays_to_name(pool, SOL.mint, amount_in, 0)
    return SwapTerms(parties_of(pool.facts, wallet, pool.mint_a == SOL.mint, arrays), amount_in, 1)


@pytest.mark.parametrize("venue", VENUES)
async def test_a_swap_yields_exactly_its_quote_where_the_market_stands_still(
    desk: Desk, venue: str
) -> None:
    quote = (await desk.quote(venue, ONE_SOL)).quote
    before = await desk.balances()

    status = await desk.land(await desk.swap(venue, ONE_SOL, quote.amount_out))

    assert not status.HasField("error")
    assert await desk.balances() == {
        "": before[""] - FEE_LAMPORTS,
        SOL.mint: before[SOL.mint] - ONE_SOL,
        USDC.mint: quote.amount_out,
    }


@pytest.mark.parametrize("venue", VENUES)
async def test_a_swap_lands_once_though_it_is_sent_many_times(desk: Desk, venue: str) -> None:
    raw = await desk.swap(venue, ONE_SOL)
    first = await asyncio.gather(*(desk.send(raw) for _ in range(20)))
    await desk.finalized(first[0].signature)

    again = await desk.send(raw)

    assert again.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_ALREADY_PROCESSED
    assert [swap.signature for swap in await desk.swaps()] == [first[0].signature]


async def test_the_ledger_tells_every_swap_with_its_memo(desk: Desk) -> None:
    memos = [f"oee:order-{n}:1:key" for n in range(3)]
    raws = [await desk.swap("raydium", ONE_SOL, 7, memo=memo) for memo in memos]
    for raw in raws:
        await desk.land(raw)

    swaps = await desk.swaps()

    assert [swap.number for swap in swaps] == [1, 2, 3]
    assert [swap.memo for swap in swaps] == memos
    assert {(s.venue, s.wallet, s.mint_in, s.mint_out, s.amount_in) for s in swaps} == {
        ("raydium", desk.wallet, SOL.mint, USDC.mint, ONE_SOL)
    }
    assert {swap.min_amount_out for swap in swaps} == {7}


async def test_an_expired_blockhash_never_lands_and_slots_run_ahead_of_blocks(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk(slot_milliseconds=1, skipped_slot_percent=30)
    signed_with = await desk.blockhash()
    raw = await desk.swap("raydium", ONE_SOL, blockhash=signed_with.blockhash)
    first = await desk.height()
    last = await desk.until(
        desk.height, lambda h: h.block_height > signed_with.last_valid_block_height
    )

    sent = await desk.send(raw)

    assert sent.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND
    assert await desk.swaps() == []
    assert last.context_slot - first.context_slot > last.block_height - first.block_height


@pytest.mark.parametrize("venue", VENUES)
async def test_a_result_below_the_floor_lands_as_an_error_and_moves_nothing_but_the_fee(
    desk: Desk, venue: str
) -> None:
    quote = (await desk.quote(venue, ONE_SOL)).quote
    before, pools = await desk.balances(), await desk.pools(venue)

    status = await desk.land(await desk.swap(venue, ONE_SOL, quote.amount_out + 1))

    assert status.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_SLIPPAGE_EXCEEDED
    assert await desk.balances() == {**before, "": before[""] - FEE_LAMPORTS}
    assert [p.reserve_a for p in await desk.pools(venue)] == [p.reserve_a for p in pools]
    assert await desk.swaps() == []


async def test_a_swap_of_more_than_the_wallet_holds_lands_as_an_error(desk: Desk) -> None:
    status = await desk.land(await desk.swap("raydium", 11 * ONE_SOL))

    assert status.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS
    assert (await desk.balances())[SOL.mint] == 10 * ONE_SOL


async def test_a_wallet_without_lamports_is_turned_away(desk: Desk) -> None:
    desk.key = Keypair()
    desk.wallet = str(desk.key.pubkey())
    await desk.fund(SOL.mint, ONE_SOL)

    sent = await desk.send(await desk.swap("raydium", ONE_SOL))

    assert sent.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS


async def test_a_landing_swap_yields_less_than_its_quote_by_the_slippage_drawn(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk(execution_slippage_bps="50-100")
    quote = (await desk.quote("meteora", ONE_SOL)).quote

    await desk.land(await desk.swap("meteora", ONE_SOL))

    [swap] = await desk.swaps()
    assert quote.amount_out * 9900 // 10_000 <= swap.amount_out <= quote.amount_out * 9950 // 10_000


@pytest.mark.parametrize("venue", VENUES)
async def test_an_amount_of_nineteen_digits_can_be_quoted_built_landed_and_listed(
    desk: Desk, venue: str
) -> None:
    large = 2**63
    await desk.fund(BONK.mint, 10 * large)
    quote = (await desk.quote(venue, large, BONK.mint, USDC.mint)).quote
    raw = await desk.swap(venue, large, quote.amount_out, mint_in=BONK.mint, mint_out=USDC.mint)

    status = await desk.land(raw)

    assert not status.HasField("error")
    [swap] = await desk.swaps()
    assert (swap.amount_in, swap.amount_out) == (large, quote.amount_out)
    assert (await desk.balances())[BONK.mint] == 9 * large


@pytest.mark.parametrize("venue", VENUES)
async def test_an_amount_that_no_pool_can_take_is_refused(desk: Desk, venue: str) -> None:
    result = await desk.quote(venue, 2**64 - 1, BONK.mint, USDC.mint)

    assert result.refusal.reason == venue_pb2.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY


async def test_a_transaction_tells_what_was_really_paid_and_received(desk: Desk) -> None:
    raw = await desk.swap("raydium", ONE_SOL, memo="oee:order:2:key")
    signature = (await desk.send(raw)).signature
    await desk.finalized(signature)

    request = chain_pb2.GetTransactionsRequest(signatures=["unheard of", signature])
    answer = await desk.chain.GetTransactions(request)
    unknown, record = answer.transactions

    [swap] = await desk.swaps()
    assert answer.node in {"node-1", "node-2", "node-3"}
    assert not unknown.found
    assert (record.memo, record.fee_lamports, record.slot) == (
        "oee:order:2:key",
        FEE_LAMPORTS,
        swap.slot,
    )
    assert {(c.owner, c.mint, int(c.after) - int(c.before)) for c in record.changes} == {
        (desk.wallet, SOL.mint, -ONE_SOL),
        (desk.wallet, USDC.mint, swap.amount_out),
    }


async def test_a_wallets_signatures_come_newest_first_in_pages(desk: Desk) -> None:
    raws = [await desk.swap("raydium", ONE_SOL, memo=f"memo {n}") for n in range(5)]
    for raw in raws:
        await desk.land(raw)

    first = await desk.chain.ListSignatures(
        chain_pb2.ListSignaturesRequest(wallet=desk.wallet, limit=3)
    )
    rest = await desk.chain.ListSignatures(
        chain_pb2.ListSignaturesRequest(
            wallet=desk.wallet, limit=3, before=first.signatures[-1].signature
        )
    )

    found = [record.memo for record in (*first.signatures, *rest.signatures)]
    assert found == ["memo 4", "memo 3", "memo 2", "memo 1", "memo 0"]


async def test_simulating_tells_the_outcome_without_effect_and_needs_no_signature(
    desk: Desk,
) -> None:
    before = await desk.balances()
    signed = VersionedTransaction.from_bytes(await desk.swap("raydium", ONE_SOL))
    unsigned = bytes(VersionedTransaction.populate(signed.message, [Signature.default()]))
    too_much = await desk.swap("raydium", 11 * ONE_SOL)

    simulated = await desk.chain.SimulateTransactions(
        chain_pb2.SimulateTransactionsRequest(transactions=[unsigned, too_much])
    )

    fine, short = simulated.results
    assert not fine.HasField("error")
    assert 0 < fine.compute_units < 100_000
    assert short.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS
    assert await desk.balances() == before


async def test_each_transaction_of_a_batch_is_judged_by_itself(desk: Desk) -> None:
    good = await desk.swap("raydium", ONE_SOL)
    message = VersionedTransaction.from_bytes(good).message
    forged = bytes(VersionedTransaction.populate(message, [Signature.default()]))

    response = await desk.chain.SendTransactions(
        chain_pb2.SendTransactionsRequest(transactions=[b"noise", forged, good + b"!", good])
    )

    reasons = [result.error.reason for result in response.results]
    assert reasons == [
        chain_pb2.TRANSACTION_ERROR_REASON_MALFORMED,
        chain_pb2.TRANSACTION_ERROR_REASON_SIGNATURE_INVALID,
        chain_pb2.TRANSACTION_ERROR_REASON_MALFORMED,
        chain_pb2.TRANSACTION_ERROR_REASON_UNSPECIFIED,
    ]
    await desk.finalized(response.results[3].signature)
    assert len(await desk.swaps()) == 1


async def test_a_swap_of_another_wallet_does_not_pass_under_my_signature(desk: Desk) -> None:
    quote = (await desk.quote("raydium", ONE_SOL)).quote
    victim = Keypair().pubkey()
    theirs = swap_instruction(terms_of(quote.pool, victim, ONE_SOL))
    unsigned = [type(a)(a.pubkey, False, a.is_writable) for a in theirs.accounts]
    stolen = type(theirs)(theirs.program_id, theirs.data, unsigned)

    status = await desk.land(desk.sign([stolen], (await desk.blockhash()).blockhash))

    assert status.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_PROGRAM_FAILED


async def test_two_swaps_of_one_transaction_happen_both_or_not_at_all(desk: Desk) -> None:
    quote = (await desk.quote("raydium", ONE_SOL)).quote
    instructions = [
        swap_instruction(terms_of(quote.pool, desk.key.pubkey(), amount))
        for amount in (ONE_SOL, 10 * ONE_SOL)
    ]

    status = await desk.land(desk.sign(instructions, (await desk.blockhash()).blockhash))

    assert status.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS
    assert (await desk.balances())[SOL.mint] == 10 * ONE_SOL
    assert await desk.swaps() == []


async def test_every_answer_derives_only_from_blocks_up_to_its_context_slot(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk(slot_milliseconds=20, node_lag_slots=4, nodes=5)
    raw = await desk.swap("raydium", ONE_SOL)
    signature = (await desk.send(raw)).signature
    answers: list[chain_pb2.GetSignatureStatusesResponse] = []

    async def ask() -> chain_pb2.GetSignatureStatusesResponse:
        answers.append(await desk.status(signature))
        return answers[-1]

    last = await desk.until(
        ask, lambda a: a.statuses[0].commitment == chain_pb2.COMMITMENT_FINALIZED
    )

    landed = last.statuses[0].slot
    assert [a.statuses[0].found for a in answers] == [a.context_slot >= landed for a in answers]
    depths = [(a.statuses[0].commitment, a.context_slot - landed) for a in answers]
    assert all(depth >= 31 for commitment, depth in depths if commitment == 3)
    assert all(2 <= depth < 31 for commitment, depth in depths if commitment == 2)
    assert len({a.node for a in answers}) == 5
    slots = [a.context_slot for a in answers]
    assert slots != sorted(slots), "no node was ever seen to lag"


async def test_a_lagging_node_shows_the_balances_of_its_own_slot(open_desk: OpenDesk) -> None:
    desk = await open_desk(slot_milliseconds=20, node_lag_slots=4)
    answers: list[chain_pb2.GetBalancesResponse] = []

    async def ask() -> chain_pb2.GetBalancesResponse:
        request = chain_pb2.GetBalancesRequest(wallet=desk.wallet)
        answers.append(await desk.chain.GetBalances(request))
        return answers[-1]

    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature
    landed = await desk.until(
        lambda: desk.status(signature), lambda status: status.statuses[0].found
    )
    slot = landed.statuses[0].slot
    await desk.until(ask, lambda a: a.context_slot > slot + 5)

    seen = [(a.context_slot >= slot, a.balances[0].amount, a.lamports) for a in answers]
    assert {fact for fact in seen if fact[0]} == {
        (True, str(9 * ONE_SOL), 10 * ONE_SOL - FEE_LAMPORTS)
    }
    assert {fact for fact in seen if not fact[0]} <= {(False, str(10 * ONE_SOL), 10 * ONE_SOL)}


async def test_old_signatures_are_found_only_in_the_history(open_desk: OpenDesk) -> None:
    desk = await open_desk(slot_milliseconds=1)
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature
    slot = (await desk.finalized(signature)).slot
    await desk.until(desk.height, lambda height: height.context_slot > slot + 1000)

    recent = await desk.status(signature, search_history=False)
    ever = await desk.status(signature, search_history=True)

    assert not recent.statuses[0].found
    assert ever.statuses[0].slot == slot


async def test_a_watcher_of_a_wallet_is_told_its_signatures(desk: Desk) -> None:
    watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
    await watch.initial_metadata()
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature

    told = await anext(aiter(watch))

    assert list(told.signatures) == [signature]
    watch.cancel()


async def test_a_watcher_of_a_wallet_is_told_the_records_as_one_node_has_them(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk(slot_milliseconds=20, nodes=3, node_lag_slots=2)
    watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
    await watch.initial_metadata()
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature

    told: list[chain_pb2.WatchSignaturesResponse] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for changed in watch:
            told.append(changed)
            if changed.transactions[0].commitment == chain_pb2.COMMITMENT_FINALIZED:
                break
    watch.cancel()

    await desk.inject(choose_node=sim_pb2.ChooseNode(node=told[-1].node))
    read = await desk.chain.GetTransactions(
        chain_pb2.GetTransactionsRequest(signatures=[signature])
    )
    assert list(told[-1].signatures) == [signature]
    assert list(told[-1].transactions) == list(read.transactions)
    assert read.transactions[0].changes
    assert read.node == told[-1].node
    assert read.context_slot >= told[-1].context_slot > 0
    commitments = [changed.transactions[0].commitment for changed in told]
    assert commitments == sorted(commitments)


async def test_a_watcher_is_told_no_record_of_what_a_fork_took_back(desk: Desk) -> None:
    watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
    await watch.initial_metadata()
    swap = await desk.swap("raydium", ONE_SOL, memo="oee:dropped:1:key")
    dropped = sim_pb2.SwitchFork(result=sim_pb2.FORK_RESULT_DROPPED)
    await desk.inject(order_id="dropped", fork=dropped)
    signature = (await desk.send(swap)).signature

    async with asyncio.timeout(PATIENCE_SECONDS):
        async for changed in watch:
            if not changed.transactions[0].found:
                break

    assert list(changed.signatures) == [signature]
    assert list(changed.transactions) == [chain_pb2.TransactionRecord()]
    assert changed.node
    watch.cancel()


async def test_a_watcher_is_told_of_many_signatures_in_messages_that_are_never_too_large(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_service, "TOLD_TOGETHER", 2)
    watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
    await watch.initial_metadata()
    swaps = [await desk.swap("raydium", ONE_SOL, memo=f"memo {n}") for n in range(5)]
    request = chain_pb2.SendTransactionsRequest(transactions=swaps)
    sent = {result.signature for result in (await desk.chain.SendTransactions(request)).results}

    told: set[str] = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for changed in watch:
            assert len(changed.signatures) == len(changed.transactions) <= 2
            told.update(changed.signatures)
            if told == sent:
                break
    watch.cancel()


async def test_a_fault_that_waits_for_a_later_reading_keeps_no_records_from_a_watcher(
    desk: Desk,
) -> None:
    watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
    await watch.initial_metadata()
    await desk.inject(call="GetTransactions", nth=2, fail={"code": "UNAVAILABLE"})
    await desk.send(await desk.swap("raydium", ONE_SOL))

    told = await anext(aiter(watch))

    assert len(told.transactions) == len(told.signatures) == 1
    watch.cancel()


@pytest.mark.parametrize("fault", [{"fail": {"code": "UNAVAILABLE"}}, {"miscount": {"by": -1}}])
async def test_a_watcher_is_told_no_records_while_a_fault_stands_before_them(
    desk: Desk, fault: dict[str, Any]
) -> None:
    watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
    await watch.initial_metadata()
    await desk.inject(call="GetTransactions", **fault)
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature

    assert await anext(aiter(watch)) == chain_pb2.WatchSignaturesResponse(signatures=[signature])
    watch.cancel()


@pytest.mark.parametrize("venue", VENUES)
async def test_a_watcher_of_pools_sees_all_of_them_then_those_that_change(
    desk: Desk, venue: str
) -> None:
    watch = aiter(desk.venues[venue].WatchPools(venue_pb2.WatchPoolsRequest()))
    assert list((await anext(watch)).pools) == await desk.pools(venue)

    quote = (await desk.quote(venue, ONE_SOL)).quote
    await desk.land(await desk.swap(venue, ONE_SOL))

    assert quote.pool in {pool.address for pool in (await anext(watch)).pools}


@pytest.mark.parametrize("venue", VENUES)
async def test_what_a_watcher_computes_from_a_pools_state_is_the_venues_quote_to_the_unit(
    open_desk: OpenDesk, venue: str
) -> None:
    desk = await open_desk(slot_milliseconds=50, drift_ppm=300, trades_a_slot=4)
    watch = aiter(desk.venues[venue].WatchPools(venue_pb2.WatchPoolsRequest()))
    states: dict[str, venue_pb2.Pool] = {}
    compared: set[str] = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(compared) < 2:
            told = await anext(watch)
            states |= {pool.address: pool for pool in told.pools}
            for amount_in in (ONE_SOL, 20_000 * ONE_SOL):
                quote = (await desk.quote(venue, amount_in)).quote
                pool = states[quote.pool]
                if quote.slot != told.slot:
                    continue  # a block came in between
                kind = KINDS[quote.kind]
                state = kind.load(json.loads(pool.state))
                swap = kind.quote_exact_in(state, amount_in, pool.mint_a == SOL.mint, told.time)
                assert (pool.kind, swap.amount_out) == (quote.kind, quote.amount_out)
                compared.add(quote.pool)


async def test_a_watcher_is_told_the_market_or_the_config_of_the_pools_that_have_one(
    desk: Desk,
) -> None:
    facts = {pool.address: pool.facts for pool in opening_pools()}
    by_config = ("raydium_cpmm", "raydium_clmm")
    told = [pool for venue in VENUES for pool in await desk.pools(venue)]

    assert {pool.address for pool in told} == facts.keys()
    for pool in told:
        assert pool.market == facts[pool.address].market
        assert bool(pool.market) == (pool.kind == "raydium_amm_v4")
        assert pool.HasField("config") == (pool.kind in by_config)
        assert pool.config == facts[pool.address].config
    # A config of 0 is told as well.
    assert {pool.config for pool in told if pool.HasField("config")} > {0}


async def test_a_watcher_is_told_the_time_though_nothing_changes(desk: Desk) -> None:
    watch = aiter(desk.venues["raydium"].WatchPools(venue_pb2.WatchPoolsRequest()))
    first = await anext(watch)

    later = [await anext(watch) for _ in range(3)]

    assert [list(told.pools) for told in later] == [[], [], []]
    assert later[-1].slot > first.slot
    assert [told.time for told in later] == [clock_at(told.slot) for told in later]


@pytest.mark.parametrize("venue", VENUES)
async def test_a_venue_quotes_the_best_of_its_pools_for_the_amount(desk: Desk, venue: str) -> None:
    pools = [pool for pool in opening_pools() if pool.venue == venue]
    for amount_in in (ONE_SOL, 10**5 * ONE_SOL):
        quote = (await desk.quote(venue, amount_in)).quote
        offers = {
            pool.address: pool.curve(SOL.mint, quote.slot)(amount_in)
            for pool in pools
            if pool.trades(SOL.mint, USDC.mint)
        }
        assert quote.amount_out == max(offers.values()) == offers[quote.pool]
        assert len(offers) > 2


async def test_prices_move_while_nobody_trades(open_desk: OpenDesk) -> None:
    desk = await open_desk(slot_milliseconds=1, drift_ppm=300)
    opening = [pool for pool in await desk.pools("raydium") if pool.mint_a == SOL.mint]

    async def pools() -> list[venue_pb2.Pool]:
        return [pool for pool in await desk.pools("raydium") if pool.mint_a == SOL.mint]

    await desk.until(
        pools,
        lambda now: all(a.state != b.state for a, b in zip(opening, now, strict=True)),
    )


async def test_a_venue_refuses_by_item_what_it_cannot_quote(desk: Desk) -> None:
    queries = [
        venue_pb2.QuoteQuery(mint_in=RAY.mint, mint_out=BONK.mint, amount_in=5),
        venue_pb2.QuoteQuery(mint_in=SOL.mint, mint_out=USDC.mint, amount_in=0),
        venue_pb2.QuoteQuery(mint_in=SOL.mint, mint_out=USDC.mint, amount_in=1),
        venue_pb2.QuoteQuery(mint_in=SOL.mint, mint_out=USDT.mint, amount_in=ONE_SOL),
    ]

    results = (await desk.venues["raydium"].Quote(venue_pb2.QuoteRequest(queries=queries))).results

    assert [result.refusal.reason for result in results] == [
        venue_pb2.REFUSAL_REASON_NO_POOL,
        venue_pb2.REFUSAL_REASON_INVALID,
        venue_pb2.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY,
        venue_pb2.REFUSAL_REASON_UNSPECIFIED,
    ]
    assert results[3].quote.amount_out > 140 * 10**6


async def test_a_venue_builds_nothing_for_another_venues_pool_or_a_bad_wallet(desk: Desk) -> None:
    [ours, theirs] = [(await desk.quote(venue, ONE_SOL)).quote.pool for venue in VENUES]
    swaps = [
        venue_pb2.SwapOrder(
            pool=pool, mint_in=SOL.mint, mint_out=USDC.mint, amount_in=1, wallet=wallet
        )
        for pool, wallet in [(theirs, desk.wallet), (ours, "nobody")]
    ]

    results = (
        await desk.venues["raydium"].BuildSwap(venue_pb2.BuildSwapRequest(swaps=swaps))
    ).results

    assert [result.refusal.reason for result in results] == [
        venue_pb2.REFUSAL_REASON_NO_POOL,
        venue_pb2.REFUSAL_REASON_INVALID,
    ]


async def test_too_many_items_in_one_call_are_refused(desk: Desk) -> None:
    request = venue_pb2.QuoteRequest(queries=[venue_pb2.QuoteQuery()] * 501)

    with pytest.raises(grpc.aio.AioRpcError, match="at most 500") as refused:
        await desk.venues["raydium"].Quote(request)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("mint", "amount"), [("", "0"), ("", "-1"), ("", "1.5"), ("", str(2**64)), ("nothing", "1")]
)
async def test_a_gift_that_makes_no_sense_is_refused(desk: Desk, mint: str, amount: str) -> None:
    request = desk.gift(mint, amount)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.control.FundWallet(request)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_control_door_is_shut_unless_enabled(open_desk: OpenDesk) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await open_desk(control_enabled=False)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stopping_ends_open_watches_at_once(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    watch = aiter(desk.venues["raydium"].WatchPools(venue_pb2.WatchPoolsRequest()))
    await anext(watch)

    async with asyncio.timeout(2):
        await open_desk.stop_simulators()

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await anext(watch)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_two_simulators_never_share_a_directory(open_desk: OpenDesk) -> None:
    await open_desk()

    with pytest.raises(StartupError, match="DATA_DIRECTORY"):
        await open_desk()
