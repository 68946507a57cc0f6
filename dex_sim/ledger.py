"""What the chain keeps for ever, written once a block."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dex_sim.execution import Change, Fill, Outcome
from dex_sim.history import Block, Landed, LandedFill
from dex_sim.pool import Pool
from dex_sim.transaction import Failure, Reason, Swap

LAST_SWAP_NUMBER: Final = """
SELECT max(number) FROM (SELECT number FROM swaps UNION ALL SELECT number FROM swaps_taken_back)
"""
TAKE_BACK_SWAPS: Final = """
INSERT INTO swaps_taken_back SELECT number FROM swaps WHERE signature = ?
"""
REWRITE_TRANSACTION: Final = """
UPDATE transactions SET reason = ?, message = ?, changes = ? WHERE signature = ?
"""
ADD_TRANSACTION: Final = "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
ADD_SWAP: Final = "INSERT INTO swaps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SET_BALANCE: Final = "INSERT OR REPLACE INTO balances VALUES (?, ?, ?)"
SET_POOL: Final = "INSERT OR REPLACE INTO pools VALUES (?, ?, ?, ?)"
TRANSACTION_COLUMNS: Final = "slot, signature, wallet, reason, message, fee_lamports, memo, changes"
SWAP_COLUMNS: Final = (
    "number, signature, slot, memo, amount_out, amount_in, min_amount_out, "
    "venue, pool, wallet, mint_in, mint_out"
)
WALLET_PAGE: Final = f"""
SELECT {TRANSACTION_COLUMNS} FROM transactions
 WHERE wallet = :wallet AND slot BETWEEN :min_slot AND :max_slot
   AND (:before = '' OR number < (SELECT number FROM transactions WHERE signature = :before))
 ORDER BY number DESC LIMIT :limit
