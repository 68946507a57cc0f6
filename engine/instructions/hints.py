"""What a pool's stream tells of a swap's accounts, so that no venue is asked to build it."""

from __future__ import annotations

from engine.amm.kinds import KINDS
from engine.amm.swap import SwapFailed
from engine.instructions.arrays import ARRAYS_OF_KIND, named_arrays
from engine.instructions.swap import LAYOUTS
from engine.route import Hints, Leg
from engine.routing.market import Pool


def hints_of(pool: Pool, leg: Leg, now: int) -> Hints | None:
    """The hints of a leg in this pool as it stands at `now`, the chain's clock in unix seconds.

    None where the pool does not tell all that its kind of swap needs, or cannot do this one.
    """
    layout, zero_for_one = LAYOUTS[pool.kind], leg.mint_in == pool.mint_a
    market = pool.market if layout.by_market else None
    config = pool.config if layout.by_config else 0
    if (layout.by_market and market is None) or config is None:
        return None
    arrays: tuple[int, ...] = ()
    if pool.kind in ARRAYS_OF_KIND:
        try:
            swap = KINDS[pool.kind].quote_exact_in(pool.state, leg.amount_in, zero_for_one, now)
        except SwapFailed:
            return None
        arrays = named_arrays(pool.kind, pool.state, swap.pool, zero_for_one)
    return Hints(arrays, market, config, zero_for_one)
