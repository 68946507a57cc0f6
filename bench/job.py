"""What the load client is asked to do, and what it saw: one JSON line each way."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Flow(StrEnum):
    """How the orders are sent and watched."""

    STREAM = "stream"  # SubmitOrders, with one WatchOrders for all of them
    UNARY = "unary"  # a SubmitOrder and a WatchOrder an order
    WATCHERS = "watchers"  # rounds of SubmitOrders held until many WatchOrders are open
    ACCEPT = "accept"  # SubmitOrders only; nobody watches
    ACCEPT_UNARY = "accept_unary"  # SubmitOrder only
    OFFER = "offer"  # SubmitOrders at a given rate, whatever the answers, and one WatchOrders


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A load. It sends until `seconds` are over or `orders` are sent, whichever is set.

    Then it waits for the final status of what was accepted, all in all `limit_seconds`.
    """

    flow: Flow
    key: str  # its orders' client_order_ids are key-0, key-1 …
    in_flight: int = 64
    seconds: float = 0
    orders: int = 0
    watchers: int = 0
    held_pid: int | None = None  # whom to stop so that orders are held
    orders_per_second: float = 0
    limit_seconds: float = 120


class Spread(msgspec.Struct, frozen=True):
    """How long something took, in milliseconds."""

    count: int
    p50: float
    p99: float
    p999: float
    most: float


def spread(seconds: Sequence[float]) -> Spread | None:
    """The spread of these durations; None when there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)

    def at(part: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000, 3)

    return Spread(len(ordered), at(0.5), at(0.99), at(0.999), at(1))


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job.

    `submit` is from sending to the answer, `refusal` the same for refused orders, `order` from
    sending to the final status at the client. `event` is from the event's time, which is the
    start of the transaction that commits it, to the client; events committed before a watch
    had delivered its first message are not counted. `orders` reached a final status, at
    `orders_per_second` from the first sending to the last of them; `in_window` of them while
    it was still sending, for `window_seconds`.
    """

    orders: int = 0
    seconds: float = 0
    orders_per_second: float = 0
    in_window: int = 0
    window_seconds: float = 0
    offered_per_second: float = 0
    sent: int = 0
    accepted: int = 0
    refused: dict[str, int] = {}
    unfinished: int = 0
    held_back: int = 0  # would have been sent, had not too many been unanswered already
    statuses: dict[str, int] = {}
    events: int = 0
    submit: Spread | None = None
    refusal: Spread | None = None
    order: Spread | None = None
    event: Spread | None = None
    client_cpu_seconds: float = 0
    problem: str | None = None  # why there is nothing to see, e.g. UNIMPLEMENTED

    def recovered(self, seconds: float, statuses: dict[str, int]) -> Outcome:
        """The same, when all that was accepted ended so, and took so long to be settled."""
        return msgspec.structs.replace(
            self,
            orders=self.accepted,
            seconds=round(seconds, 3),
            orders_per_second=round(self.accepted / seconds, 1),
            unfinished=self.accepted - sum(statuses.values()),
            statuses=statuses,
            client_cpu_seconds=0,
        )
