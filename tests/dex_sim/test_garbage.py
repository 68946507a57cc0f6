"""Answers that must not be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from dex_sim.market import SOL, USDC, opening_pools
from engine import programs
from engine.instructions.swap import KIND_OF_PROGRAM, LAYOUTS, VENUE_OF_KIND, read_amounts
from engine.v1 import chain_pb2, venue_pb2
from engine.v1 import sim_pb2 as pb

if TYPE_CHECKING:
    from tests.dex_sim.conftest import Desk

ONE_SOL = 10**9
FLOOR = 1000


async def build(desk: Desk, kind: str) -> list[Instruction]:
    """What the venue builds for one SOL in its pool of this kind."""
    swap = venue_pb2.SwapOrder(
        order_id="order",
        pool=pool_of(kind),
        mint_in=SOL.mint,
        mint_out=USDC.mint,
        amount_in=ONE_SOL,
        min_amount_out=FLOOR,
        wallet=desk.wallet,
    )
    venue = desk.venues[VENUE_OF_KIND[kind]]
    answer = await venue.BuildSwap(venue_pb2.BuildSwapRequest(swaps=[swap]))
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


def pool_of(kind: str) -> str:
    return next(
        p.address for p in opening_pools() if p.kind == kind and p.trades(SOL.mint, USDC.mint)
    )


def pool_in(instruction: Instruction) -> str:
    layout = LAYOUTS[KIND_OF_PROGRAM[instruction.program_id]]
    return str(instruction.accounts[layout.pool].pubkey)


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


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize(
    ("how", "amounts"),
    [
        (pb.MISBUILD_KIND_LOWER_FLOOR, (ONE_SOL, FLOOR // 2)),
        (pb.MISBUILD_KIND_MORE_IN, (2 * ONE_SOL, FLOOR)),
    ],
)
async def test_a_venue_builds_a_swap_on_other_terms(
    desk: Desk, kind: str, how: pb.MisbuildKind.ValueType, amounts: tuple[int, int]
) -> None:
    [honest] = await build(desk, kind)
    await desk.inject(order_id="order", misbuild=pb.Misbuild(kind=how))

    [built] = await build(desk, kind)

    assert read_amounts(kind, honest.data) == (ONE_SOL, FLOOR)
    assert read_amounts(kind, built.data) == amounts
    assert built.accounts == honest.accounts


@pytest.mark.parametrize("kind", LAYOUTS)
async def test_a_venue_builds_a_swap_through_another_pool(desk: Desk, kind: str) -> None:
    await desk.inject(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_OTHER_POOL))

    [built] = await build(desk, kind)

    assert pool_in(built) != pool_of(kind)
    assert pool_in(built) in {pool.address for pool in await desk.pools(VENUE_OF_KIND[kind])}


@pytest.mark.parametrize("kind", LAYOUTS)
async def test_a_venue_lets_a_stranger_receive(desk: Desk, kind: str) -> None:
    [honest] = await build(desk, kind)
    await desk.inject(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_OTHER_RECIPIENT))

    [built] = await build(desk, kind)

    mine = programs.token_account(desk.key.pubkey(), Pubkey.from_string(USDC.mint))
    assert mine in {account.pubkey for account in honest.accounts}
    assert mine not in {account.pubkey for account in built.accounts}
    assert built.data == honest.data


@pytest.mark.parametrize("kind", LAYOUTS)
async def test_a_venue_slips_in_a_transfer_out_of_the_wallet(desk: Desk, kind: str) -> None:
    honest = await build(desk, kind)
    await desk.inject(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_DRAIN))

    *swap, transfer = await build(desk, kind)

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
