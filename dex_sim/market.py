"""The tokens and pools that exist, and how their prices wander."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from solders.pubkey import Pubkey

from dex_sim.pool import FeeRule, Pool

# One part in this many of the distance to the long-run price is undone every block.
PULL: Final = 100


@dataclass(frozen=True, slots=True)
class Token:
    """A token, with its price in millionths of a dollar when the market opens."""

    mint: str
    decimals: int
    micro_dollars: int

    def worth(self, dollars: int) -> int:
        """Base units worth that many dollars."""
        unit: int = 10**self.decimals
        return dollars * 1_000_000 * unit // self.micro_dollars


SOL: Final = Token("So11111111111111111111111111111111111111112", 9, 150_000_000)
USDC: Final = Token("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", 6, 1_000_000)
USDT: Final = Token("Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB", 6, 999_800)
RAY: Final = Token("4k3Dyjzvzp8eMZWUXbBCjEvwSkkk59S5iCNLY3QrkX6R", 6, 2_500_000)
JUP: Final = Token("JUPyiwrYJFskUPiHa7hkeR8VUtAeFoSYbKedZNsDvCN", 6, 800_000)
BONK: Final = Token("DezXAZ8z7PnrnRJjz3wXBoRgixCa6xjnB7YaB1pPB263", 5, 20)

TOKENS: Final = {token.mint: token for token in (SOL, USDC, USDT, RAY, JUP, BONK)}

FEE_RULES: Final = {
    "raydium": FeeRule(base_ppm=2500),
    "meteora": FeeRule(base_ppm=2000, volatility_percent=10),
}

# Pair, then dollars on each side at the venue and how far it opens from the long-run price.
_OPENING: Final[dict[str, list[tuple[Token, Token, int, int]]]] = {
    "raydium": [
        (SOL, USDC, 40_000_000, 0),
        (SOL, USDT, 18_000_000, 200),
        (RAY, SOL, 12_000_000, 0),
        (RAY, USDC, 15_000_000, -300),
        (RAY, USDT, 3_000_000, 500),
        (JUP, SOL, 8_000_000, 400),
        (JUP, USDC, 10_000_000, 0),
        (BONK, SOL, 9_000_000, -200),
        (BONK, USDC, 6_000_000, 300),
        (USDC, USDT, 30_000_000, 0),
    ],
    "meteora": [
        (SOL, USDC, 35_000_000, 600),
        (SOL, USDT, 20_000_000, -400),
        (RAY, SOL, 5_000_000, 700),
        (RAY, USDC, 6_000_000, -900),
        (JUP, SOL, 11_000_000, -500),
        (JUP, USDC, 14_000_000, 500),
        (JUP, USDT, 4_000_000, 0),
        (BONK, SOL, 10_000_000, 800),
        (BONK, USDC, 7_000_000, -600),
        (USDC, USDT, 45_000_000, 100),
    ],
}


def opening_pools() -> list[Pool]:
    """Every pool of every venue as the chain begins; addresses are always the same."""
    return [_opening_pool(venue, *row) for venue, listings in _OPENING.items() for row in listings]


def _opening_pool(venue: str, a: Token, b: Token, dollars: int, premium_ppm: int) -> Pool:
    reference_a, reference_b = a.worth(dollars), b.worth(dollars)
    return Pool(
        address=str(Pubkey(sha256(f"{venue}/{a.mint}/{b.mint}".encode()).digest())),
        venue=venue,
        mint_a=a.mint,
        mint_b=b.mint,
        fee_rule=FEE_RULES[venue],
        reference_a=reference_a,
        reference_b=reference_b,
        reserve_a=reference_a,
        reserve_b=reference_b,
    ).moved(premium_ppm)


def drift(pool: Pool, step: int, limit_ppm: int) -> int:
    """How far a price moves in one slot: a random step that leans towards the long-run price."""
    if limit_ppm == 0:
        return 0
    return max(-limit_ppm, min(limit_ppm, step - pool.deviation_ppm() // PULL))
