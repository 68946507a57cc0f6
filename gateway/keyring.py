"""API keys in the database: each by a hash of its secret, which is shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Final

import asyncpg

from engine.errors import KeyNotFound, NoOperatorLeft
from engine.store import Store
from engine.v1 import admin_pb2 as pb

ACCOUNT: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
MAX_NOTE_CHARACTERS: Final = 200
KEY_ID_BYTES: Final = 8
# Nobody guesses so many random bits, so one round of a fast hash protects them.
SECRET_BYTES: Final = 32
KEY_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
SECRET: Final = re.compile(r"oee_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)

ANY: Final = "SELECT FROM api_keys LIMIT 1"
FIND: Final = "SELECT * FROM api_keys WHERE key_id = ANY($1::text[])"
LIST: Final = """
SELECT * FROM api_keys
 WHERE number > $1 AND ($2::text IS NULL OR account = $2) ORDER BY number LIMIT $3
"""
# Once there are keys nobody does anything without one. So there is always an operator's that is
# good: who locked out everybody could not make another, nor stop trading.
OPERATORS: Final = """
operators AS MATERIALIZED (
    SELECT key_id FROM api_keys WHERE role = 'operator' AND revoke_time IS NULL
     ORDER BY number FOR UPDATE
)"""
CREATE: Final = f"""
WITH {OPERATORS}
INSERT INTO api_keys (key_id, account, role, secret_hash, note)
SELECT $1, $2, $3, $4, $5 WHERE $3 = 'operator' OR EXISTS (SELECT FROM operators)
RETURNING *
"""
REVOKE: Final = f"""
WITH {OPERATORS}
UPDATE api_keys SET revoke_time = now()
 WHERE key_id = $1 AND revoke_time IS NULL
   AND EXISTS (SELECT FROM operators o WHERE o.key_id <> $1)
RETURNING *
"""


class Role(IntEnum):
    """What the holder of a key may do; each may do what those below it may."""

    VIEWER = pb.ROLE_VIEWER
    TRADER = pb.ROLE_TRADER
    OPERATOR = pb.ROLE_OPERATOR


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is on record; `number` tells the order in which keys were made."""

    number: int
    key_id: str
    account: str
    role: Role
    note: str
    create_time: datetime
    revoke_time: datetime | None
    secret_hash: bytes = field(repr=False)

    def opens_with(self, secret: str) -> bool:
        """Whether it is good, and this is its secret."""
        same = hmac.compare_digest(self.secret_hash, _hash(secret))
        return same and self.revoke_time is None


class Keyring:
    """The keys there are. Every method raises StoreUnavailable when the database is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def has_keys(self) -> bool:
        """Whether a key was ever made."""
        return bool(await self._store.ask(lambda connection: connection.fetch(ANY)))

    async def create(self, account: str, role: Role, note: str) -> tuple[Key, str]:
        """A new key, and the secret to call with. Not safe to repeat: each time it is another.

        Raises NoOperatorLeft unless it is an operator's, or one is good already.
        """
        key_id, part = secrets.token_hex(KEY_ID_BYTES), secrets.token_hex(SECRET_BYTES)
        secret = f"oee_{key_id}_{part}"
        row = (key_id, account, role.name.lower(), _hash(secret), note)
        made = await self._store.ask(lambda connection: connection.fetch(CREATE, *row))
        if not made:
            raise NoOperatorLeft(
                "no key was made: with the first one everybody needs a key, and none would be an "
                "operator's; make that one first, with the role operator"
            )
        return _key(made[0]), secret

    async def find(self, key_ids: Sequence[str]) -> dict[str, Key]:
        """Those of the keys that there are, revoked ones too, by their ids."""
        found = await self._store.ask(lambda connection: connection.fetch(FIND, key_ids))
        return {row["key_id"]: _key(row) for row in found}

    async def list(self, account: str | None, after: int, limit: int) -> list[Key]:
        """The keys of an account, or of all, oldest first, after the one with this number."""
        found = await self._store.ask(
            lambda connection: connection.fetch(LIST, after, account, limit)
        )
        return [_key(row) for row in found]

    async def revoke(self, key_id: str) -> Key:
        """Make a key worthless; safe to repeat.

        Raises KeyNotFound, and NoOperatorLeft for the last key of an operator that is good.
        """
        revoked = await self._store.ask(lambda connection: connection.fetch(REVOKE, key_id))
        if revoked:
            return _key(revoked[0])
        key = (await self.find([key_id])).get(key_id)
        if key is None:
            raise KeyNotFound(f"there is no key {key_id}: see `oee keys list` for those there are")
        if key.revoke_time is None:
            raise NoOperatorLeft(
                f"{key_id} was not revoked: no other key of an operator is good; make one first"
            )
        return key


def key_id_of(secret: str) -> str | None:
    """The public name in a secret; None when it is malformed."""
    found = SECRET.fullmatch(secret)
    return found[1] if found else None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key(row: asyncpg.Record) -> Key:
    return Key(
        number=row["number"],
        key_id=row["key_id"],
        account=row["account"],
        role=Role[row["role"].upper()],
        note=row["note"],
        create_time=row["create_time"],
        revoke_time=row["revoke_time"],
        secret_hash=row["secret_hash"],
    )
