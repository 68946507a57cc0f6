"""The tokens and pools that exist."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from solders.pubkey import Pubkey

from dex_sim import liquidity
from dex_sim.liquidity import CLMM_TIERS, CPMM_TIERS, Liquidity
from dex_sim.pool import Facts, Pool
from engine import mints
from engine.fractions import PPM
from engine.instructions.raydium import amm_v4_pool


@dataclass(frozen=True, slots=True)
class Token:
    """A token, with its price in millionths of a dollar when the market opens.

    `restless_percent` is how much of the market's drift its price follows.
    """

    mint: str
    decimals: int
    micro_dollars: int
    restless_percent: int = 100

    def worth(self, dollars: int) -> int:
        """Base units worth that many dollars."""
        unit: int = 10**self.decimals
        return dollars * PPM * unit // self.micro_dollars


SOL: Final = Token(mints.SOL, 9, 150_000_000)
USDC: Final = Token(mints.USDC, 6, 1_000_000, 0)
USDT: Final = Token(mints.USDT, 6, 999_800, 5)
RAY: Final = Token(mints.RAY, 6, 2_500_000)
JUP: Final = Token(mints.JUP, 6, 800_000)
BONK: Final = Token(mints.BONK, 5, 20)

TOKENS: Final = {token.mint: token for token in (SOL, USDC, USDT, RAY, JUP, BONK)}
_DOLLARS: Final = (USDC, USDT)

# Pair, then dollars on each side at the venue and how far it opens from the tokens' prices.
_LISTINGS: Final[dict[str, list[tuple[Token, Token, int, int]]]] = {
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

# A pair's pools at a venue with how much of its dollars each has; a small pair has fewer. The
# number is the amm_config of raydium's, the bin step of a meteora_dlmm, the fee of a
# meteora_damm_v2 in parts per million; 0: the one that suits the pair.
_Layout = tuple[tuple[str, int, int], ...]
_SMALL_DOLLARS: Final = 9_000_000
_LARGE: Final[dict[str, _Layout]] = {
    "raydium": (
        ("raydium_cpmm", 0, 35),
        ("raydium_cpmm", 5, 15),
        ("raydium_amm_v4", 0, 30),
        ("raydium_clmm", 0, 20),
    ),
    "meteora": (
        ("meteora_dlmm", 0, 15),
        ("meteora_dlmm", 25, 25),
        ("meteora_damm_v2", 2_000, 60),
    ),
}
_SMALL: Final[dict[str, _Layout]] = {
    "raydium": (("raydium_cpmm", 0, 60), ("raydium_clmm", 0, 40)),
    "meteora": (("meteora_dlmm", 25, 40), ("meteora_damm_v2", 2_000, 60)),
}


def opening_pools() -> list[Pool]:
    """Every pool of every venue as the chain begins; addresses are always the same."""
    return [
        _opening_pool(venue, listing, kind, number, percent)
        for venue, listings in _LISTINGS.items()
        for listing in listings
        for kind, number, percent in (_SMALL if listing[2] < _SMALL_DOLLARS else _LARGE)[venue]
    ]


def _opening_pool(
    venue: str, listing: tuple[Token, Token, int, int], kind: str, number: int, percent: int
) -> Pool:
    one, other, dollars, premium_ppm = listing
    # As the programs have them: the mints' bytes are in order.
    a, b = sorted((one, other), key=lambda token: bytes(Pubkey.from_string(token.mint)))
    premium = premium_ppm if a is one else -premium_ppm
    amount_a = a.worth(dollars * percent // 100)
    amount_b = b.worth(dollars * percent // 100) * (PPM + premium) // PPM
    number = number or _suiting(kind, one, other)
    seed = f"{venue}/{kind}/{number}/{a.mint}/{b.mint}".encode()
    address, amm_market = Pubkey(sha256(seed).digest()), ""
    if kind == "raydium_amm_v4":
        amm_market, address = str(address), amm_v4_pool(address)
    facts = Facts(
        address=str(address),
        venue=venue,
        kind=kind,
        mint_a=a.mint,
        mint_b=b.mint,
        market=amm_market,
        config=number if kind in ("raydium_cpmm", "raydium_clmm") else 0,
    )
    return Pool(facts, *_liquidity(kind, number, amount_a, amount_b))


def _suiting(kind: str, one: Token, other: Token) -> int:
    """The clmm tier or the bin step for a pair: the calmer, the finer."""
    calm = (one in _DOLLARS) + (other in _DOLLARS)
    if kind == "raydium_clmm":
        return 4 if calm == 2 else 2 if one is SOL and calm else 1
    if kind == "meteora_dlmm":
        return 1 if calm == 2 else 10
    return 0


def _liquidity(kind: str, number: int, amount_a: int, amount_b: int) -> Liquidity:
    if kind == "raydium_cpmm":
        return liquidity.constant_product(amount_a, amount_b, CPMM_TIERS[number])
    if kind == "raydium_amm_v4":
        return liquidity.without_order_book(amount_a, amount_b)
    if kind == "raydium_clmm":
        return liquidity.in_ticks(amount_a, amount_b, *CLMM_TIERS[number])
    if kind == "meteora_dlmm":
        return liquidity.in_bins(amount_a, amount_b, number)
    return liquidity.in_one_range(amount_a, amount_b, number)
