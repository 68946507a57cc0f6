"""What a pool's program asks of the instruction that calls it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from solders.instruction import AccountMeta
from solders.pubkey import Pubkey

from dex_sim.pool import Facts, Pool, Unfillable
from dex_sim.transaction import Reason, Refused, Swap, SwapCall
from engine.instructions.arrays import ARRAYS_OF_KIND, named_arrays, needed_arrays
from engine.instructions.swap import LAYOUTS, accounts_of
from engine.instructions.terms import Parties
from engine.programs import token_account

# Compute units beyond those of a swap that stays where it is: for each bin after the first, as
# measured on the program, and for each tick crossed.
BIN_UNITS: Final = 5_200
TICK_UNITS: Final = 20_000


@lru_cache(maxsize=1024)
def parties_of(
    facts: Facts, wallet: Pubkey, zero_for_one: bool, arrays: tuple[int, ...] = ()
) -> Parties:
    """The parties of a swap in the pool of these facts, which pays its first token or second."""
    a, b = Pubkey.from_string(facts.mint_a), Pubkey.from_string(facts.mint_b)
    return Parties(
        kind=facts.kind,
        pool=Pubkey.from_string(facts.address),
        mint_in=a if zero_for_one else b,
        mint_out=b if zero_for_one else a,
        wallet=wallet,
        arrays=arrays,
        market=Pubkey.from_string(facts.market) if facts.market else None,
        config=facts.config,
        zero_for_one=zero_for_one,
    )


def arrays_to_name(pool: Pool, mint_in: str, amount_in: int, now: int) -> tuple[int, ...]:
    """The arrays to name for a swap of this amount as the pool stands; none where it has none."""
    if pool.kind not in ARRAYS_OF_KIND:
        return ()
    try:
        after = pool.offer(mint_in, amount_in, now).pool.state
    except Unfillable:
        after = None
    return named_arrays(pool.kind, pool.state, after, mint_in == pool.mint_a)


def parties_called(call: SwapCall, pool: Pool | None) -> Parties:
    """Between whom a call asks for a swap, and through which arrays, in the pool it names.

    Its direction shows in the token account that pays. Raises Refused unless all accounts are
    those that the pool's facts lead to, with no less privileges.
    """
    if pool is None or pool.kind != call.kind:
        raise _failed("no such pool")
    return _agreed(call.accounts, pool.facts, pool.arrays)


def swap_of(call: SwapCall, facts: Facts, parties: Parties) -> Swap:
    """The swap that a call asks for."""
    a, b = facts.mint_a, facts.mint_b
    mint_in, mint_out = (a, b) if parties.zero_for_one else (b, a)
    return Swap(
        venue=facts.venue,
        pool=facts.address,
        wallet=str(parties.wallet),
        mint_in=mint_in,
        mint_out=mint_out,
        amount_in=call.amount_in,
        min_amount_out=call.min_amount_out,
    )


def require_arrays(parties: Parties, before: Pool, after: Pool) -> None:
    """Refuse a swap that goes through an array which its call does not name."""
    needed = needed_arrays(
        parties.kind, before.arrays, before.state, after.state, parties.zero_for_one
    )
    missing = set(needed).difference(parties.arrays)
    if missing:
        raise _failed(f"the swap goes through arrays that it does not name: {sorted(missing)}")


def further_units(before: Pool, after: Pool) -> int:
    """The compute units that a swap takes because it did not stay where it was."""
    if before.kind == "meteora_dlmm":
        low, high = sorted((before.state.active_id, after.state.active_id))
        return BIN_UNITS * max(0, _count(before.state.bins, low, high) - 1)
    if before.kind == "raydium_clmm":
        low, high = sorted((before.state.tick_current, after.state.tick_current))
        return TICK_UNITS * _count(before.state.ticks, low + 1, high)
    return 0


def _count(rows: Sequence[tuple[int, ...]], first: int, last: int) -> int:
    """How many of the bins or ticks there are from the first to the last."""
    return bisect_left(rows, (last + 1,)) - bisect_left(rows, (first,))


# A wallet's swaps in a pool name the same accounts, and those are dear to compare one by one.
@lru_cache(maxsize=1024)
def _agreed(accounts: tuple[AccountMeta, ...], facts: Facts, existing: tuple[int, ...]) -> Parties:
    layout = LAYOUTS[facts.kind]
    wallet, pays = accounts[layout.wallet].pubkey, accounts[layout.pays].pubkey
    zero_for_one = pays == token_account(wallet, Pubkey.from_string(facts.mint_a))
    named = _arrays_named(accounts[layout.fixed :], facts, existing)
    parties = parties_of(facts, wallet, zero_for_one, named)
    for place, (account, wanted) in enumerate(zip(accounts, accounts_of(parties), strict=True)):
        if not _serves(account, wanted):
            raise _failed(f"account {place} is not the one the pool asks for")
    return parties


def _arrays_named(
    accounts: tuple[AccountMeta, ...], facts: Facts, existing: tuple[int, ...]
) -> tuple[int, ...]:
    if not accounts:
        return ()
    arrays = ARRAYS_OF_KIND.get(facts.kind)
    if arrays is None:
        raise _failed("the swap names more accounts than its program takes")
    pool = Pubkey.from_string(facts.address)
    known = {arrays.address(pool, each): each for each in existing}
    try:
        return tuple([known[account.pubkey] for account in accounts])
    except KeyError:
        raise _failed("the swap names an array that the pool does not have") from None


def _serves(account: AccountMeta, wanted: AccountMeta) -> bool:
    """Whether it is this account, with its privileges; in a whole message it may have more."""
    return (
        account.pubkey == wanted.pubkey
        and account.is_signer >= wanted.is_signer
        and account.is_writable >= wanted.is_writable
    )


def _failed(why: str) -> Refused:
    return Refused(Reason.PROGRAM_FAILED, why)
