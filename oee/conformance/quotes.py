"""What Quote promises."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Final

from solders.keypair import Keypair

from engine.fractions import BASIS_POINTS, PPM
from engine.programs import U64_MAX
from engine.v1 import venue_pb2 as pb
from oee.conformance.check import Broken, Check, NotChecked, checks
from oee.conformance.venue import MAX_ITEMS, TRIES, Market, Venue, reason_of
from oee.conformance.written import amount_of

# Shares of the usual amount, which is a thousandth of a pool: from next to nothing to half of it.
LADDER: Final = ((1, 10), (1, 1), (10, 1), (100, 1), (500, 1))
# What of a swap's result is sold back, in basis points less than all: a moved price pays less.
LESS_BPS: Final = (0, 1, 2, 5, 10, 20, 50, 100)


async def queries_are_answered_in_order(venue: Venue) -> None:
    """Quote gives a result a query, in their order: a quote of exactly that swap, or a refusal."""
    queries = [market.query() for market in await venue.markets()]
    response = await venue.ask("Quote", pb.QuoteRequest(queries=queries))
    if len(response.results) != len(queries):
        raise Broken(
            f"{len(queries)} results to {len(queries)} queries",
            f"{len(response.results)} results",
            "answer every query, with a refusal where there is no quote",
        )
    for query, result in zip(queries, response.results, strict=True):
        if result.WhichOneof("result") is None:
            raise Broken("a quote or a refusal", "neither", "set exactly one of them")
        if not result.HasField("quote"):
            continue
        for name in ("mint_in", "mint_out", "amount_in"):
            asked, told = getattr(query, name), getattr(result.quote, name)
            if asked != told:
                raise Broken(
                    f"{name} {asked}, as that query has it",
                    f"{name} {told}",
                    "answer in the order of the queries, and repeat what was asked",
                )


async def pools_are_quoted_both_ways(venue: Venue) -> None:
    """Whoever is listed is quoted: a thousandth of a pool's reserve, in both directions."""
    markets = await venue.markets()
    results = await venue.results([market.query() for market in markets])
    for market, result in zip(markets, results, strict=True):
        if not result.HasField("quote"):
            raise Broken(
                f"a quote for {market.amount} of {market.pair}, a thousandth of the reserve",
                reason_of(result.refusal),
                "quote every pool that ListPools names, or do not list it",
            )


async def quotes_pay_something(venue: Venue) -> None:
    """A quote pays more than nothing, for a fee below amount_in and an impact of at most 100 %."""
    markets = await venue.markets()
    for quote in await venue.quotes([market.query() for market in markets]):
        if not quote.amount_out:
            raise Broken(
                "amount_out above 0",
                "0",
                "refuse with INSUFFICIENT_LIQUIDITY where nothing is paid",
            )
        if quote.fee >= quote.amount_in:
            raise Broken(
                f"a fee below amount_in {quote.amount_in}",
                str(quote.fee),
                "tell the pool's fee in base units of mint_in",
            )
        if quote.price_impact_ppm > PPM:
            raise Broken(
                "price_impact_ppm of at most 1000000",
                str(quote.price_impact_ppm),
                "compute 1 - (output / net input) / spot price before the swap, in millionths",
            )


async def quotes_name_a_listed_pool(venue: Venue) -> None:
    """A quote names one of the listed pools, one of this very pair."""
    markets = await venue.markets()
    pools = {pool.address: pool for pool in await venue.pools()}
    for quote in await venue.quotes([market.query() for market in markets]):
        pool = pools.get(quote.pool)
        mints = {pool.mint_a, pool.mint_b} if pool else set()
        if mints != {quote.mint_in, quote.mint_out}:
            raise Broken(
                f"a listed pool of {quote.mint_in} and {quote.mint_out}",
                f"pool {quote.pool!r}" + (" of another pair" if pool else ", which is not listed"),
                "name the pool that the price is of; the swap is built for it",
            )


