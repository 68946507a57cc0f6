"""VenueService of one venue: quotes from the pools as they stand, instructions to match."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Final

from google.protobuf import timestamp_pb2
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from dex_sim.calls import Context, Response, suffer
from dex_sim.chain import Chain
from dex_sim.chance import Chance, Range
from dex_sim.effects import REFUSALS, Site
from dex_sim.faults import Occasion, Subject
from dex_sim.garbage import misbuilt, misquoted
from dex_sim.pool import Pool, Unfillable
from engine.errors import InvalidRequest, Violation
from engine.programs import Parties, SwapTerms, parties_of, swap_instructions
from engine.v1 import sim_pb2, venue_pb2_grpc
from engine.v1 import venue_pb2 as pb

MAX_ITEMS: Final = 500
QUOTE_LIFE_SECONDS: Final = 30


class VenueService(venue_pb2_grpc.VenueServiceServicer):
    """One venue's public door."""

    def __init__(
        self,
        venue: str,
        chain: Chain,
        chance: Chance,
        quote_delay_milliseconds: Range,
        build_delay_milliseconds: Range,
    ) -> None:
        self._venue = venue
        self._chain = chain
        self._faults = chain.faults
        self._chance = chance
        self._quote_delay_milliseconds = quote_delay_milliseconds
        self._build_delay_milliseconds = build_delay_milliseconds
        pools = [p for p in chain.accounts.pools.values() if p.venue == venue]
        self._addresses = sorted(pool.address for pool in pools)
        self._address_of_pair = {
            pair: pool.address
            for pool in pools
            for pair in ((pool.mint_a, pool.mint_b), (pool.mint_b, pool.mint_a))
        }

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        return await self._answer(
            "ListPools",
            (),
            context,
            lambda: pb.ListPoolsResponse(pools=self._pools(self._addresses)),
        )

    async def Quote(self, request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        _bounded("queries", request.queries)
        await self._pause("Quote", self._quote_delay_milliseconds)
        expire_time = timestamp_pb2.Timestamp(seconds=int(time.time()) + QUOTE_LIFE_SECONDS)
        return await self._answer(
            "Quote",
            request.queries,
            context,
            lambda: pb.QuoteResponse(
                results=[self._quote(q, expire_time) for q in request.queries]
            ),
        )

    async def BuildSwap(
        self, request: pb.BuildSwapRequest, context: Context
    ) -> pb.BuildSwapResponse:
        _bounded("swaps", request.swaps)
        await self._pause("BuildSwap", self._build_delay_milliseconds)
        return await self._answer(
            "BuildSwap",
            request.swaps,
            context,
            lambda: pb.BuildSwapResponse(results=[self._build(swap) for swap in request.swaps]),
        )

    async def WatchPools(
        self, request: pb.WatchPoolsRequest, context: Context
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        # Listen before reading, so that no change falls between the two.
        with self._chain.pool_feeds.open(self._venue) as feed:
            addresses: Sequence[str] = self._addresses
            while True:
                changed = partial(pb.WatchPoolsResponse, pools=self._pools(addresses))
                yield await self._answer("WatchPools", (), context, changed)
                addresses = await feed.take()

    async def _answer(
        self,
        call: str,
        items: Iterable[pb.QuoteQuery | pb.SwapOrder],
        context: Context,
        act: Callable[[], Response],
    ) -> Response:
        if not self._faults:
            return act()
        return await suffer(self._faults, self._occasion(call, items), context, act)

    def _occasion(self, call: str, items: Iterable[pb.QuoteQuery | pb.SwapOrder]) -> Occasion:
        return Occasion(
            call, (self._venue,), subjects=lambda: [Subject(item.order_id, 0) for item in items]
        )

    async def _pause(self, call: str, milliseconds: Range) -> None:
        if milliseconds.high:
            drawn = self._chance.next(self._venue, f"delay/{call}", milliseconds)
            await asyncio.sleep(drawn / 1000)

    def _pools(self, addresses: Sequence[str]) -> list[pb.Pool]:
        slot = self._chain.head.slot
        return [_pool(self._chain.accounts.pools[address], slot) for address in addresses]

    def _quote(self, query: pb.QuoteQuery, expire_time: timestamp_pb2.Timestamp) -> pb.QuoteResult:
        address = self._address_of_pair.get((query.mint_in, query.mint_out))
        if address is None:
            return pb.QuoteResult(
                refusal=_refusal(pb.REFUSAL_REASON_NO_POOL, f"{self._venue} has no such pool")
            )
        if query.amount_in == 0:
            return pb.QuoteResult(
                refusal=_refusal(pb.REFUSAL_REASON_INVALID, "amount_in must be positive")
            )
        try:
            offer = self._chain.accounts.pools[address].offer(query.mint_in, query.amount_in)
        except Unfillable as unfillable:
            return pb.QuoteResult(
                refusal=_refusal(pb.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY, str(unfillable))
            )
        quote = pb.Quote(
            pool=address,
            mint_in=query.mint_in,
            mint_out=query.mint_out,
            amount_in=query.amount_in,
            amount_out=offer.amount_out,
            fee=offer.fee,
            price_impact_ppm=offer.price_impact_ppm,
            slot=self._chain.head.slot,
            expire_time=expire_time,
        )
        if self._faults:
            return self._spoilt_quote(query, quote)
        return pb.QuoteResult(quote=quote)

    def _spoilt_quote(self, query: pb.QuoteQuery, quote: pb.Quote) -> pb.QuoteResult:
        for fault in self._faults.hitting(Site.ITEM, self._occasion("Quote", [query])):
            if fault.HasField("refuse"):
                return pb.QuoteResult(refusal=_injected(fault.refuse))
            misquoted(quote, fault.misquote)
        return pb.QuoteResult(quote=quote)

    def _build(self, swap: pb.SwapOrder) -> pb.BuildSwapResult:
        if self._address_of_pair.get((swap.mint_in, swap.mint_out)) != swap.pool:
            return pb.BuildSwapResult(
                refusal=_refusal(pb.REFUSAL_REASON_NO_POOL, f"{self._venue} has no such pool")
            )
        try:
            terms = SwapTerms(
                venue=self._venue,
                pool=Pubkey.from_string(swap.pool),
                mint_in=Pubkey.from_string(swap.mint_in),
                mint_out=Pubkey.from_string(swap.mint_out),
                wallet=Pubkey.from_string(swap.wallet),
                amount_in=swap.amount_in,
                min_amount_out=swap.min_amount_out,
            )
        except ValueError as error:
            return pb.BuildSwapResult(refusal=_refusal(pb.REFUSAL_REASON_INVALID, str(error)))
        if self._faults:
            return self._spoilt_swap(swap, terms)
        result = pb.BuildSwapResult()
        result.CopyFrom(_built_between(parties_of(terms)))
        built = result.swap.instructions
        for each, instruction in zip(built, swap_instructions(terms), strict=True):
            each.data = instruction.data
        return result

    def _spoilt_swap(self, swap: pb.SwapOrder, terms: SwapTerms) -> pb.BuildSwapResult:
        instructions = swap_instructions(terms)
        for fault in self._faults.hitting(Site.ITEM, self._occasion("BuildSwap", [swap])):
            if fault.HasField("refuse"):
                return pb.BuildSwapResult(refusal=_injected(fault.refuse))
            other_pool = next(address for address in self._addresses if address != swap.pool)
            instructions = misbuilt(terms, fault.misbuild, other_pool)
        return _built(instructions)


def _pool(pool: Pool, slot: int) -> pb.Pool:
    return pb.Pool(
        address=pool.address,
        mint_a=pool.mint_a,
        mint_b=pool.mint_b,
        reserve_a=str(pool.reserve_a),
        reserve_b=str(pool.reserve_b),
        fee_ppm=pool.fee_ppm,
        slot=slot,
    )


# The same parties come again and again, and writing down their accounts is the dear part.
@lru_cache(maxsize=1024)
def _built_between(parties: Parties) -> pb.BuildSwapResult:
    return _built(swap_instructions(SwapTerms(*parties, amount_in=1, min_amount_out=0)))


def _built(instructions: Iterable[Instruction]) -> pb.BuildSwapResult:
    return pb.BuildSwapResult(
        swap=pb.SwapInstructions(instructions=map(_instruction, instructions))
    )


def _instruction(instruction: Instruction) -> pb.Instruction:
    return pb.Instruction(
        program=str(instruction.program_id),
        accounts=map(_account, instruction.accounts),
        data=instruction.data,
    )


def _account(account: AccountMeta) -> pb.AccountMeta:
    return pb.AccountMeta(
        address=str(account.pubkey), signer=account.is_signer, writable=account.is_writable
    )


def _refusal(reason: pb.RefusalReason.ValueType, message: str) -> pb.Refusal:
    return pb.Refusal(reason=reason, message=message)


def _injected(refuse: sim_pb2.RefuseItem) -> pb.Refusal:
    refusal = _refusal(pb.RefusalReason.ValueType(REFUSALS[refuse.reason]), "injected")
    if refuse.HasField("retry_delay"):
        refusal.retry_delay.CopyFrom(refuse.retry_delay)
    return refusal


def _bounded(field: str, items: Sequence[object]) -> None:
    if len(items) > MAX_ITEMS:
        raise InvalidRequest([Violation(field, f"must be at most {MAX_ITEMS} items")])
