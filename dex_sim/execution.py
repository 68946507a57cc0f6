"""What transactions do to balances and pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from solders.pubkey import Pubkey

from dex_sim.pool import Pool, Unfillable
from dex_sim.program import further_units, parties_called, require_arrays, swap_of
from dex_sim.transaction import Failure, Message, Reason, Refused, Swap, SwapCall, Transaction

# Everybody whom only the simulator knows, as one owner: the other side of what is not a swap.
CROWD: Final = str(Pubkey(sha256(b"crowd").digest()))
# Lamports for network fees are kept beside the tokens, under a mint that cannot be.
LAMPORTS: Final = ""


class Accounts:
    """Balances by (owner, mint) and pools by address.

    A draft reads through to what it was drafted from and keeps its own changes, until it is
    adopted or dropped.
    """

    def __init__(self, base: Accounts | None = None) -> None:
        self._base = base
        self.balances: dict[tuple[str, str], int] = {}
        self.pools: dict[str, Pool] = {}

    def balance(self, owner: str, mint: str) -> int:
        """What an owner holds; nothing unless told otherwise."""
        account, accounts = (owner, mint), self
        while (found := accounts.balances.get(account)) is None:
            if accounts._base is None:
                return 0
            accounts = accounts._base
        return found

    def pool(self, address: str) -> Pool | None:
        """The pool at an address, if there is one."""
        return self.pools.get(address) or (self._base.pool(address) if self._base else None)

    def add(self, owner: str, mint: str, amount: int) -> None:
        """Add to a balance; a negative amount takes away, never below zero."""
        balance = self.balance(owner, mint) + amount
        assert balance >= 0, "a balance never falls below zero"
        self.balances[owner, mint] = balance

    def draft(self) -> Accounts:
        """A draft of these accounts."""
        return Accounts(self)

    def adopt(self, draft: Accounts) -> None:
        """Take over a draft's changes."""
        self.balances.update(draft.balances)
        self.pools.update(draft.pools)


class Change(NamedTuple):
    """How one token account changed, in base units."""

    owner: str
    mint: str
    before: int
    after: int


class Fill(NamedTuple):
    """A swap that happened, and what it really yielded."""

    swap: Swap
    amount_out: int


class Outcome(NamedTuple):
    """What a transaction did when it landed.

    `changes` are those of the wallets; with the fee they are what can be taken back.
    """

    signature: str
    wallet: str
    failure: Failure | None
    fee_lamports: int
    memo: str
    changes: tuple[Change, ...]
    fills: tuple[Fill, ...]


class Meter:
    """The compute units that a transaction has left."""

    def __init__(self, message: Message) -> None:
        self._limit = message.compute_unit_limit
        self._spent = message.compute_units

    def spend(self, units: int) -> None:
        """Take so many; Refused when they are too many."""
        self._spent += units
        if self._spent > self._limit:
            raise Refused(
                Reason.PROGRAM_FAILED,
                f"needs {self._spent} compute units, its limit is {self._limit}",
            )


# What a swap really yields of what the pool pays for it; the crowd has the difference.
Yield = Callable[[Swap, int], int]


def land(transaction: Transaction, accounts: Accounts, now: int, yields: Yield) -> Outcome:
    """Execute a transaction whose fee is due whatever happens; all of its swaps happen or none.

    `now` is the chain's clock in unix seconds. Raises Refused when the wallet cannot pay the fee:
    then nothing happens at all.
    """
    message = transaction.message
    require_fee(message, accounts)
    draft = accounts.draft()
    failure = None
    fills: tuple[Fill, ...] = ()
    try:
        fills = execute(message, draft, now, yields)
    except Refused as refused:
        failure, draft = refused.failure, accounts.draft()
    changes = tuple(
        [
            Change(owner, mint, accounts.balance(owner, mint), after)
            for (owner, mint), after in draft.balances.items()
            if owner != CROWD
        ]
    )
    draft.add(message.wallet, LAMPORTS, -message.fee_lamports)
    accounts.adopt(draft)
    return Outcome(
        signature=transaction.signature,
        wallet=message.wallet,
        failure=failure,
        fee_lamports=message.fee_lamports,
        memo=message.memo,
        changes=changes,
        fills=fills,
    )


def require_fee(message: Message, accounts: Accounts) -> None:
    """Refuse a message whose wallet cannot pay the network fee."""
    if accounts.balance(message.wallet, LAMPORTS) < message.fee_lamports:
        raise Refused(Reason.INSUFFICIENT_FUNDS, "too few lamports for the network fee")


def execute(message: Message, draft: Accounts, now: int, yields: Yield) -> tuple[Fill, ...]:
    """Do what the message asks for, its fee aside; Refused, with the draft spoilt, if it fails."""
    if message.failure is not None:
        raise Refused(*message.failure)
    meter = Meter(message)
    return tuple([_swap(call, draft, now, yields, meter) for call in message.swaps])


def take_back(outcome: Outcome, accounts: Accounts) -> bool:
    """Restore what the wallets held before an outcome, its fee included; later ones may stand.

    The pools stay as they are: somebody of the crowd swapped in the wallet's place. False, with
    the accounts spoilt, when it cannot be: what it gave is spent.
    """
    for change in outcome.changes:
        back = change.before - change.after
        if accounts.balance(change.owner, change.mint) + back < 0:
            return False
        accounts.add(change.owner, change.mint, back)
        accounts.add(CROWD, change.mint, -back)
    accounts.add(outcome.wallet, LAMPORTS, outcome.fee_lamports)
    return True


def undone(outcomes: Iterable[Outcome], wallet: str) -> dict[str, int]:
    """What to add to a wallet's balances, by mint, to see them as before these outcomes."""
    difference = {LAMPORTS: 0}
    for outcome in outcomes:
        if outcome.wallet == wallet:
            difference[LAMPORTS] += outcome.fee_lamports
        for change in outcome.changes:
            if change.owner == wallet:
                back = change.before - change.after
                difference[change.mint] = difference.get(change.mint, 0) + back
    return difference


def _swap(call: SwapCall, accounts: Accounts, now: int, yields: Yield, meter: Meter) -> Fill:
    pool = accounts.pool(call.pool)
    parties = parties_called(call, pool)
    assert pool is not None
    swap = swap_of(call, pool.facts, parties)
    if accounts.balance(swap.wallet, swap.mint_in) < swap.amount_in:
        raise Refused(Reason.INSUFFICIENT_FUNDS, "the token account holds too little")
    try:
        offer = pool.offer(swap.mint_in, swap.amount_in, now)
    except Unfillable as unfillable:
        raise Refused(Reason.PROGRAM_FAILED, str(unfillable)) from None
    require_arrays(parties, pool, offer.pool)
    meter.spend(further_units(pool, offer.pool))
    amount_out = yields(swap, offer.amount_out)
    if amount_out < max(swap.min_amount_out, 1):
        raise Refused(
            Reason.SLIPPAGE_EXCEEDED, f"yields {amount_out}, the floor is {swap.min_amount_out}"
        )
    accounts.add(swap.wallet, swap.mint_in, -swap.amount_in)
    accounts.add(swap.wallet, swap.mint_out, amount_out)
    if amount_out != offer.amount_out:
        accounts.add(CROWD, swap.mint_out, offer.amount_out - amount_out)
    accounts.pools[swap.pool] = offer.pool
    return Fill(swap, amount_out)
