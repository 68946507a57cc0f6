"""The accounts of Meteora's swaps, in their programs' order."""

from __future__ import annotations

from typing import Final

from solders.instruction import AccountMeta
from solders.pubkey import Pubkey

from engine.instructions.terms import Parties, read, sign, write
from engine.programs import (
    MEMO_PROGRAM,
    METEORA_DAMM_V2,
    METEORA_DLMM,
    TOKEN_PROGRAM,
    derived,
    token_account,
)

DLMM_EVENT_AUTHORITY: Final = derived(METEORA_DLMM, b"__event_authority")
DAMM_V2_POOL_AUTHORITY: Final = derived(METEORA_DAMM_V2, b"pool_authority")
DAMM_V2_EVENT_AUTHORITY: Final = derived(METEORA_DAMM_V2, b"__event_authority")


def bin_array(pool: Pubkey, index: int) -> Pubkey:
    """The account of the bins of this array; ValueError outside i64."""
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"bin array {index} is not an i64")
    return derived(
        METEORA_DLMM, b"bin_array", bytes(pool), index.to_bytes(8, "little", signed=True)
    )


def dlmm_accounts(parties: Parties) -> tuple[AccountMeta, ...]:
    """Of swap2."""
    pool, wallet = parties.pool, parties.wallet
    x, y = parties.mints
    return (
        write(pool),
        read(METEORA_DLMM),  # in place of a bin array bitmap extension: there is none
        write(derived(METEORA_DLMM, bytes(pool), bytes(x))),
        write(derived(METEORA_DLMM, bytes(pool), bytes(y))),
        write(token_account(wallet, parties.mint_in)),
        write(token_account(wallet, parties.mint_out)),
        read(x),
        read(y),
        write(derived(METEORA_DLMM, b"oracle", bytes(pool))),
        read(METEORA_DLMM),  # in place of a host fee account: nobody takes one
        sign(wallet),
        read(TOKEN_PROGRAM),
        read(TOKEN_PROGRAM),
        read(MEMO_PROGRAM),
        read(DLMM_EVENT_AUTHORITY),
        read(METEORA_DLMM),
        *[write(bin_array(pool, index)) for index in parties.arrays],
    )


def damm_v2_accounts(parties: Parties) -> tuple[AccountMeta, ...]:
    """Of swap2."""
    pool, wallet = parties.pool, parties.wallet
    a, b = parties.mints
    return (
        read(DAMM_V2_POOL_AUTHORITY),
        write(pool),
        write(token_account(wallet, parties.mint_in)),
        write(token_account(wallet, parties.mint_out)),
        write(derived(METEORA_DAMM_V2, b"token_vault", bytes(a), bytes(pool))),
        write(derived(METEORA_DAMM_V2, b"token_vault", bytes(b), bytes(pool))),
        read(a),
        read(b),
        sign(wallet),
        read(TOKEN_PROGRAM),
        read(TOKEN_PROGRAM),
        read(METEORA_DAMM_V2),  # in place of a referral account: nobody takes one
        read(DAMM_V2_EVENT_AUTHORITY),
        read(METEORA_DAMM_V2),
    )
