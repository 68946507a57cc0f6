"""Lets callers in: those with a key that allows it, or everybody while there are no keys."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import structlog

from engine.accounts import Accounts
from engine.batch import Batcher
from engine.errors import QuotaExceeded, RoleRequired, StoreUnavailable, Unauthenticated
from engine.rpc import Stay
from gateway.keyring import Key, Keyring, Role, key_id_of

logger = structlog.get_logger()

# A revoked key is worthless everywhere after this, and the time of one query.
LOOK_SECONDS: Final = 1.0
MAX_CACHED_KEYS: Final = 10_000
LOOKUPS_A_QUERY: Final = 250

# What each method needs; one that is missing here is refused to all.
NEEDED: Final[Mapping[str, Role]] = {
    f"/engine.v1.{method}": role
    for role, methods in {
        Role.VIEWER: (
            "OrderService/WatchOrder",
            "OrderService/WatchOrders",
            "OrderService/GetOrder",
            "OrderService/ListOrders",
            "OrderService/ListOrderEvents",
            "OrderService/ExplainOrder",
            "OrderService/ListTokens",
            "OrderService/PreviewOrder",
        ),
        Role.TRADER: (
            "OrderService/SubmitOrder",
            "OrderService/SubmitOrders",
            "OrderService/CancelOrder",
        ),
        Role.OPERATOR: (
            "AdminService/CreateKey",
            "AdminService/ListKeys",
            "AdminService/RevokeKey",
            "AdminService/GetTradingState",
            "AdminService/SetTradingState",
            "AdminService/GetAccountLimits",
            "AdminService/SetAccountLimits",
        ),
    }.items()
    for method in methods
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls; `key_id` is empty while nobody needs a key."""

    account: str
    role: Role
    key_id: str = ""


# Everybody, as long as there are no keys.
ANYBODY: Final = Caller("default", Role.OPERATOR)
_caller: Final[ContextVar[Caller]] = ContextVar("caller")


def caller() -> Caller:
    """Who made the call in hand."""
    return _caller.get()


class Guard:
    """The door of the gateway.

    Keys that were used are kept and read again every second; one that is not among them is looked
    up at once. While the database is away those that are kept stay as good as they were.
    """

    def __init__(self, keyring: Keyring, accounts: Accounts) -> None:
        self._keyring = keyring
        self._accounts = accounts
        # Streams that are open, by account.
        self._streams: Counter[str] = Counter()
        self._is_open = False
        self._keys: dict[str, Key] = {}
        self._stays: dict[str, set[Stay]] = {}
        self._lookups: Batcher[str, Key | None] = Batcher(
            self._look_up, limit=LOOKUPS_A_QUERY, in_flight=1
        )

    async def look(self) -> bool:
        """Read what there is, first of all; returns whether there are keys."""
        self._is_open = not await self._keyring.has_keys()
        return not self._is_open

    async def follow(self) -> None:
        """Notice keys that are made or revoked elsewhere, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.0))
            try:
                await self.refresh()
            except StoreUnavailable as error:
                logger.debug("keys stay as they are", error=str(error))

    async def refresh(self) -> None:
        """Forget what is revoked, and end its streams; raises StoreUnavailable."""
        if self._is_open and await self._keyring.has_keys():
            self._close()
        key_ids = {*self._keys, *self._stays} - {ANYBODY.key_id}
        found = await self._keyring.find(list(key_ids)) if key_ids else {}
        for key_id in key_ids:
            key = found.get(key_id)
            if key is None or key.revoke_time is not None:
                self._keys.pop(key_id, None)
                self._send_away(
                    key_id, Unauthenticated("the key was revoked: ask your operator for another")
                )

    async def enter(self, method: str, context: Any) -> None:
        """Let a call in; raises Unauthenticated, RoleRequired, StoreUnavailable."""
        _caller.set(await self._admitted(method, context.invocation_metadata()))

    @asynccontextmanager
    async def stay(self, method: str, context: Any) -> AsyncIterator[Stay]:
        """Let a stream in until its key is revoked; raises as `enter` does, and QuotaExceeded."""
        asking = await self._admitted(method, context.invocation_metadata())
        _caller.set(asking)
        limit = self._accounts.limits(asking.account).max_streams
        if limit and self._streams[asking.account] >= limit:
            raise QuotaExceeded(
                f"account {asking.account} may have {limit} streams open here, and has them",
                asking.account,
            )
        self._streams[asking.account] += 1
        stay = Stay()
        stays = self._stays.setdefault(asking.key_id, set())
        stays.add(stay)
        try:
            with stay.leaving():
                yield stay
        finally:
            self._streams[asking.account] -= 1
            if not self._streams[asking.account]:
                del self._streams[asking.account]
            stays.discard(stay)
            if not stays and self._stays.get(asking.key_id) is stays:
                del self._stays[asking.key_id]

    async def _admitted(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        asking = await self._identified(metadata)
        needed = NEEDED.get(method)
        if needed is None:
            raise RoleRequired(f"no role may call {method}: it is not offered")
        if asking.role < needed:
            raise RoleRequired(
                f"this key has role {asking.role.name}: {method} needs {needed.name} at least",
                role=needed.name,
            )
        return asking

    async def _identified(self, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        sent = [value for name, value in metadata if name == "authorization"]
        if not sent:
            if self._is_open:
                return ANYBODY
            raise Unauthenticated("no key: send metadata `authorization: Bearer oee_…`")
        scheme, _, secret = str(sent[0]).partition(" ")
        key_id = key_id_of(secret.strip())
        if len(sent) > 1 or scheme.lower() != "bearer" or key_id is None:
            raise Unauthenticated("authorization must be `Bearer` and one key, oee_…")
        key = self._keys.get(key_id) or await self._lookups.submit(key_id)
        if key is None or not key.opens_with(secret.strip()):
            raise Unauthenticated("the key is unknown or revoked: ask your operator for another")
        self._keep(key)
        return Caller(key.account, key.role, key.key_id)

    async def _look_up(self, key_ids: Sequence[str]) -> list[Key | None]:
        found = await self._keyring.find(key_ids)
        return [found.get(key_id) for key_id in key_ids]

    def _keep(self, key: Key) -> None:
        self._close()
        if key.key_id not in self._keys:
            if len(self._keys) >= MAX_CACHED_KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[key.key_id] = key

    def _close(self) -> None:
        """From now on everybody needs a key, whatever becomes of the table."""
        if self._is_open:
            self._is_open = False
            logger.info("there are keys: every caller needs one now")
            self._send_away(
                ANYBODY.key_id,
                Unauthenticated(
                    "everybody needs a key now: send metadata `authorization: Bearer oee_…`"
                ),
            )

    def _send_away(self, key_id: str, why: Unauthenticated) -> None:
        for stay in list(self._stays.get(key_id, ())):
            stay.end(why)


def unsafe_reason(
    *, has_keys: bool, has_tls: bool, listen_address: str, allow_insecure: bool
) -> str | None:
    """Why a gateway must not listen there, and what to do about it; None when it may."""
    host = listen_address.rpartition(":")[0].strip("[]")
    if allow_insecure or (has_keys and has_tls) or _is_loopback(host):
        return None
    missing = [
        *(["API keys (python -m gateway.keys create)"] if not has_keys else []),
        *(["TLS (a certificate and its key)"] if not has_tls else []),
    ]
    return (
        f"LISTEN_ADDRESS {listen_address} can be reached by others, and there is no "
        f"{' and no '.join(missing)}; add that, listen on 127.0.0.1, or set ALLOW_INSECURE=true "
        "where the network itself is trusted"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
