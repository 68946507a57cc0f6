"""A VenueService under test, and the swaps that it should be able to quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from engine.programs import U64_MAX
from engine.v1 import venue_pb2 as pb
from engine.v1.venue_pb2_grpc import VenueServiceStub
from oee.conformance.check import Caller, NoAnswer, NotChecked
from oee.conformance.written import amount_of, is_address

MAX_ITEMS: Final = 500
# So many pools stand for all of them, spread over the list.
SAMPLED_POOLS: Final = 3
# A thousandth of such a reserve still tells rounding from a wrong price.
LEAST_RESERVE: Final = 1_000_000
SHARE: Final = 1000
# The pools move on while they are asked about; so often an answer of one state is waited for.
TRIES: Final = 5
# How long a watch is listened to; it promises a message a second.
LISTEN_SECONDS: Final = 3.0


def reason_of(refusal: pb.Refusal) -> str:
    """The refusal in words: NO_POOL: …"""
    known = refusal.reason in pb.RefusalReason.values()
    name = pb.RefusalReason.Name(refusal.reason) if known else str(refusal.reason)
    short = name.removeprefix("REFUSAL_REASON_")
    return f"the refusal {short}" + (f" ({refusal.message})" if refusal.message else "")


@dataclass(frozen=True, slots=True)
class Market:
    """One direction of a listed pool, and an amount that it should be able to fill."""

    pool: pb.Pool
    mint_in: str
    mint_out: str
    amount: int

    @property
    def pair(self) -> str:
        """The pair in words."""
        return f"{self.mint_in} → {self.mint_out}"

    def query(self, amount: int | None = None) -> pb.QuoteQuery:
        """Ask for this amount, or for the usual one."""
        return pb.QuoteQuery(
            mint_in=self.mint_in,
            mint_out=self.mint_out,
            amount_in=self.amount if amount is None else amount,
        )

    def back(self, amount: int) -> pb.QuoteQuery:
        """Ask for this amount in the other direction."""
        return pb.QuoteQuery(mint_in=self.mint_out, mint_out=self.mint_in, amount_in=amount)


class Venue:
    """A venue at an address."""

    def __init__(
        self, channel: grpc.aio.Channel, wallet: str, listen_seconds: float = LISTEN_SECONDS
    ) -> None:
        """`wallet` is whom swaps are built for; it needs to hold nothing."""
        self.stub: Any = VenueServiceStub(channel)
        self.ask = Caller(self.stub)
        self.wallet = wallet
        self.listen_seconds = listen_seconds

    async def pools(self) -> Sequence[pb.Pool]:
        """All that ListPools names."""
        response = await self.ask("ListPools", pb.ListPoolsRequest())
        pools: Sequence[pb.Pool] = response.pools
        return pools

    async def markets(self) -> list[Market]:
        """Both directions of a few pools; raises NotChecked when there is none to ask about."""
        try:
            pools = [pool for pool in await self.pools() if _stands(pool)]
        except NoAnswer as failed:
            raise NotChecked(f"without ListPools there is no pool to ask about: {failed}") from None
        if not pools:
            raise NotChecked("ListPools names no pool that holds enough of both its tokens")
        return [
            market
            for pool in pools[:: -(-len(pools) // SAMPLED_POOLS)]
            for market in (
                _market(pool, pool.mint_a, pool.mint_b, pool.reserve_a),
                _market(pool, pool.mint_b, pool.mint_a, pool.reserve_b),
            )
        ]

    async def results(self, queries: Sequence[pb.QuoteQuery]) -> Sequence[pb.QuoteResult]:
        """A result a query; raises NotChecked when there are more or fewer."""
        response = await self.ask("Quote", pb.QuoteRequest(queries=queries))
        results: Sequence[pb.QuoteResult] = response.results
        _require_count("Quote", len(queries), len(results))
        return results

    async def quotes(self, queries: Sequence[pb.QuoteQuery]) -> list[pb.Quote]:
        """A quote a query; raises NotChecked when one is refused."""
        results = await self.results(queries)
        for result in results:
            if not result.HasField("quote"):
                raise NotChecked(f"a swap to begin with got {reason_of(result.refusal)}")
        return [result.quote for result in results]

    async def quotes_of_one_state(self, queries: Sequence[pb.QuoteQuery]) -> list[pb.Quote]:
        """The same, all of one slot; raises NotChecked when the pools never stand still."""
        for _ in range(TRIES):
            quotes = await self.quotes(queries)
            if len({quote.slot for quote in quotes}) == 1:
                return quotes
        raise NotChecked(f"none of {TRIES} answers was computed from one slot alone")

    def order(self, quote: pb.Quote, min_amount_out: int = 1) -> pb.SwapOrder:
        """The swap of a quote, to be built."""
        return pb.SwapOrder(
            pool=quote.pool,
            mint_in=quote.mint_in,
            mint_out=quote.mint_out,
            amount_in=quote.amount_in,
            min_amount_out=min_amount_out,
            wallet=self.wallet,
        )

    async def orders(self) -> list[pb.SwapOrder]:
        """Quoted swaps to be built; raises NotChecked when there is none."""
        quotes = await self.quotes([market.query() for market in await self.markets()])
        return [self.order(quote) for quote in quotes]

    async def builds(self, orders: Sequence[pb.SwapOrder]) -> Sequence[pb.BuildSwapResult]:
        """A result a swap; raises NotChecked when there are more or fewer."""
        response = await self.ask("BuildSwap", pb.BuildSwapRequest(swaps=orders))
        results: Sequence[pb.BuildSwapResult] = response.results
        _require_count("BuildSwap", len(orders), len(results))
        return results

    async def swaps(self, orders: Sequence[pb.SwapOrder]) -> list[pb.SwapInstructions]:
        """Instructions for each swap; raises NotChecked when one is refused."""
        results = await self.builds(orders)
        for result in results:
            if not result.HasField("swap"):
                raise NotChecked(f"BuildSwap of a quoted swap got {reason_of(result.refusal)}")
        return [result.swap for result in results]


def _require_count(method: str, asked: int, answered: int) -> None:
    if asked != answered:
        raise NotChecked(f"{method} gave {answered} results to {asked} items: which is whose?")


def _stands(pool: pb.Pool) -> bool:
    reserves = amount_of(pool.reserve_a) or 0, amount_of(pool.reserve_b) or 0
    mints = pool.mint_a, pool.mint_b
    return min(reserves) >= LEAST_RESERVE and all(map(is_address, mints)) and len(set(mints)) == 2


def _market(pool: pb.Pool, mint_in: str, mint_out: str, reserve_in: str) -> Market:
    return Market(pool, mint_in, mint_out, min(int(reserve_in), U64_MAX) // SHARE)
