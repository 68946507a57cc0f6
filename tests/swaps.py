"""Swap terms for every kind of pool, one call each."""

from __future__ import annotations

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from engine.instructions.raydium import amm_v4_pool
from engine.instructions.swap import LAYOUTS
from engine.instructions.terms import Parties, SwapTerms
from engine.route import Hints
from tests import builders

KINDS = tuple(LAYOUTS)
WITH_ARRAYS = ("raydium_clmm", "meteora_dlmm")
WALLET = Keypair.from_seed(bytes(range(32)))


def address(number: int) -> Pubkey:
    """An address that is nothing else's."""
    return Keypair.from_seed(number.to_bytes(32, "big")).pubkey()


def pool_of(kind: str, number: int = 7) -> tuple[Pubkey, Pubkey | None]:
    """Address and market of a pool of this kind."""
    market = address(number)
    return (amm_v4_pool(market), market) if kind == "raydium_amm_v4" else (address(number), None)


def parties(
    kind: str = "raydium_cpmm",
    number: int = 7,
    mint_in: str = builders.SOL,
    mint_out: str = builders.USDC,
    wallet: Pubkey | None = None,
) -> Parties:
    """A swap through the pool of that number, with as many hints as the kind has."""
    pool, market = pool_of(kind, number)
    return Parties(
        kind=kind,
        pool=pool,
        mint_in=Pubkey.from_string(mint_in),
        mint_out=Pubkey.from_string(mint_out),
        wallet=wallet or WALLET.pubkey(),
        arrays=(0, -1, -2) if kind in WITH_ARRAYS else (),
        market=market,
    )


def hints(parties: Parties) -> Hints:
    """What tells how the accounts of a swap between these derive."""
    market = None if parties.market is None else str(parties.market)
    return Hints(parties.arrays, market, parties.config, parties.zero_for_one)


def terms(kind: str = "raydium_cpmm", amount_in: int = 1000, floor: int = 990) -> SwapTerms:
    """SOL for USDC."""
    return SwapTerms(parties(kind), amount_in, floor)
