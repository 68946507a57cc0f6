"""The chain's memory: one SQLite file, written once a block."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dex_sim.execution import Change, Fill, Outcome
from dex_sim.pool import Pool
from dex_sim.transaction import Failure, Reason, Swap
from engine.errors import StartupError

FILE_NAME: Final = "chain.sqlite3"

BLOCKHASH_LIFE_BLOCKS: Final = 150

# Amounts are TEXT: they may be wider than SQLite's 64-bit integers.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS blocks (
    height    INTEGER PRIMARY KEY,
    slot      INTEGER NOT NULL UNIQUE,
    blockhash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS transactions (
    number       INTEGER PRIMARY KEY,
    signature    TEXT NOT NULL UNIQUE,
    wallet       TEXT NOT NULL,
    slot         INTEGER NOT NULL,
    reason       TEXT,
    message      TEXT,
    fee_lamports TEXT NOT NULL,
    memo         TEXT NOT NULL,
    changes      TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS transactions_of_wallet ON transactions (wallet, number);
CREATE INDEX IF NOT EXISTS transactions_by_slot ON transactions (slot);
CREATE TABLE IF NOT EXISTS swaps (
    number         INTEGER PRIMARY KEY,
    signature      TEXT NOT NULL,
    slot           INTEGER NOT NULL,
    memo           TEXT NOT NULL,
    amount_out     TEXT NOT NULL,
    amount_in      TEXT NOT NULL,
    min_amount_out TEXT NOT NULL,
    venue          TEXT NOT NULL,
    pool           TEXT NOT NULL,
    wallet         TEXT NOT NULL,
    mint_in        TEXT NOT NULL,
    mint_out       TEXT NOT NULL
);
-- Numbers of swaps that a fork switch took back: never given again.
CREATE TABLE IF NOT EXISTS swaps_taken_back (
    number INTEGER PRIMARY KEY
);
CREATE TABLE IF NOT EXISTS balances (
    owner  TEXT NOT NULL,
    mint   TEXT NOT NULL,
    amount TEXT NOT NULL,
    PRIMARY KEY (owner, mint)
) WITHOUT ROWID;
-- state is JSON by the field names of the program's accounts.
CREATE TABLE IF NOT EXISTS pools (
    address   TEXT PRIMARY KEY,
    state     TEXT NOT NULL,
    reserve_a TEXT NOT NULL,
    reserve_b TEXT NOT NULL
);
"""
# Of these tables; a file without pool states says 0.
VERSION: Final = 1

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


class Block(msgspec.Struct, frozen=True):
    """One block; `slot` counts skipped slots too, `height` only blocks."""

    height: int
    slot: int
    blockhash: str

    @property
    def last_valid_height(self) -> int:
        """The height of the last block that may hold a transaction signed with this blockhash."""
        return self.height + BLOCKHASH_LIFE_BLOCKS


class Landed(NamedTuple):
    """A transaction as history has it."""

    slot: int
    signature: str
    wallet: str
    failure: Failure | None
    fee_lamports: int
    memo: str
    changes: tuple[Change, ...]


def landed_in(slot: int, outcome: Outcome) -> Landed:
    """An outcome, as history will have it."""
    return Landed(
        slot=slot,
        signature=outcome.signature,
        wallet=outcome.wallet,
        failure=outcome.failure,
        fee_lamports=outcome.fee_lamports,
        memo=outcome.memo,
        changes=outcome.changes,
    )


class LandedFill(msgspec.Struct, frozen=True):
    """A swap that happened, with its place in the ledger."""

    number: int
    signature: str
    slot: int
    memo: str
    fill: Fill


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


@contextmanager
def open_ledger(directory: Path) -> Iterator[Ledger]:
    """Open the ledger in a directory, made if missing; StartupError when it cannot be had."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(directory / FILE_NAME, timeout=1)
        try:
            # Exclusive: two simulators on one directory would be two chains in one file.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit survives the process; only a power cut may cost the last blocks.
            connection.execute("PRAGMA synchronous = NORMAL")
            # The chain stands still while the log is copied and synced: rarely, then, at 32 MB.
            connection.execute("PRAGMA wal_autocheckpoint = 8000")
            _require_version(connection, directory)
            connection.executescript(SCHEMA)
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise StartupError(
            f"DATA_DIRECTORY {directory} cannot be used: {error}; "
            "it must be writable and no other simulator's"
        ) from None
    try:
        yield Ledger(connection)
    finally:
        connection.close()


def _require_version(connection: sqlite3.Connection, directory: Path) -> None:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and version != VERSION:
        raise StartupError(
            f"DATA_DIRECTORY {directory} holds a chain of another version of the simulator; "
            "name another directory, or begin anew with `oee up --fresh`"
        )
    connection.execute(f"PRAGMA user_version = {VERSION}")


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
