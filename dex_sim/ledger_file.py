"""The file that the ledger is kept in: one SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dex_sim.ledger import Ledger
from engine.errors import StartupError

FILE_NAME: Final = "chain.sqlite3"
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
