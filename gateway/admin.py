"""AdminService: parse, call, convert. Errors travel as engine exceptions."""

from __future__ import annotations

from typing import Any, Final

from engine import wire
from engine.accounts import Accounts
from engine.allowance import MAX_ORDERS_PER_MINUTE, AccountLimits
from engine.token import Tokens
from engine.trading import Setting, TradingState, TradingSwitch
from engine.v1 import admin_pb2 as pb
from engine.v1 import admin_pb2_grpc
from gateway import pages
from gateway.fields import Fields, shown
from gateway.guard import Guard, caller
from gateway.keyring import ACCOUNT, KEY_ID, MAX_NOTE_CHARACTERS, Key, Keyring, Role

STATES: Final = {
    pb.TRADING_STATE_ACTIVE: TradingState.ACTIVE,
    pb.TRADING_STATE_CANCEL_ONLY: TradingState.CANCEL_ONLY,
    pb.TRADING_STATE_HALTED: TradingState.HALTED,
}
MOST: Final = {
    "orders_per_minute": MAX_ORDERS_PER_MINUTE,
    "max_open_orders": 1_000_000,
    "max_streams": 1_000_000,
    "max_price_impact_bps": 10_000,
}
MAX_TOKENS: Final = 1_000
ROLES: Final = {int(role): role for role in Role}


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """What operators call."""

    def __init__(
        self,
        tokens: Tokens,
        keyring: Keyring,
        guard: Guard,
        switch: TradingSwitch,
        accounts: Accounts,
    ) -> None:
        self._tokens = tokens
        self._keyring = keyring
        self._guard = guard
        self._switch = switch
        self._accounts = accounts

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        fields = Fields()
        _check_account(fields, request.account)
        role = ROLES.get(request.role)
        if role is None:
            names = ", ".join(f"ROLE_{role.name}" for role in Role)
            fields.wrong("role", f"{request.role} is none: choose from {names}")
        _check_text(fields, "note", request.note)
        fields.check()
        assert role is not None
        key, secret = await self._keyring.create(request.account, role, request.note)
        await self._guard.refresh()
        return pb.CreateKeyResponse(key=_key(key), secret=secret)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        fields = Fields()
        page = pages.KEYS.page(fields, request)
        if request.account:
            _check_account(fields, request.account)
        fields.check()
        after = int(page.after(request.account) or 0)
        keys = await self._keyring.list(request.account or None, after, page.size + 1)
        listed = keys[: page.size]
        return pb.ListKeysResponse(
            keys=[_key(key) for key in listed],
            next_page_token=(
                pages.KEYS.token(listed[-1].number, request.account)
                if len(keys) > len(listed)
                else ""
            ),
        )

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        fields = Fields()
        if not KEY_ID.fullmatch(request.key_id):
            fields.wrong("key_id", f"{shown(request.key_id)} is none: see ListKeys")
        fields.check()
        key = await self._keyring.revoke(request.key_id)
        await self._guard.refresh()
        return pb.RevokeKeyResponse(key=_key(key))

    async def GetTradingState(
        self, request: pb.GetTradingStateRequest, context: Any
    ) -> pb.GetTradingStateResponse:
        return pb.GetTradingStateResponse(**_setting(await self._switch.read()))

    async def SetTradingState(
        self, request: pb.SetTradingStateRequest, context: Any
    ) -> pb.SetTradingStateResponse:
        fields = Fields()
        state = STATES.get(request.state)
        if state is None:
            names = ", ".join(pb.TradingState.Name(number) for number in STATES)
            fields.wrong("state", f"{request.state} is none: choose from {names}")
        _check_text(fields, "why", request.why)
        if not request.why and state is not TradingState.ACTIVE:
            fields.wrong("why", "is missing: say it in one sentence, clients read it")
        fields.check()
        assert state is not None
        setting = await self._switch.set(state, request.why, caller().key_id)
        return pb.SetTradingStateResponse(**_setting(setting))

    async def GetAccountLimits(
        self, request: pb.GetAccountLimitsRequest, context: Any
    ) -> pb.GetAccountLimitsResponse:
        fields = Fields()
        _check_account(fields, request.account)
        fields.check()
        limits = await self._accounts.stored(request.account)
        return pb.GetAccountLimitsResponse(limits=_limits(limits, self._tokens))

    async def SetAccountLimits(
        self, request: pb.SetAccountLimitsRequest, context: Any
    ) -> pb.SetAccountLimitsResponse:
        fields = Fields()
        _check_account(fields, request.account)
        limits = _parsed(fields, request.limits, self._tokens)
        fields.check()
        await self._accounts.set(request.account, limits)
        return pb.SetAccountLimitsResponse(limits=_limits(limits, self._tokens))