async def quotes_stand_for_a_while(venue: Venue) -> None:
    """A quote says until when it stands, which is later than now, and of which slot it is."""
    [quote] = await venue.quotes([(await venue.markets())[0].query()])
    now = time.time()
    until = quote.expire_time.seconds + quote.expire_time.nanos / 1e9
    if until <= now:
        came = f"{now - until:.3f} s ago" if quote.HasField("expire_time") else "none"
        raise Broken("an expire_time later than now", came, "set it; mind this machine's clock")
    if not quote.slot:
        raise Broken("the slot of the pool's state", "0", "set slot to where the state was read")


async def a_bad_query_is_refused_alone(venue: Venue) -> None:
    """A query that makes no sense is refused by itself; those before and after it are answered."""
    market = (await venue.markets())[0]
    nonsense = pb.QuoteQuery(mint_in="not an address", mint_out=market.mint_out, amount_in=1)
    await venue.quotes([market.query()])
    before, bad, after = await venue.results([market.query(), nonsense, market.query()])
    if not bad.HasField("refusal"):
        raise Broken("a refusal of mint_in 'not an address'", "a quote", "refuse it, as INVALID")
    for good in (before, after):
        if not good.HasField("quote"):
            raise Broken(
                "quotes for the good queries around a bad one",
                reason_of(good.refusal),
                "judge every query by itself",
            )


async def an_unknown_pair_has_no_pool(venue: Venue) -> None:
    """A pair that the venue has no pool for is refused as NO_POOL."""
    market = (await venue.markets())[0]
    query = pb.QuoteQuery(mint_in=_unknown(), mint_out=market.mint_out, amount_in=1_000_000)
    [result] = await venue.results([query])
    _require_refusal(result, pb.REFUSAL_REASON_NO_POOL, "a pair with a mint that nobody knows")


async def nothing_is_invalid(venue: Venue) -> None:
    """An amount of zero is refused as INVALID."""
    [result] = await venue.results([(await venue.markets())[0].query(0)])
    _require_refusal(result, pb.REFUSAL_REASON_INVALID, "amount_in 0")


async def too_much_is_not_promised(venue: Venue) -> None:
    """The largest amount there is gets INSUFFICIENT_LIQUIDITY, or less than the pool holds."""
    for market in await venue.markets():
        for _ in range(TRIES):
            if await _is_judged(venue, market):
                break
        else:
            raise NotChecked(f"the pools changed between ListPools and each of {TRIES} quotes")


async def _is_judged(venue: Venue, market: Market) -> bool:
    """Whether the answer is of a state that was listed; another may hold more. Raises Broken."""
    pools = {pool.address: pool for pool in await venue.pools()}
    [result] = await venue.results([market.query(U64_MAX)])
    if not result.HasField("quote"):
        why = f"amount_in {U64_MAX} of {market.pair}"
        _require_refusal(result, pb.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY, why)
        return True
    pool = pools.get(result.quote.pool)
    if pool is None or pool.slot != result.quote.slot:
        return False
    held = amount_of(pool.reserve_a if market.mint_out == pool.mint_a else pool.reserve_b)
    if held is not None and result.quote.amount_out > held:
        raise Broken(
            f"at most the {held} that the pool holds of {market.mint_out}",
            f"amount_out {result.quote.amount_out}",
            "refuse with INSUFFICIENT_LIQUIDITY what the pool cannot pay",
        )
    return True


async def five_hundred_queries_and_no_more(venue: Venue) -> None:
    """A call takes 500 queries; one with more is INVALID_ARGUMENT."""
    query = (await venue.markets())[0].query()
    response = await venue.ask("Quote", pb.QuoteRequest(queries=[query] * MAX_ITEMS))
    if len(response.results) != MAX_ITEMS:
        raise Broken("500 results", f"{len(response.results)}", "answer up to 500 queries a call")
    too_many = pb.QuoteRequest(queries=[query] * (MAX_ITEMS + 1))
    await venue.ask.is_refused("Quote", too_many, "501 queries")


async def more_in_is_more_out(venue: Venue) -> None:
    """Of one state of the pools, paying more never yields less."""
    for market in await venue.markets():
        quotes = await _ladder(venue, market)
        for less, more in pairwise(quotes):
            if more.amount_out < less.amount_out:
                raise Broken(
                    f"at least {less.amount_out} for {more.amount_in} of {market.pair}",
                    f"{more.amount_out}, while {less.amount_in} yield {less.amount_out}",
                    "compute each amount from the curve; do not scale another one's price",
                )


