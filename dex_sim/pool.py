"""A pool of one of the real programs' kinds, and what a swap against it yields."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from engine.amm import meteora_dlmm, raydium_clmm
from engine.amm.clmm_pool import MAX_RATE
from engine.amm.dlmm_pool import BASIS_POINTS
from engine.amm.kinds import KINDS
from engine.amm.snapshot import dump
from engine.amm.swap import Swap, SwapFailed
from engine.fractions import PPM
from engine.instructions.arrays import existing_arrays


def _clmm_fee_ppm(state: raydium_clmm.Pool, now: int) -> int:
    rate = state.trade_fee_rate
    if state.dynamic_fee_info is not None:
        index = state.tick_current // state.tick_spacing
        dynamic = state.dynamic_fee_info.referred_to(index, now)
        rate += dynamic.rate(dynamic.accumulated(index), state.tick_spacing)
    return min(rate, MAX_RATE)


def _dlmm_fee_ppm(state: meteora_dlmm.Pool, now: int) -> int:
    index, volatility = state.referred(now)
    accumulator = volatility + abs(index - state.active_id) * BASIS_POINTS
    return state.fee_rate(min(accumulator, state.parameters.max_volatility_accumulator)) // 1000


# Each kind's fee at a time, in parts per million.
_FEE_PPM: Final[Mapping[str, Callable[[Any, int], int]]] = {
    "raydium_cpmm": lambda state, now: state.trade_fee_rate + state.creator_rate(),
    "raydium_amm_v4": lambda state, now: (
        state.swap_fee_numerator * PPM // state.swap_fee_denominator
    ),
    "raydium_clmm": _clmm_fee_ppm,
    "meteora_dlmm": _dlmm_fee_ppm,
    "meteora_damm_v2": lambda state, now: state.fee_rate(now) // 1000,
}


class Unfillable(Exception):
    """The pool cannot fill this amount: too little or too much would come out."""


class Facts(NamedTuple):
    """What never changes of a pool; mint_a is its token 0, coin, X or A."""

    address: str
    venue: str
    kind: str
    mint_a: str
    mint_b: str
    # The account that a raydium_amm_v4 pool's own addresses are derived from.
    market: str = ""
    # The index of a raydium_cpmm or raydium_clmm pool's amm_config.
    config: int = 0


# With a dict: a state is written down once and then kept there.
class Pool(msgspec.Struct, frozen=True, dict=True):
    """A pool's facts, its state, and what its vaults hold in base units.

    `state` is engine.amm's pool of that kind. The reserves hold beside what the state trades with
    what fees have left there.
    """

    facts: Facts
    state: Any
    reserve_a: int
    reserve_b: int

    @property
    def address(self) -> str:
        """Where it is, in base58."""
        return self.facts.address

    @property
    def venue(self) -> str:
        """Whose program it belongs to."""
        return self.facts.venue

    @property
    def kind(self) -> str:
        """Its kind, one of KINDS."""
        return self.facts.kind

    @property
    def mint_a(self) -> str:
        """Its first token."""
        return self.facts.mint_a

    @property
    def mint_b(self) -> str:
        """Its second token."""
        return self.facts.mint_b

    @cached_property
    def text(self) -> str:
        """The state as JSON, by the field names of the program's accounts."""
        return dump(self.state)

    @cached_property
    def arrays(self) -> tuple[int, ...]:
        """The tick or bin arrays that exist, ascending; none where it has none."""
        return existing_arrays(self.kind, self.state)

    def in_state(self, text: str, reserve_a: int, reserve_b: int) -> Pool:
        """This pool with a state read back from its text."""
        state = KINDS[self.kind].load(json.loads(text))
        return replace(self, state=state, reserve_a=reserve_a, reserve_b=reserve_b)

    def trades(self, mint_in: str, mint_out: str) -> bool:
        """Whether this is a pool for that pair, in either direction."""
        return {mint_in, mint_out} == {self.mint_a, self.mint_b}

    def fee_ppm(self, now: int) -> int:
        """The fee that the next swap meets, as far as it does not move the price itself."""
        return _FEE_PPM[self.kind](self.state, now)

    def curve(self, mint_in: str, now: int) -> Callable[[int], int]:
        """What any amount of `mint_in` yields: `offer`'s amount_out, or 0 where that fails."""
        try:
            return KINDS[self.kind].exact_in_curve(self.state, mint_in == self.mint_a, now)
        except SwapFailed:
            return lambda amount_in: 0

    def offer(self, mint_in: str, amount_in: int, now: int) -> Offer:
        """What `amount_in` yields at `now`, the chain's clock in unix seconds.

        Raises Unfillable where the program would fail, or would pay nothing.
        """
        a_to_b = mint_in == self.mint_a
        try:
            swap = KINDS[self.kind].quote_exact_in(self.state, amount_in, a_to_b, now)
        except SwapFailed as failed:
            raise Unfillable(str(failed)) from None
        amount_out = swap.amount_out
        if amount_out <= 0:
            raise Unfillable(f"{amount_in} would yield nothing")
        change_a, change_b = (amount_in, -amount_out) if a_to_b else (-amount_out, amount_in)
        after = Pool(self.facts, swap.pool, self.reserve_a + change_a, self.reserve_b + change_b)
        return Offer(amount_out, swap, after)


class Offer(NamedTuple):
    """What a swap of some amount yields, in base units, and the pool as it would be after it."""

    amount_out: int
    swap: Swap[Any]
    pool: Pool

    @property
    def fee(self) -> int:
        """The fee in the mint paid; 0 when it is taken from the output."""
        return self.swap.fee if self.swap.fee_on_input else 0
