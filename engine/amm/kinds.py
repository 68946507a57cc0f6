"""The kinds of pool whose swaps can be computed, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from engine.amm import meteora_damm_v2, meteora_dlmm, raydium_amm_v4, raydium_clmm, raydium_cpmm
from engine.amm.swap import Margin, Paid, Swap


class Kind(Protocol):
    """What each venue module answers, for its own frozen `Pool`.

    `zero_for_one` pays the pool's first token (token 0, coin, X, A) for its second; `now` is the
    chain's clock in unix seconds. Quotes are pure: the pool afterwards is `Swap.pool`.
    """

    def load(self, data: Mapping[str, Any]) -> Any:
        """A pool from JSON; raises InvalidSnapshot."""

    def quote_exact_in(self, pool: Any, amount_in: int, zero_for_one: bool, now: int) -> Swap[Any]:
        """Pay exactly so much; raises SwapFailed where the program would fail."""

    def pay_exact_in(self, pool: Any, amount_in: int, zero_for_one: bool, now: int) -> Paid:
        """quote_exact_in without the pool afterwards; raises SwapFailed as that does."""

    def quote_exact_out(
        self, pool: Any, amount_out: int, zero_for_one: bool, now: int
    ) -> Swap[Any]:
        """Receive exactly so much; raises SwapFailed where the program would fail."""

    def exact_in_curve(self, pool: Any, zero_for_one: bool, now: int) -> Callable[[int], int]:
        """quote_exact_in's amount_out alone, prepared for many amounts; 0 where it would fail.

        Raises SwapFailed for a pool without liquidity.
        """

    def margin(self, pool: Any, zero_for_one: bool, now: int) -> Margin:
        """The prices that swaps start from; raises SwapFailed for a pool without liquidity."""


KINDS: Final[Mapping[str, Kind]] = {
    "raydium_cpmm": raydium_cpmm,
    "raydium_amm_v4": raydium_amm_v4,
    "raydium_clmm": raydium_clmm,
    "meteora_dlmm": meteora_dlmm,
    "meteora_damm_v2": meteora_damm_v2,
}
