"""Answers that must not be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from dex_sim.market import SOL, USDC
from engine import programs
from engine.v1 import chain_pb2, venue_pb2
from engine.v1 import sim_pb2 as pb

if TYPE_CHECKING:
    from tests.dex_sim.conftest import Desk

ONE_SOL = 10**9
FLOOR = 1000
VENUES = ["raydium", "meteora"]


async def build(desk: Desk, venue: str) -> list[Instruction]:
    """What the venue builds for one SOL."""
    swap = venue_pb2.SwapOrder(
        order_id="order",
        pool=(await desk.quote(venue, ONE_SOL)).quote.pool,
        mint_in=SOL.mint,
        mint_out=USDC.mint,
        amount_in=ONE_SOL,
        min_amount_out=FLOOR,
        wallet=desk.wallet,
    )
    answer = await desk.venues[venue].BuildSwap(venue_pb2.BuildSwapRequest(swaps=[swap]))
    return [
        Instruction(
            Pubkey.from_string(each.program),
            each.data,
            [
                AccountMeta(Pubkey.from_string(a.address), a.signer, a.writable)
                for a in each.accounts
            ],
        )
        for each in answer.results[0].swap.instructions
    ]


def read_swap(instruction: Instruction) -> programs.SwapTerms | None:
    call = programs.Call(instruction.program_id, instruction.accounts)
    return programs.read_swap(call, instruction.data)


@pytest.mark.parametrize(
    ("kind", "is_wrong"),
    [
        (pb.MISQUOTE_KIND_WRONG_TOKEN, lambda q, right: q.mint_out != right.mint_out),
        (pb.MISQUOTE_KIND_ABSURD_AMOUNT, lambda q, right: q.amount_out == 1000 * right.amount_out),
        (pb.MISQUOTE_KIND_WRONG_AMOUNT_IN, lambda q, right: q.amount_in != right.amount_in),
        (pb.MISQUOTE_KIND_EXPIRED, lambda q, right: q.expire_time.seconds == 0),
    ],
)
async def test_a_venue_quotes_wrongly_once_and_is_honest_again(
    desk: Desk,
    kind: pb.MisquoteKind.ValueType,
    is_wrong: Callable[[venue_pb2.Quote, venue_pb2.Quote], bool],
) -> None:
    await desk.inject(venue="raydium", times=1, misquote=pb.Misquote(kind=kind))

    wrong = (await desk.quote("raydium", ONE_SOL)).quote
    right = (await desk.quote("raydium", ONE_SOL)).quote

    assert is_wrong(wrong, right)
    assert not is_wrong(right, right)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (pb.MISBUILD_KIND_LOWER_FLOOR, {"min_amount_out": FLOOR // 2}),
        (pb.MISBUILD_KIND_MORE_IN, {"amount_in": 2 * ONE_SOL}),
    ],
)
async def test_a_venue_builds_a_swap_on_other_terms(
    desk: Desk, venue: str, kind: pb.MisbuildKind.ValueType, changed: dict[str, int]
) -> None:
    [honest] = [read_swap(each) for each in await build(desk, venue)]
    await desk.inject(order_id="order", misbuild=pb.Misbuild(kind=kind))

    [terms] = [read_swap(each) for each in await build(desk, venue)]

    assert honest is not None
    assert terms is not None
    assert (terms.amount_in, terms.min_amount_out) == (
        changed.get("amount_in", ONE_SOL),
        changed.get("min_amount_out", FLOOR),
    )
    assert terms.pool == honest.pool


@pytest.mark.parametrize("venue", VENUES)
async def test_a_venue_builds_a_swap_through_another_pool(desk: Desk, venue: str) -> None:
    [honest] = [read_swap(each) for each in await build(desk, venue)]
    await desk.inject(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_OTHER_POOL))

    [terms] = [read_swap(each) for each in await build(desk, venue)]

    assert honest is not None
    assert terms is not None
    assert terms.pool != honest.pool
    assert str(terms.pool) in {pool.address for pool in await desk.pools(venue)}


@pytest.mark.parametrize("venue", VENUES)
async def test_a_venue_lets_a_stranger_receive(desk: Desk, venue: str) -> None:
    await desk.inject(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_OTHER_RECIPIENT))

    [built] = await build(desk, venue)

    mine = programs.token_account(desk.key.pubkey(), Pubkey.from_string(USDC.mint))
    assert mine not in {account.pubkey for account in built.accounts}
    with pytest.raises(ValueError, match="not the one the swap's terms lead to"):
        read_swap(built)


@pytest.mark.parametrize("venue", VENUES)
async def test_a_venue_slips_in_a_transfer_out_of_the_wallet(desk: Desk, venue: str) -> None:
    honest = await build(desk, venue)
    await desk.inject(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_DRAIN))

    *swap, transfer = await build(desk, venue)

    pays = programs.token_account(desk.key.pubkey(), Pubkey.from_string(SOL.mint))
    assert swap == honest
    assert transfer.program_id == programs.TOKEN_PROGRAM
    assert transfer.accounts[0] == AccountMeta(pays, is_signer=False, is_writable=True)
    assert transfer.accounts[2].pubkey == desk.key.pubkey()


@pytest.mark.parametrize(("by", "answered"), [(-1, 1), (1, 3), (-5, 0)])
async def test_an_answer_has_too_few_or_too_many_items(desk: Desk, by: int, answered: int) -> None:
    query = venue_pb2.QuoteQuery(mint_in=SOL.mint, mint_out=USDC.mint, amount_in=ONE_SOL)
    await desk.inject(miscount=pb.MiscountItems(by=by))

    quotes = await desk.venues["raydium"].Quote(venue_pb2.QuoteRequest(queries=[query, query]))
    statuses = await desk.chain.GetSignatureStatuses(
        chain_pb2.GetSignatureStatusesRequest(signatures=["one", "two"])
    )

    assert len(quotes.results) == len(statuses.statuses) == answered


@pytest.mark.parametrize("call", ["SendTransactions", "SimulateTransactions"])
async def test_a_node_does_not_know_the_blockhash_of_one_order(desk: Desk, call: str) -> None:
    await desk.inject(
        call=call, order_id="unlucky", refuse=pb.RefuseItem(reason="BLOCKHASH_NOT_FOUND")
    )
    raws = [
        await desk.swap("raydium", ONE_SOL, memo=f"oee:{order}:1:key")
        for order in ("lucky", "unlucky")
    ]

    sent = await desk.chain.SendTransactions(
        chain_pb2.SendTransactionsRequest(transactions=raws * (call == "SendTransactions"))
    )
    simulated = await desk.chain.SimulateTransactions(
        chain_pb2.SimulateTransactionsRequest(transactions=raws * (call == "SimulateTransactions"))
    )

    reasons = [
        *(result.error.reason for result in sent.results),
        *(result.error.reason for result in simulated.results),
    ]
    assert reasons == [
        chain_pb2.TRANSACTION_ERROR_REASON_UNSPECIFIED,
        chain_pb2.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND,
    ]
