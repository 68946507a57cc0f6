"""The ways to do one swap: each venue's best pool, and what several pools do better together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Final

from engine import network_cost
from engine.amm.fixed_point import ceil_div
from engine.amm.swap import SwapFailed, require_u64
from engine.failures import Failure
from engine.fractions import PPM
from engine.mints import SOL
from engine.order import OrderRequest
from engine.route import MAX_SCORE_PPM, Candidate, Leg, Route, VenueQuote, VenueScore
from engine.routing import reasons
from engine.routing.market import Market, Offer, share_ppm
from engine.routing.paths import Path, Rules, allowed, direct, hops
from engine.routing.reasons import PPM_A_BPS
from engine.routing.search import Goal, best_way

POOL_SHARE_LIMIT: Final = "POOL_SHARE_LIMIT"
# What a venue that does not say it has pools of.
DEFAULT_KIND: Final = {"raydium": "raydium_cpmm", "meteora": "meteora_dlmm"}
# What a swap of too small an amount fails with.
TOO_LITTLE: Final = frozenset({"ZERO_AMOUNT", "ZERO_OUTPUT"})
# A lamport is worth what this many yield: a pool of dust may show any price.
WORTH_LAMPORTS: Final = 10_000_000
LIGHTEST: Final = min(network_cost.WEIGHTS, key=lambda k: network_cost.WEIGHTS[k].compute_units)
# Of two legs, the least.
LEAST_FEE: Final = network_cost.fee_lamports((LIGHTEST, LIGHTEST))


class Candidates:
    """What may be done for one order."""

    def __init__(
        self,
        request: OrderRequest,
        market: Market,
        rules: Rules,
        scores: Mapping[str, VenueScore],
    ) -> None:
        self._request = request
        self._market = market
        self._rules = rules
        self._scores = scores
        offers = market.offers(request.token_in, request.token_out)
        self._offers = allowed(offers, request.venues)
        self._worth = lamports_worth(market, request.token_out, rules)
        # The best pool of each venue, and what it nets for the whole amount.
        self._best = self._best_of(self._offers)

    @property
    def cost_is_known(self) -> bool:
        """Whether the market tells what a lamport is worth in the token received."""
        return self._worth is not None

    def _best_of(self, offers: Sequence[Offer]) -> dict[str, tuple[int, Offer]]:
        amount = self._request.amount_in
        costs: dict[str, int] = {}
        best: dict[str, tuple[int, Offer]] = {}
        for offer in offers:
            pool = offer.pool
            cost = costs.get(pool.kind)
            if cost is None:
                cost = costs[pool.kind] = self._cost(_fee_lamports((pool.kind,)))
            found = best.get(pool.venue)
            beaten = -cost if found is None else found[0]
            # The price tells of most pools that they need not be asked.
            if (amount * offer.price >> 64) - cost > beaten:
                net = offer.amount_out(amount) - cost
                if net > beaten:
                    best[pool.venue] = net, offer
        return best

    def quotes(self, max_price_impact_ppm: int | None) -> Iterator[VenueQuote]:
        """Of each streamed venue that is allowed: its best pool within the limit, if there is one.

        Otherwise its best pool, or why it offers nothing.
        """
        for venue in self._market.venues:
            if not self._request.venues or venue in self._request.venues:
                yield self._quote(venue, max_price_impact_ppm) or self._refusal(venue)

    def _quote(self, venue: str, limit: int | None) -> VenueQuote | None:
        if venue not in self._best:
            return None
        best = self._quoted(self._best[venue][1])
        if best is not None and (limit is None or best.price_impact_ppm <= limit):
            return best
        amount = self._request.amount_in
        able = [offer for offer in self._offers_of(venue) if offer.amount_out(amount)]
        every = filter(None, map(self._quoted, able))
        quotes = sorted(every, key=lambda quote: (-quote.amount_out, quote.pool))
        within = (q for q in quotes if limit is None or q.price_impact_ppm <= limit)
        return next(within, quotes[0] if quotes else None)

    def _quoted(self, offer: Offer) -> VenueQuote | None:
        pool = offer.pool
        try:
            swap = offer.pay(self._request.amount_in)
        except SwapFailed:
            return None
        return VenueQuote(
            pool.venue,
            0,
            pool.address,
            swap.amount_out,
            swap.amount_in - swap.net_in,
            swap.price_impact_ppm,
            pool.slot,
            kind=pool.kind,
            is_local=True,
            pool_share_ppm=share_ppm(swap.amount_out, offer.depth),
        )

    def _refusal(self, venue: str) -> VenueQuote:
        quotes = [quote for quote in map(self._quoted, self._offers_of(venue)) if quote]
        limit = self._market.max_share_bps * PPM_A_BPS
        shares = [quote.pool_share_ppm for quote in quotes if quote.pool_share_ppm is not None]
        if above := [share for share in shares if share > limit]:
            failure = too_much_of_a_pool(venue, min(above), self._market)
            return VenueQuote(venue, 0, refusal=failure, is_local=True)
        pools = self._market.between(self._request.token_in, self._request.token_out)
        if any(_buys_nothing(o, self._request.amount_in) for o in self._offers_of(venue)):
            why = f"{venue} would pay nothing for so small an amount"
            failure = Failure("INSUFFICIENT_LIQUIDITY", why)
        elif any(pool.venue == venue for pool in pools):
            failure = Failure("INSUFFICIENT_LIQUIDITY", f"no pool of {venue} can fill this amount")
        else:
            failure = Failure("NO_POOL", f"{venue} has no pool for this pair")
        return VenueQuote(venue, 0, refusal=failure, permanent=True, is_local=True)

    def _offers_of(self, venue: str) -> list[Offer]:
        return [offer for offer in self._offers if offer.pool.venue == venue]

    def single(self, quote: VenueQuote) -> Candidate:
        """All of the amount in the pool that a venue quoted."""
        request = self._request
        kind = quote.kind or DEFAULT_KIND.get(quote.venue, "")
        leg = Leg(
            quote.venue,
            quote.pool,
            kind,
            request.token_in,
            request.token_out,
            request.amount_in,
            quote.amount_out,
        )
        lamports = _fee_lamports((kind,))
        return Candidate(
            Route((leg,), quote.amount_out),
            quote.price_impact_ppm,
            lamports,
            self._cost(lamports),
            self._score((quote.venue,)),
        )

    def several(self, best: Candidate | None) -> Candidate | None:
        """The best of more than one leg, if it is clearly better than `best`, of one."""
        request, rules = self._request, self._rules
        if rules.max_legs < 2:
            return None
        gain = best.route.quoted_amount_out * rules.least_gain_ppm // PPM if best else 0
        first = max(self._best.values(), default=None, key=lambda each: each[0])
        single = None if first is None else first[1]

        def others(above: int) -> list[Path]:
            better = takewhile(lambda offer: offer.price > above, self._offers)
            beside = [direct(offer) for offer in better if offer is not single]
            mints = request.token_in, request.token_out
            return beside + hops(self._market, *mints, rules, request.venues, above)

        goal = Goal(
            request.amount_in,
            rules.max_legs,
            lambda kinds: self._cost(_fee_lamports(kinds)),
            best.net_amount_out if best else None,
            gain,
            self._cost(LEAST_FEE),
        )
        parts = best_way(None if single is None else direct(single), others, goal)
        try:
            return None if parts is None else self._combined(parts)
        except SwapFailed:
            return None

    def _combined(self, used: Sequence[tuple[Path, int]]) -> Candidate:
        legs: list[Leg] = []
        paid = impact = score = 0
        for path, amount in used:
            mint, price_kept = self._request.token_in, PPM
            for offer, amount_in, carried in path.steps(amount):
                pool, swap = offer.pool, offer.pay(amount_in)
                out = pool.mint_b if offer.zero_for_one else pool.mint_a
                legs.append(
                    Leg(
                        pool.venue,
                        pool.address,
                        pool.kind,
                        mint,
                        out,
                        amount_in,
                        swap.amount_out,
                        carried,
                    )
                )
                mint = out
                price_kept = price_kept * (PPM - swap.price_impact_ppm) // PPM
            paid += legs[-1].quoted_amount_out
            impact += amount * (PPM - price_kept)
            venues = tuple(offer.pool.venue for offer in path.offers)
            score += amount * self._score(venues)
        whole = self._request.amount_in
        lamports = _fee_lamports(tuple(leg.kind for leg in legs))
        return Candidate(
            Route(tuple(legs), require_u64("amount out", paid)),
            ceil_div(impact, whole),
            lamports,
            self._cost(lamports),
            score // whole,
        )

    def _cost(self, lamports: int) -> int:
        if self._worth is None:
            return 0
        return ceil_div(lamports * self._worth, WORTH_LAMPORTS)

    def _score(self, venues: Sequence[str]) -> int:
        """What the past of venues, one after the other, says; bounded."""
        scores = self._scores
        if not scores:
            return 0
        total = sum(scores[venue].score_ppm for venue in venues if venue in scores)
        return max(-MAX_SCORE_PPM, min(MAX_SCORE_PPM, total))


def too_much_of_a_pool(venue: str, share_ppm: int, market: Market) -> Failure:
    """Why a pool that could pay is not taken: only so small a part of it may be."""
    message = reasons.too_much_of_a_pool(venue, share_ppm, market.max_share_bps)
    return Failure(POOL_SHARE_LIMIT, message)


def _buys_nothing(offer: Offer, amount_in: int) -> bool:
    try:
        return not offer.pay(amount_in).amount_out
    except SwapFailed as failed:
        return failed.reason in TOO_LITTLE


def lamports_worth(market: Market, mint: str, rules: Rules) -> int | None:
    """What WORTH_LAMPORTS are in this token: what they buy, by way of another if need be."""
    if mint == SOL:
        return WORTH_LAMPORTS
    known, wanted = market.worked_out, ("lamports", mint, *rules.intermediates)
    if wanted not in known:
        known[wanted] = _lamports_bought(market, mint, rules)
    return known[wanted]


def _lamports_bought(market: Market, mint: str, rules: Rules) -> int | None:
    direct = market.offers(SOL, mint)
    if direct:
        return _bought(direct, WORTH_LAMPORTS) or None
    ways = [
        _bought(market.offers(between, mint), _bought(market.offers(SOL, between), WORTH_LAMPORTS))
        for between in rules.intermediates
        if between not in (SOL, mint)
    ]
    return max(ways, default=0) or None


def _bought(offers: Sequence[Offer], amount: int) -> int:
    most = 0
    for offer in offers if amount else ():
        if amount * offer.price >> 64 <= most:
            break
        most = max(most, offer.amount_out(amount))
    return most


@lru_cache(maxsize=1024)
def _fee_lamports(kinds: tuple[str, ...]) -> int:
    """Of kinds that are not known, what they weigh is not counted."""
    return network_cost.fee_lamports([kind for kind in kinds if kind in network_cost.WEIGHTS])
