"""What a client wants to see of all its orders, and from where on."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass

from engine import wire
from engine.event_log import Place
from engine.route import JOINED
from engine.token import Tokens
from engine.v1 import orders_pb2 as pb
from gateway.fields import Fields, shown


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a reader wants; None and empty mean all."""

    account: str
    statuses: frozenset[int] = frozenset()
    token: str | None = None
    venue: str | None = None

    def has(self, found: pb.OrderEvent | pb.Order) -> bool:
        """Whether the reader wants this event, or this order in its snapshot."""
        return (
            found.account == self.account
            and (not self.statuses or found.status in self.statuses)
            and (self.token is None or self.token in (found.token_in, found.token_out))
            and (self.venue is None or self.venue in found.venue.split(JOINED))
        )


@dataclass(frozen=True, slots=True)
class Request:
    """A WatchOrders request; `since` None means from now on."""

    selection: Selection
    since: Place | None
    snapshot: bool
    heartbeat_seconds: float


def watch_orders(
    message: pb.WatchOrdersRequest, account: str, tokens: Tokens, venues: Collection[str]
) -> Request:
    """What to watch; raises InvalidRequest."""
    fields = Fields()
    since = None
    if message.resume_token:
        try:
            since = _place(message.resume_token)
        except ValueError:
            fields.wrong(
                "resume_token",
                f"{shown(message.resume_token)} is none: pass on the last one received, unchanged",
            )
        if message.snapshot:
            fields.wrong("snapshot", "true cannot stand beside resume_token: give one of them")
    statuses = fields.statuses(message.statuses)
    token = fields.token("token", message.token, tokens) if message.token else None
    if message.venue:
        fields.venues("venue", [message.venue], venues)
    heartbeat_seconds = fields.heartbeat_seconds(message)
    fields.check()
    selection = Selection(
        account,
        frozenset(wire.STATUS[status] for status in statuses),
        token.symbol if token else None,
        message.venue or None,
    )
    return Request(selection, since, message.snapshot, heartbeat_seconds)


def resume_token(place: Place) -> str:
    """A place as clients keep it."""
    return base64.urlsafe_b64encode(f"{place.home}:{place.position}".encode()).decode()


def _place(token: str) -> Place:
    home, separator, position = base64.urlsafe_b64decode(token).decode("ascii").partition(":")
    place = Place(home, int(position) if position.isdigit() and len(position) < 19 else -1)
    if not separator or place.position < 0 or resume_token(place) != token:
        raise ValueError
    return place