"""


class Ledger:
    """Everything that became visible and still holds.

    Writes are durable against the death of the process.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.transaction_count = self._number("SELECT max(number) FROM transactions")
        self._swap_count = self._number(LAST_SWAP_NUMBER)

    def append(
        self,
        block: Block,
        outcomes: Sequence[Outcome],
        balances: Mapping[tuple[str, str], int],
        pools: Mapping[str, Pool],
        *,
        keep_blocks: int,
    ) -> None:
        """Write a block with all that it did; of blocks, only the last `keep_blocks` are kept."""
        transactions = [
            (
                number,
                outcome.signature,
                outcome.wallet,
                block.slot,
                outcome.failure and outcome.failure.reason,
                outcome.failure and outcome.failure.message,
                str(outcome.fee_lamports),
                outcome.memo,
                _changes_to_text(outcome.changes),
            )
            for number, outcome in enumerate(outcomes, self.transaction_count + 1)
        ]
        swaps = self._swap_rows(block.slot, outcomes)
        with self._db as db:
            db.execute("DELETE FROM blocks WHERE height <= ?", (block.height - keep_blocks,))
            db.execute(
                "INSERT INTO blocks VALUES (?, ?, ?)", (block.height, block.slot, block.blockhash)
            )
            db.executemany(ADD_TRANSACTION, transactions)
            db.executemany(ADD_SWAP, swaps)
            db.executemany(SET_BALANCE, _balance_rows(balances))
            db.executemany(SET_POOL, _pool_rows(pools))
        self.transaction_count += len(transactions)
        self._swap_count += len(swaps)

    def rewrite(
        self,
        slot: int,
        signature: str,
        outcome: Outcome | None,
        balances: Mapping[tuple[str, str], int],
        pools: Mapping[str, Pool],
    ) -> None:
        """Put another outcome in the place of one that landed, or none; its fee stays."""
        swaps = self._swap_rows(slot, [outcome] if outcome else [])
        with self._db as db:
            db.execute(TAKE_BACK_SWAPS, (signature,))
            db.execute("DELETE FROM swaps WHERE signature = ?", (signature,))
            if outcome is None:
                db.execute("DELETE FROM transactions WHERE signature = ?", (signature,))
            else:
                reason = outcome.failure and outcome.failure.reason
                message = outcome.failure and outcome.failure.message
                changes = _changes_to_text(outcome.changes)
                db.execute(REWRITE_TRANSACTION, (reason, message, changes, signature))
            db.executemany(ADD_SWAP, swaps)
            db.executemany(SET_BALANCE, _balance_rows(balances))
            db.executemany(SET_POOL, _pool_rows(pools))
        self._swap_count += len(swaps)

    def set_balances(self, balances: Mapping[tuple[str, str], int]) -> None:
        """Write balances outside of any block."""
        with self._db as db:
            db.executemany(SET_BALANCE, _balance_rows(balances))

    def blocks(self) -> list[Block]:
        """The blocks kept, oldest first."""
        rows = self._db.execute("SELECT height, slot, blockhash FROM blocks ORDER BY height")
        return [Block(*row) for row in rows]

    def balances(self) -> dict[tuple[str, str], int]:
        """Every balance by (owner, mint)."""
        rows = self._db.execute("SELECT owner, mint, amount FROM balances")
        return {(owner, mint): int(amount) for owner, mint, amount in rows}

    def pool_states(self) -> dict[str, tuple[str, int, int]]:
        """Each pool's state as JSON, and its reserves, by its address."""
        rows = self._db.execute("SELECT address, state, reserve_a, reserve_b FROM pools")
        return {address: (state, int(a), int(b)) for address, state, a, b in rows}

    def landed_since(self, slot: int) -> list[Landed]:
        """What landed in or after a slot, oldest first."""
        rows = self._db.execute(
            f"SELECT {TRANSACTION_COLUMNS} FROM transactions WHERE slot >= ? ORDER BY number",
            (slot,),
        )
        return [_landed(*row) for row in rows]

    def landed(self, signatures: Sequence[str]) -> dict[str, Landed]:
        """Those of the signatures that ever landed."""
        marks = ",".join("?" * len(signatures))
        rows = self._db.execute(
            f"SELECT {TRANSACTION_COLUMNS} FROM transactions WHERE signature IN ({marks})",
            signatures,
        )
        return {landed.signature: landed for landed in (_landed(*row) for row in rows)}

    def landed_of_wallet(
        self, wallet: str, *, min_slot: int, max_slot: int, before: str, limit: int
    ) -> list[Landed]:
        """A wallet's transactions, newest first, older than `before` unless that is empty."""
        rows = self._db.execute(
            WALLET_PAGE,
            {
                "wallet": wallet,
                "min_slot": min_slot,
                "max_slot": max_slot,
                "before": before,
                "limit": limit,
            },
        )
        return [_landed(*row) for row in rows]

    def fills(self, after_number: int, limit: int) -> list[LandedFill]:
        """Swaps that happened after the given number, oldest first."""
        rows = self._db.execute(
            f"SELECT {SWAP_COLUMNS} FROM swaps WHERE number > ? ORDER BY number LIMIT ?",
            (after_number, limit),
        )
        return [_landed_fill(*row) for row in rows]

    def _swap_rows(self, slot: int, outcomes: Sequence[Outcome]) -> list[tuple[object, ...]]:
        fills = [(outcome, fill) for outcome in outcomes for fill in outcome.fills]
        return [
            (
                number,
                outcome.signature,
                slot,
                outcome.memo,
                str(fill.amount_out),
                str(fill.swap.amount_in),
                str(fill.swap.min_amount_out),
                fill.swap.venue,
                fill.swap.pool,
                fill.swap.wallet,
                fill.swap.mint_in,
                fill.swap.mint_out,
            )
            for number, (outcome, fill) in enumerate(fills, self._swap_count + 1)
        ]

    def _number(self, query: str) -> int:
        [found] = self._db.execute(query).fetchone()
        return int(found or 0)


def _balance_rows(balances: Mapping[tuple[str, str], int]) -> list[tuple[str, str, str]]:
    return [(owner, mint, str(amount)) for (owner, mint), amount in balances.items()]


def _pool_rows(pools: Mapping[str, Pool]) -> list[tuple[object, ...]]:
    return [
        (pool.address, pool.text, str(pool.reserve_a), str(pool.reserve_b))
        for pool in pools.values()
    ]


def _changes_to_text(changes: Iterable[Change]) -> str:
    return json.dumps([(c.owner, c.mint, str(c.before), str(c.after)) for c in changes])


def _landed(
    slot: int,
    signature: str,
    wallet: str,
    reason: str | None,
    message: str,
    fee_lamports: str,
    memo: str,
    changes: str,
) -> Landed:
    return Landed(
        slot=slot,
        signature=signature,
        wallet=wallet,
        failure=Failure(Reason(reason), message) if reason else None,
        fee_lamports=int(fee_lamports),
        memo=memo,
        changes=tuple(
            Change(owner, mint, int(before), int(after))
            for owner, mint, before, after in json.loads(changes)
        ),
    )


def _landed_fill(
    number: int,
    signature: str,
    slot: int,
    memo: str,
    amount_out: str,
    amount_in: str,
    min_amount_out: str,
    *names: str,
) -> LandedFill:
    venue, pool, wallet, mint_in, mint_out = names
    swap = Swap(venue, pool, wallet, mint_in, mint_out, int(amount_in), int(min_amount_out))
    return LandedFill(number, signature, slot, memo, Fill(swap, int(amount_out)))
