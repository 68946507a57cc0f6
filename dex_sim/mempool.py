"""Transactions on their way into a block, and what befalls them there."""

from __future__ import annotations

from typing import NamedTuple

from dex_sim.effects import Site
from dex_sim.faults import Faults, Occasion, subjects_of_memo
from dex_sim.transaction import Transaction


class Pending(NamedTuple):
    """A transaction that waits: from which height it may land, below its floor if it slips.

    One that repeats goes on waiting after it landed, until its blockhash is too old.
    """

    transaction: Transaction
    from_height: int = 0
    slips: bool = False
    repeats: bool = False


def occasion_of(transaction: Transaction) -> Occasion:
    """A transaction as something that may go wrong."""
    return Occasion(
        venues=[swap.venue for swap in transaction.message.swaps],
        subjects=lambda: subjects_of_memo(transaction.message.memo),
    )


def taken(
    transaction: Transaction, faults: Faults, next_height: int, last_height: int
) -> Pending | None:
    """How a transaction waits; None when it is lost. `last_height` is the last it may land in."""
    pending, lost = Pending(transaction), False
    occasion = occasion_of(transaction)
    for injected in faults.at(Site.LANDING):
        if injected.effect == "slip" and not _can_slip(transaction):
            continue
        if not injected.hits(occasion):
            continue
        if injected.effect == "drop":
            lost = True
        elif injected.effect == "hold":
            blocks = injected.fault.hold.blocks
            wanted = next_height + blocks if blocks else last_height
            pending = pending._replace(from_height=min(wanted, last_height))
        elif injected.effect == "slip":
            pending = pending._replace(slips=True)
        else:
            pending = pending._replace(repeats=True)
    return None if lost else pending


def _can_slip(transaction: Transaction) -> bool:
    return any(swap.min_amount_out > 1 for swap in transaction.message.swaps)
