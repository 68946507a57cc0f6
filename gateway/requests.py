"""Requests as clients write them, checked whole: every violation is reported at once."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from engine import wire
from engine.lifecycle import Status
from engine.order import DEFAULT_SLIPPAGE_BPS, MAX_SLIPPAGE_BPS, OrderRequest
from engine.token import Tokens
from engine.v1 import orders_pb2 as pb
from gateway import pages
from gateway.fields import Fields, shown
from gateway.pages import Page

CLIENT_ORDER_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
VENUE: Final = re.compile(r"[A-Za-z0-9_.+-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class OrderId:
    """Which order a client means: exactly one is set."""

    order_id: UUID | None
    client_order_id: str | None


def submit(
    message: pb.SubmitOrderRequest, tokens: Tokens, venues: Collection[str]
) -> tuple[str | None, OrderRequest]:
    """The client's key and the normalised request; raises InvalidRequest.

    That expire_time is still to come is not checked here: a repeated request stays valid.
    """
    fields = Fields()
    key = message.client_order_id
    if key and not CLIENT_ORDER_ID.fullmatch(key):
        fields.wrong("client_order_id", f"{shown(key)} must be 1 to 64 of [A-Za-z0-9_.:-]")
    if message.order_type not in (pb.ORDER_TYPE_UNSPECIFIED, pb.ORDER_TYPE_MARKET):
        fields.wrong("order_type", f"{message.order_type} is not offered: use ORDER_TYPE_MARKET")
    expire_time = (
        _moment(fields, "expire_time", message.expire_time)
        if message.HasField("expire_time")
        else None
    )
    return key or None, _swap(fields, message, tokens, venues, expire_time)


def preview(
    message: pb.PreviewOrderRequest, tokens: Tokens, venues: Collection[str]
) -> OrderRequest:
    """The normalised request; raises InvalidRequest."""
    return _swap(Fields(), message, tokens, venues, None)


def order_id(message: Any) -> OrderId:
    """Which order a request with `oneof id` means; raises InvalidRequest."""
    fields = Fields()
    found = _order_id(fields, message)
    fields.check()
    return found


def watch(message: pb.WatchOrderRequest) -> tuple[OrderId, float]:
    """Which order to watch, and how long that may be silent, in seconds; raises InvalidRequest."""
    fields = Fields()
    found = _order_id(fields, message)
    heartbeat_seconds = fields.heartbeat_seconds(message)
    fields.check()
    return found, heartbeat_seconds


def events_page(message: pb.ListOrderEventsRequest) -> tuple[OrderId, Page]:
    """Whose events to list, and which page of them; raises InvalidRequest."""
    fields = Fields()
    found = _order_id(fields, message)
    asked = pages.EVENTS.page(fields, message)
    fields.check()
    return found, asked


def tokens_page(message: pb.ListTokensRequest) -> tuple[int, int]:
    """After how many tokens to go on, and how many to list; raises InvalidRequest."""
    fields = Fields()
    asked = pages.TOKENS.page(fields, message)
    fields.check()
    return int(asked.after() or 0), asked.size


@dataclass(frozen=True, slots=True)
class OrdersFilter:
    """What ListOrders selects."""

    page_size: int
    after: UUID | None
    oldest_first: bool
    statuses: tuple[Status, ...]
    token: str | None
    venue: str | None
    create_time_from: datetime | None
    create_time_before: datetime | None

    @property
    def of(self) -> tuple[str, str]:
        """What its page tokens are of."""
        return "oldest" if self.oldest_first else "newest", pages.digest(
            sorted(self.statuses),
            self.token,
            self.venue,
            self.create_time_from,
            self.create_time_before,
        )


def orders_filter(message: pb.ListOrdersRequest, tokens: Tokens) -> OrdersFilter:
    """What to list; raises InvalidRequest."""
    fields = Fields()
    asked = pages.ORDERS.page(fields, message)
    if message.order_by not in pb.OrderBy.values():
        fields.wrong("order_by", f"{message.order_by} is not known: name one of OrderBy")
    statuses = fields.statuses(message.statuses)
    token = fields.token("token", message.token, tokens) if message.token else None
    # Orders keep the names of venues that no setting names any more.
    if message.venue and not VENUE.fullmatch(message.venue):
        fields.wrong("venue", f"{shown(message.venue)} must be 1 to 64 of [A-Za-z0-9_.+-]")
    times = {
        name: _moment(fields, name, getattr(message, name)) if message.HasField(name) else None
        for name in ("create_time_from", "create_time_before")
    }
    first, end = times.values()
    if first is not None and end is not None and first >= end:
        fields.wrong(
            "create_time_from",
            f"{first.isoformat()} must be before create_time_before, {end.isoformat()}",
        )
    fields.check()
    found = OrdersFilter(
        asked.size,
        None,
        message.order_by == pb.ORDER_BY_OLDEST_FIRST,
        statuses,
        None if token is None else token.mint,
        message.venue or None,
        **times,
    )
    last = asked.after(*found.of)
    return found if last is None else replace(found, after=UUID(last))


def _order_id(fields: Fields, message: Any) -> OrderId:
    found = OrderId(None, None)
    match message.WhichOneof("id"):
        case "order_id":
            try:
                found = OrderId(wire.order_id(message.order_id), None)
            except ValueError:
                fields.wrong(
                    "order_id",
                    f"{shown(message.order_id)} is not an order id: it is a UUID, as "
                    "SubmitOrder returned it",
                )
        case "client_order_id":
            if not CLIENT_ORDER_ID.fullmatch(message.client_order_id):
                fields.wrong(
                    "client_order_id",
                    f"{shown(message.client_order_id)} must be 1 to 64 of [A-Za-z0-9_.:-]",
                )
            found = OrderId(None, message.client_order_id)
        case _:
            fields.wrong("order_id", "is missing: set order_id or client_order_id")
    return found


def _swap(
    fields: Fields,
    message: pb.SubmitOrderRequest | pb.PreviewOrderRequest,
    tokens: Tokens,
    venues: Collection[str],
    expire_time: datetime | None,
) -> OrderRequest:
    token_in = fields.token("token_in", message.token_in, tokens)
    token_out = fields.token("token_out", message.token_out, tokens)
    if token_in is not None and token_in == token_out:
        fields.wrong("token_out", f"{token_out.symbol} is also token_in: name another token")
    amount_in = fields.amount("amount_in", message.amount_in, token_in, tokens)
    min_amount_out = None
    if message.min_amount_out:
        min_amount_out = fields.amount("min_amount_out", message.min_amount_out, token_out, tokens)
        if message.HasField("slippage_bps"):
            fields.wrong(
                "slippage_bps",
                f"{message.slippage_bps} cannot stand beside min_amount_out: give one of them",
            )
    slippage_bps = message.slippage_bps if message.HasField("slippage_bps") else None
    if slippage_bps is not None and slippage_bps > MAX_SLIPPAGE_BPS:
        fields.wrong("slippage_bps", f"{slippage_bps} must be 0 to {MAX_SLIPPAGE_BPS} basis points")
    fields.venues("venues", message.venues, venues)
    fields.check()
    assert token_in is not None
    assert token_out is not None
    if min_amount_out is None and slippage_bps is None:
        slippage_bps = DEFAULT_SLIPPAGE_BPS
    return OrderRequest(
        token_in=token_in.mint,
        token_out=token_out.mint,
        amount_in=amount_in,
        slippage_bps=slippage_bps,
        min_amount_out=min_amount_out,
        venues=tuple(sorted(set(message.venues))),
        expire_time=expire_time,
    )


def _moment(fields: Fields, field: str, message: Any) -> datetime | None:
    try:
        return wire.moment(message)
    except ValueError:
        fields.wrong(
            field,
            f"{message.seconds} s and {message.nanos} ns is not a time: it must lie in years "
            "1 to 9999, with 0 to 999999999 ns",
        )
        return None