async def a_larger_swap_moves_the_price_further(venue: Venue) -> None:
    """Of one state of a pool, a larger swap has no smaller price impact, but for rounding."""
    for market in await venue.markets():
        quotes = await _ladder(venue, market)
        for less, more in pairwise(quotes):
            # Outputs are whole units, which small ones feel; then the figure itself is rounded.
            rounding = 1 + -(-PPM // max(1, less.amount_out))
            if more.pool == less.pool and more.price_impact_ppm + rounding < less.price_impact_ppm:
                raise Broken(
                    f"at least {less.price_impact_ppm} ppm for {more.amount_in} of {market.pair}",
                    f"{more.price_impact_ppm} ppm, while {less.amount_in} have "
                    f"{less.price_impact_ppm} ppm",
                    "compute 1 - (output / net input) / spot price before the swap, in millionths",
                )


async def there_and_back_never_pays(venue: Venue) -> None:
    """What a swap yields, sold back to the same pool in the same state, brings no profit."""
    compared = 0
    for market in await venue.markets():
        [there] = await venue.quotes([market.query()])
        # Prices may have moved since. So the swap is asked for anew together with the way back of
        # a little less each time, and the most that it really yields there is what counts.
        amounts = [there.amount_out * (BASIS_POINTS - less) // BASIS_POINTS for less in LESS_BPS]
        again, *back = await venue.quotes_of_one_state(
            [market.query(), *(market.back(max(1, amount)) for amount in amounts)]
        )
        sold = next((b for b in back if b.amount_in <= again.amount_out), None)
        if sold is None or sold.pool != again.pool:
            continue
        compared += 1
        if sold.amount_out > again.amount_in:
            raise Broken(
                f"at most the {again.amount_in} that were paid of {market.pair}",
                f"{sold.amount_out} back for {sold.amount_in} of the {again.amount_out} received",
                "take the fee, and round against the trader, in both directions",
            )
    if not compared:
        raise NotChecked("there and back went through other pools, or prices fell too fast")


async def slots_do_not_go_back(venue: Venue) -> None:
    """Of answers to calls one after another, the later never has the earlier slot."""
    market = (await venue.markets())[0]
    seen = 0
    for _ in range(3):
        [quote] = await venue.quotes([market.query()])
        if quote.slot < seen:
            raise Broken(
                f"slot {seen} or a later one",
                f"slot {quote.slot}",
                "keep the newest state of a pool; an older one that comes late is dropped",
            )
        seen = quote.slot


async def _ladder(venue: Venue, market: Market) -> list[pb.Quote]:
    return await venue.quotes_of_one_state(
        [market.query(max(1, market.amount * times // parts)) for times, parts in LADDER]
    )


def _unknown() -> str:
    """An address that nobody has."""
    return str(Keypair().pubkey())


def _require_refusal(result: pb.QuoteResult, reason: pb.RefusalReason.ValueType, what: str) -> None:
    name = pb.RefusalReason.Name(reason).removeprefix("REFUSAL_REASON_")
    if result.refusal.reason != reason:
        came = reason_of(result.refusal) if result.HasField("refusal") else "a quote"
        raise Broken(
            f"the refusal {name} of {what}",
            came,
            f"refuse it as {name}; the reason decides whether the engine tries again",
        )


CHECKS: Final[tuple[Check[Venue], ...]] = checks(
    queries_are_answered_in_order,
    pools_are_quoted_both_ways,
    quotes_pay_something,
    quotes_name_a_listed_pool,
    quotes_stand_for_a_while,
    a_bad_query_is_refused_alone,
    an_unknown_pair_has_no_pool,
    nothing_is_invalid,
    too_much_is_not_promised,
    five_hundred_queries_and_no_more,
    more_in_is_more_out,
    a_larger_swap_moves_the_price_further,
    there_and_back_never_pays,
    slots_do_not_go_back,
)
