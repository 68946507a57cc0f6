"""VenueService of one venue: quotes from the pools as they stand, instructions to match."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
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
from dex_sim.program import arrays_to_name, parties_of
from engine.errors import InvalidRequest, Violation
from engine.instructions.swap import LAYOUTS, data_of, swap_instruction
from engine.instructions.terms import Parties, SwapTerms
from engine.v1 import sim_pb2, venue_pb2_grpc
from engine.v1 import venue_pb2 as pb

MAX_ITEMS: Final = 500
QUOTE_LIFE_SECONDS: Final = 30
# Watchers hear of nothing as often, so that silence tells them that they are cut off.
PULSE_SECONDS: Final = 0.5
PACE_SECONDS: Final = 0.1
# Well below the 4 MB that a gRPC message may have: a state has some thousand bytes.
POOLS_A_MESSAGE: Final = 100


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
        self._addresses_of_pair: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for pool in pools:
            for pair in ((pool.mint_a, pool.mint_b), (pool.mint_b, pool.mint_a)):
                self._addresses_of_pair[pair].append(pool.address)
        # Each pool as it was last told, which is told again until it changes.
        self._told: dict[str, tuple[Pool, pb.Pool]] = {}

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
            untold = len(addresses)
            while True:
                for start in range(0, len(addresses) or 1, POOLS_A_MESSAGE):
                    some = addresses[start : start + POOLS_A_MESSAGE]
                    untold = max(0, untold - len(some))
                    change = partial(self._change, some, complete=not untold)
                    yield await self._answer("WatchPools", (), context, change)
                # What changes meanwhile goes together, however fast blocks are made.
                await asyncio.sleep(PACE_SECONDS)
                try:
                    async with asyncio.timeout(PULSE_SECONDS):
                        addresses = await feed.take()
                except TimeoutError:
                    addresses = ()

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

    def _change(self, addresses: Sequence[str], *, complete: bool) -> pb.WatchPoolsResponse:
        return pb.WatchPoolsResponse(
            pools=self._pools(addresses),
            slot=self._chain.head.slot,
            time=self._chain.time,
            complete=complete,
        )

    def _pools(self, addresses: Sequence[str]) -> list[pb.Pool]:
        slot, now = self._chain.head.slot, self._chain.time
        return [self._pool(self._chain.accounts.pools[address], slot, now) for address in addresses]

    def _pool(self, pool: Pool, slot: int, now: int) -> pb.Pool:
        last, told = self._told.get(pool.address, (None, None))
        if told is None or last is not pool:
            told = pb.Pool(
                address=pool.address,
                mint_a=pool.mint_a,
                mint_b=pool.mint_b,
                reserve_a=str(pool.reserve_a),
                reserve_b=str(pool.reserve_b),
                kind=pool.kind,
                state=pool.text,
                market=pool.facts.market,
                config=pool.facts.config if LAYOUTS[pool.kind].by_config else None,
            )
            self._told[pool.address] = pool, told
        told.slot, told.fee_ppm = slot, pool.fee_ppm(now)
        return told

    def _quote(self, query: pb.QuoteQuery, expire_time: timestamp_pb2.Timestamp) -> pb.QuoteResult:
        mint_in, amount_in, now = query.mint_in, query.amount_in, self._chain.time
        addresses = self._addresses_of_pair.get((mint_in, query.mint_out))
        if addresses is None:
            return pb.QuoteResult(
                refusal=_refusal(pb.REFUSAL_REASON_NO_POOL, f"{self._venue} has no such pool")
            )
        if amount_in == 0:
            return pb.QuoteResult(
                refusal=_refusal(pb.REFUSAL_REASON_INVALID, "amount_in must be positive")
            )
        pools = [self._chain.accounts.pools[address] for address in addresses]
        best = max(pools, key=lambda pool: pool.curve(mint_in, now)(amount_in))
        try:
            offer = best.offer(mint_in, amount_in, now)
        except Unfillable as unfillable:
            return pb.QuoteResult(
                refusal=_refusal(pb.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY, str(unfillable))
            )
        quote = pb.Quote(
            pool=best.address,
            mint_in=mint_in,
            mint_out=query.mint_out,
            amount_in=amount_in,
            amount_out=offer.amount_out,
            fee=offer.fee,
            price_impact_ppm=offer.swap.price_impact_ppm,
            slot=self._chain.head.slot,
            expire_time=expire_time,
            kind=best.kind,
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
        if swap.pool not in self._addresses_of_pair.get((swap.mint_in, swap.mint_out), ()):
            return pb.BuildSwapResult(
                refusal=_refusal(pb.REFUSAL_REASON_NO_POOL, f"{self._venue} has no such pool")
            )
        pool = self._chain.accounts.pools[swap.pool]
        try:
            terms = self._terms(pool, swap)
        except ValueError as error:
            return pb.BuildSwapResult(refusal=_refusal(pb.REFUSAL_REASON_INVALID, str(error)))
        if self._faults:
            return self._spoilt_swap(swap, terms)
        result = pb.BuildSwapResult()
        result.CopyFrom(_built_between(terms.parties))
        result.swap.instructions[0].data = data_of(terms)
        return result

    def _terms(self, pool: Pool, swap: pb.SwapOrder) -> SwapTerms:
        arrays = arrays_to_name(pool, swap.mint_in, swap.amount_in, self._chain.time)
        wallet = Pubkey.from_string(swap.wallet)
        parties = parties_of(pool.facts, wallet, swap.mint_in == pool.mint_a, arrays)
        return SwapTerms(parties, swap.amount_in, swap.min_amount_out)

    def _spoilt_swap(self, swap: pb.SwapOrder, terms: SwapTerms) -> pb.BuildSwapResult:
        instructions = [swap_instruction(terms)]
        for fault in self._faults.hitting(Site.ITEM, self._occasion("BuildSwap", [swap])):
            if fault.HasField("refuse"):
                return pb.BuildSwapResult(refusal=_injected(fault.refuse))
            others = self._addresses_of_pair[swap.mint_in, swap.mint_out]
            other = next(address for address in others if address != swap.pool)
            elsewhere = self._terms(self._chain.accounts.pools[other], swap)
            instructions = misbuilt(terms, fault.misbuild, elsewhere)
        return _built(instructions, terms.parties)


# The same parties come again and again, and writing down their accounts is the dear part.
@lru_cache(maxsize=1024)
def _built_between(parties: Parties) -> pb.BuildSwapResult:
    return _built([swap_instruction(SwapTerms(parties, 1, 0))], parties)


def _built(instructions: Iterable[Instruction], parties: Parties) -> pb.BuildSwapResult:
    return pb.BuildSwapResult(
        swap=pb.SwapInstructions(
            instructions=map(_instruction, instructions),
            kind=parties.kind,
            arrays=parties.arrays,
            market=str(parties.market) if parties.market else "",
            config=parties.config,
            one_for_zero=not parties.zero_for_one,
        )
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
