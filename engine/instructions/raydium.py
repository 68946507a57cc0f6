"""The accounts of Raydium's swaps, in their programs' order."""

from __future__ import annotations

from typing import Final

from solders.instruction import AccountMeta
from solders.pubkey import Pubkey

from engine.instructions.terms import Parties, read, sign, write
from engine.programs import (
    MEMO_PROGRAM,
    RAYDIUM_AMM_V4,
    RAYDIUM_CLMM,
    RAYDIUM_CPMM,
    TOKEN_2022_PROGRAM,
    TOKEN_PROGRAM,
    derived,
    token_account,
)

CPMM_AUTHORITY: Final = derived(RAYDIUM_CPMM, b"vault_and_lp_mint_auth_seed")
AMM_V4_AUTHORITY: Final = derived(RAYDIUM_AMM_V4, b"amm authority")
MAX_CONFIG: Final = 2**16 - 1


def amm_config(program: Pubkey, index: int) -> Pubkey:
    """The account of a fee tier of the cp-swap or clmm program; ValueError outside u16."""
    if not 0 <= index <= MAX_CONFIG:
        raise ValueError(f"config {index} is not in 0 … {MAX_CONFIG}")
    return derived(program, b"amm_config", index.to_bytes(2, "big"))


def amm_v4_pool(market: Pubkey) -> Pubkey:
    """The raydium_amm_v4 pool of a market."""
    return _of_market(market, b"amm_associated_seed")


def tick_array(pool: Pubkey, start: int) -> Pubkey:
    """The account of the ticks from `start` on; ValueError outside i32."""
    if not -(2**31) <= start < 2**31:
        raise ValueError(f"tick {start} is not an i32")
    return derived(RAYDIUM_CLMM, b"tick_array", bytes(pool), start.to_bytes(4, "big", signed=True))


def cpmm_accounts(parties: Parties) -> tuple[AccountMeta, ...]:
    """Of swap_base_input."""
    pool, wallet = parties.pool, parties.wallet
    return (
        sign(wallet),
        read(CPMM_AUTHORITY),
        read(amm_config(RAYDIUM_CPMM, parties.config)),
        write(pool),
        write(token_account(wallet, parties.mint_in)),
        write(token_account(wallet, parties.mint_out)),
        write(derived(RAYDIUM_CPMM, b"pool_vault", bytes(pool), bytes(parties.mint_in))),
        write(derived(RAYDIUM_CPMM, b"pool_vault", bytes(pool), bytes(parties.mint_out))),
        read(TOKEN_PROGRAM),
        read(TOKEN_PROGRAM),
        read(parties.mint_in),
        read(parties.mint_out),
        write(derived(RAYDIUM_CPMM, b"observation", bytes(pool))),
    )


def amm_v4_accounts(parties: Parties) -> tuple[AccountMeta, ...]:
    """Of swap_base_in_v2; ValueError unless the pool is its market's."""
    market, wallet = parties.market, parties.wallet
    if market is None or amm_v4_pool(market) != parties.pool:
        raise ValueError(f"the pool {parties.pool} is not that of the market {market}")
    return (
        read(TOKEN_PROGRAM),
        write(parties.pool),
        read(AMM_V4_AUTHORITY),
        write(_of_market(market, b"coin_vault_associated_seed")),
        write(_of_market(market, b"pc_vault_associated_seed")),
        write(token_account(wallet, parties.mint_in)),
        write(token_account(wallet, parties.mint_out)),
        sign(wallet),
    )


def clmm_accounts(parties: Parties) -> tuple[AccountMeta, ...]:
    """Of swap_v2."""
    pool, wallet = parties.pool, parties.wallet
    return (
        sign(wallet),
        read(amm_config(RAYDIUM_CLMM, parties.config)),
        write(pool),
        write(token_account(wallet, parties.mint_in)),
        write(token_account(wallet, parties.mint_out)),
        write(derived(RAYDIUM_CLMM, b"pool_vault", bytes(pool), bytes(parties.mint_in))),
        write(derived(RAYDIUM_CLMM, b"pool_vault", bytes(pool), bytes(parties.mint_out))),
        write(derived(RAYDIUM_CLMM, b"observation", bytes(pool))),
        read(TOKEN_PROGRAM),
        read(TOKEN_2022_PROGRAM),
        read(MEMO_PROGRAM),
        read(parties.mint_in),
        read(parties.mint_out),
        read(derived(RAYDIUM_CLMM, b"pool_tick_array_bitmap_extension", bytes(pool))),
        *[write(tick_array(pool, start)) for start in parties.arrays],
    )


def _of_market(market: Pubkey, what: bytes) -> Pubkey:
    return derived(RAYDIUM_AMM_V4, bytes(RAYDIUM_AMM_V4), bytes(market), what)