def _setting(setting: Setting) -> dict[str, Any]:
    [state] = (number for number, state in STATES.items() if state is setting.state)
    return {
        "state": state,
        "why": setting.why,
        "set_time": wire.timestamp(setting.set_time),
        "key_id": setting.key_id,
    }


def _parsed(fields: Fields, message: Any, tokens: Tokens) -> AccountLimits:
    counts: dict[str, int | None] = {}
    for name, most in MOST.items():
        counts[name] = getattr(message, name) if message.HasField(name) else None
        if (counts[name] or 0) > most:
            fields.wrong(f"limits.{name}", f"{counts[name]} must be at most {most}")
    allowed = [
        fields.token(f"limits.allowed_tokens[{place}]", name, tokens)
        for place, name in enumerate(message.allowed_tokens[:MAX_TOKENS])
    ]
    amounts: dict[str, int] = {}
    for place, limit in enumerate(message.token_limits[:MAX_TOKENS]):
        name = f"limits.token_limits[{place}]"
        token = fields.token(f"{name}.token", limit.token, tokens)
        most_in = fields.amount(f"{name}.max_amount_in", limit.max_amount_in, token, tokens)
        if token is not None:
            if token.mint in amounts:
                fields.wrong(
                    f"{name}.token", f"{token.symbol} has a limit already: name each token once"
                )
            amounts[token.mint] = most_in
    for name in ("allowed_tokens", "token_limits"):
        if len(getattr(message, name)) > MAX_TOKENS:
            fields.wrong(f"limits.{name}", f"must be at most {MAX_TOKENS}")
    return AccountLimits(
        allowed_tokens=frozenset(token.mint for token in allowed if token is not None),
        max_amounts_in=amounts,
        **counts,
    )


def _limits(limits: AccountLimits, tokens: Tokens) -> pb.AccountLimits:
    return pb.AccountLimits(
        orders_per_minute=limits.orders_per_minute,
        max_open_orders=limits.max_open_orders,
        max_streams=limits.max_streams,
        allowed_tokens=sorted(tokens.by_mint(mint).symbol for mint in limits.allowed_tokens),
        token_limits=[
            pb.TokenLimit(token=token.symbol, max_amount_in=token.format(most))
            for mint, most in limits.max_amounts_in.items()
            if (token := tokens.by_mint(mint))
        ],
        max_price_impact_bps=limits.max_price_impact_bps,
    )


def _check_text(fields: Fields, field: str, text: str) -> None:
    if len(text) > MAX_NOTE_CHARACTERS:
        fields.wrong(field, f"has {len(text)} characters: at most {MAX_NOTE_CHARACTERS}")
    elif not text.isprintable():
        fields.wrong(field, f"{shown(text)} must be printable characters, on one line")


def _check_account(fields: Fields, account: str) -> None:
    if not ACCOUNT.fullmatch(account):
        fields.wrong("account", f"{shown(account)} must be 1 to 64 of [A-Za-z0-9_.:-]")


def _key(key: Key) -> pb.Key:
    return pb.Key(
        key_id=key.key_id,
        account=key.account,
        role=pb.Role.ValueType(key.role),
        note=key.note,
        create_time=wire.timestamp(key.create_time),
        revoke_time=wire.timestamp(key.revoke_time),
    )
