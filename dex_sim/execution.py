"""What transactions do to balances and pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from dex_sim.pool import Pool, Unfillable
from dex_sim.transaction import Failure, Reason, Refused, Swap, Transaction

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


@dataclass(frozen=True, slots=True)
class Change:
    """How one token account changed, in base units."""

    owner: str
    mint: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Fill:
    """A swap that happened, and what it really yielded."""

    swap: Swap
    amount_out: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did when it landed.

    `changes`, `fills` and the fee are differences: taking them back restores what was.
    """

    signature: str
    wallet: str
    failure: Failure | None
    fee_lamports: int
    memo: str
    changes: tuple[Change, ...]
    fills: tuple[Fill, ...]


# What a swap really yields of what the curve gives for it.
Yield = Callable[[Swap, int], int]


def land(transaction: Transaction, accounts: Accounts, yields: Yield) -> Outcome:
    """Execute a transaction whose fee is due whatever happens; all of its swaps happen or none.

    Raises Refused when the wallet cannot pay the fee: then nothing happens at all.
    """
    if accounts.balance(transaction.message.wallet, LAMPORTS) < transaction.message.fee_lamports:
        raise Refused(Reason.INSUFFICIENT_FUNDS, "too few lamports for the network fee")
    draft = accounts.draft()
    failure = transaction.message.failure
    fills: tuple[Fill, ...] = ()
    if failure is None:
        try:
            fills = tuple([_swap(swap, draft, yields) for swap in transaction.message.swaps])
        except Refused as refused:
            failure, draft = refused.failure, accounts.draft()
    changes = tuple(
        Change(owner, mint, accounts.balance(owner, mint), after)
        for (owner, mint), after in draft.balances.items()
    )
    draft.add(transaction.message.wallet, LAMPORTS, -transaction.message.fee_lamports)
    accounts.adopt(draft)
    return Outcome(
        signature=transaction.signature,
        wallet=transaction.message.wallet,
        failure=failure,
        fee_lamports=transaction.message.fee_lamports,
        memo=transaction.message.memo,
        changes=changes,
        fills=fills,
    )


def take_back(outcome: Outcome, accounts: Accounts) -> bool:
    """Restore what was before an outcome, its fee included; later ones may stand.

    False, with the accounts spoilt, when it cannot be: what it gave is spent.
    """
    changes = [(c.owner, c.mint, c.before - c.after) for c in outcome.changes]
    for owner, mint, amount in (*changes, (outcome.wallet, LAMPORTS, outcome.fee_lamports)):
        if accounts.balance(owner, mint) + amount < 0:
            return False
        accounts.add(owner, mint, amount)
    for fill in outcome.fills:
        pool = accounts.pool(fill.swap.pool)
        assert pool is not None, "a swap that happened has its pool"
        before = pool.after(fill.swap.mint_in, -fill.swap.amount_in, -fill.amount_out)
        if not before.stands:
            return False
        accounts.pools[pool.address] = before
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


def _swap(swap: Swap, accounts: Accounts, yields: Yield) -> Fill:
    pool = accounts.pool(swap.pool)
    if pool is None or pool.venue != swap.venue or not pool.trades(swap.mint_in, swap.mint_out):
        raise Refused(Reason.PROGRAM_FAILED, "no such pool")
    if accounts.balance(swap.wallet, swap.mint_in) < swap.amount_in:
        raise Refused(Reason.INSUFFICIENT_FUNDS, "the token account holds too little")
    try:
        quoted = pool.offer(swap.mint_in, swap.amount_in).amount_out
    except Unfillable as unfillable:
        raise Refused(Reason.PROGRAM_FAILED, str(unfillable)) from None
    amount_out = yields(swap, quoted)
    if amount_out < max(swap.min_amount_out, 1):
        raise Refused(
            Reason.SLIPPAGE_EXCEEDED, f"yields {amount_out}, the floor is {swap.min_amount_out}"
        )
    after = pool.after(swap.mint_in, swap.amount_in, amount_out)
    if not after.stands:
        raise Refused(Reason.PROGRAM_FAILED, "the pool holds too little")
    accounts.add(swap.wallet, swap.mint_in, -swap.amount_in)
    accounts.add(swap.wallet, swap.mint_out, amount_out)
    accounts.pools[swap.pool] = after
    return Fill(swap, amount_out)
