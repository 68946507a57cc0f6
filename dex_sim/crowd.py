"""Everybody else who trades: what tokens are worth to them, and the swaps they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from dex_sim.chance import Chance, Range
from dex_sim.execution import CROWD, Accounts
from dex_sim.market import TOKENS
from dex_sim.pool import Pool, Unfillable
from engine.fractions import PPM

# A price is a sum of waves of these lengths in slots, each a seeded walk between random points.
WAVES: Final = (4, 32, 256)
# No price strays further from the one it opened with.
BAND_PPM: Final = 20_000
U32: Final = Range(0, 2**32 - 1)

# A trader's swap as parts per million of what the pool holds: 20 … 2560.
LEAST_TRADE_PPM: Final = 20
TRADE_DOUBLINGS: Final = 8
# Pools that arbitrage looks at for each trader's swap, in turn.
LOOKS_A_TRADE: Final = 2
# Arbitrage begins with this much, in millionths of a dollar, and at most so many times doubled.
PROBE: Final = 100_000_000
MOST_DOUBLINGS: Final = 24
REFINEMENTS: Final = 4


class Prices:
    """What each token is worth at a slot: always the same for a seed, and never far from home.

    Nothing is kept: the past need not be walked again to know the present.
    """

    def __init__(self, chance: Chance, drift_ppm: int) -> None:
        self._chance = chance
        self._reach = [
            min(drift_ppm * wave // (2 * len(WAVES)), BAND_PPM * wave // sum(WAVES))
            for wave in WAVES
        ]
        self._point = lru_cache(maxsize=4 * len(WAVES))(self._drawn_point)

    def at(self, age: int) -> dict[str, int]:
        """By mint, what a base unit is worth in 10^-24 dollars, `age` slots after the genesis."""
        moved = [0] * len(TOKENS)
        for wave, length in enumerate(WAVES):
            number, phase = divmod(age, length)
            points = zip(self._point(wave, number), self._point(wave, number + 1), strict=True)
            for token, (last, following) in enumerate(points):
                moved[token] += last + (following - last) * phase // length
        return {
            token.mint: token.micro_dollars
            * (PPM + moved_ppm * token.restless_percent // 100)
            * 10 ** (12 - token.decimals)
            for token, moved_ppm in zip(TOKENS.values(), moved, strict=True)
        }

    def _drawn_point(self, wave: int, number: int) -> list[int]:
        if number == 0:
            return [0] * len(TOKENS)
        within = Range(-self._reach[wave], self._reach[wave])
        return self._chance.draws("market", f"price/{wave}", number, within, len(TOKENS))


class Crowd:
    """Traders, who come at random and leave pools apart, and arbitrage, which draws them together.

    Without drift and without traders there is nothing to do: then pools stand still.
    """

    def __init__(
        self, chance: Chance, drift_ppm: int, trades_a_slot: int, pools: Sequence[str]
    ) -> None:
        self._pools = pools
        self._chance = chance
        self._prices = Prices(chance, drift_ppm)
        self._trades = trades_a_slot
        self._looks = LOOKS_A_TRADE * max(1, trades_a_slot)
        self._acts = bool(drift_ppm or trades_a_slot)

    def trade(self, age: int, now: int, accounts: Accounts) -> None:
        """Swap in some pools, `age` slots after the genesis, at `now` by the chain's clock."""
        if not self._acts:
            return
        draws = self._chance.draws("market", "trades", age, U32, 2 * self._trades)
        for which, size in zip(draws[::2], draws[1::2], strict=True):
            pool = self._pool(which // 2, accounts)
            mint_in, held = (
                (pool.mint_a, pool.reserve_a) if which % 2 else (pool.mint_b, pool.reserve_b)
            )
            amount_in = held * (LEAST_TRADE_PPM << size % TRADE_DOUBLINGS) // PPM
            _swap(pool, mint_in, amount_in, now, accounts)
        prices = self._prices.at(age)
        for look in range(age * self._looks, (age + 1) * self._looks):
            _arbitrage(self._pool(look, accounts), prices, now, accounts)

    def _pool(self, number: int, accounts: Accounts) -> Pool:
        pool = accounts.pool(self._pools[number % len(self._pools)])
        assert pool is not None, "the crowd trades in pools that exist"
        return pool


def _arbitrage(pool: Pool, prices: Mapping[str, int], now: int, accounts: Accounts) -> None:
    for mint_in, mint_out in ((pool.mint_a, pool.mint_b), (pool.mint_b, pool.mint_a)):
        amount_in = _best_amount(pool, mint_in, prices[mint_in], prices[mint_out], now)
        if amount_in:
            _swap(pool, mint_in, amount_in, now, accounts)
            return


def _swap(pool: Pool, mint_in: str, amount_in: int, now: int, accounts: Accounts) -> None:
    try:
        offer = pool.offer(mint_in, amount_in, now)
    except Unfillable:
        return
    mint_out = pool.mint_b if mint_in == pool.mint_a else pool.mint_a
    accounts.add(CROWD, mint_in, -amount_in)
    accounts.add(CROWD, mint_out, offer.amount_out)
    accounts.pools[pool.address] = offer.pool


def _best_amount(pool: Pool, mint_in: str, price_in: int, price_out: int, now: int) -> int:
    """About the amount that earns most at these prices; 0 when nothing earns anything."""
    curve = pool.curve(mint_in, now)

    def profit(amount_in: int) -> int:
        return curve(amount_in) * price_out - amount_in * price_in

    amount = PROBE * 10**18 // price_in or 1
    earned = profit(amount)
    if earned <= 0:
        return 0
    for _ in range(MOST_DOUBLINGS):
        if (more := profit(2 * amount)) <= earned:
            break
        amount, earned = 2 * amount, more
    # The best lies between half of it and twice as much.
    step = amount // 2
    for _ in range(REFINEMENTS):
        for other in (amount - step, amount + step):
            if (more := profit(other)) > earned:
                amount, earned = other, more
                break
        step //= 2
    return amount
