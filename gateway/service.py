"""OrderService: parse, call, convert. Errors travel as engine exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import uuid_utils.compat
from google.protobuf.timestamp_pb2 import Timestamp

from engine import wire
from engine.errors import (
    ClientOrderIdReused,
    FutureSequence,
    InvalidRequest,
    NoRoute,
    OrderNotFound,
    Overloaded,
    StaleOrder,
    Violation,
)
from engine.lifecycle import FINAL, UNSIGNED, Status
from engine.order import Order, OrderRequest, RouteDecision, first_difference
from engine.relay import Relay
from engine.routing import NoOffer, choose
from engine.store import Added, Store
from engine.v1 import orders_pb2 as pb
from engine.v1 import orders_pb2_grpc
from engine.venue import Venue, gather_quotes
from gateway import requests
from gateway.requests import OrderId
from gateway.watch import WatchHub

# Before there are accounts, everything belongs to this one.
ACCOUNT: Final = "default"
# A cancel that loses a race reads again; an order has only so many steps.
CANCEL_TRIES: Final = 20


class OrderService(orders_pb2_grpc.OrderServiceServicer):
    """What clients call."""

    def __init__(
        self,
        store: Store,
        relay: Relay,
        hub: WatchHub,
        venues: Mapping[str, Venue],
        *,
        quote_timeout_seconds: float,
    ) -> None:
        self._store = store
        self._relay = relay
        self._hub = hub
        self._venues = venues
        self._quote_timeout_seconds = quote_timeout_seconds
        self._after_answer: set[asyncio.Task[None]] = set()

    async def SubmitOrder(
        self, request: pb.SubmitOrderRequest, context: Any
    ) -> pb.SubmitOrderResponse:
        key, wanted = requests.submit(request, self._store.tokens, self._venues)
        order = Order(uuid_utils.compat.uuid7(), ACCOUNT, key, wanted)
        if request.validate_only:
            await self._check(order)
            return pb.SubmitOrderResponse(order=self._order(order))
        added = await self._add(order)
        if added.event is not None:
            self._later(self._relay.announce(added.order, added.event))
            self._later(self._relay.offer(added.order))
            return pb.SubmitOrderResponse(order=self._order(added.order))
        _require_same(added.order, wanted)
        return pb.SubmitOrderResponse(order=self._order(added.order), duplicate=True)

    async def WatchOrder(
        self, request: pb.WatchOrderRequest, context: Any
    ) -> AsyncIterator[pb.WatchOrderResponse]:
        asked, heartbeat_seconds = requests.watch(request)
        order = await self._find(asked)
        resuming = request.HasField("after_sequence")
        after = request.after_sequence if resuming else order.sequence
        if after > order.sequence:
            raise FutureSequence(
                f"after_sequence {after} does not exist yet: the order is at {order.sequence}",
                latest_sequence=str(order.sequence),
            )
        if not resuming:
            yield pb.WatchOrderResponse(snapshot=self._order(order))
        ends = _settled if request.until_settled else _final
        if after == order.sequence and ends(wire.STATUS[order.status], order.settled):
            return
        delivered = after
        async with self._hub.watch(order, after) as watch:
            while True:
                event = await watch.next(heartbeat_seconds)
                if event is None:
                    now = Timestamp()
                    now.GetCurrentTime()
                    yield pb.WatchOrderResponse(
                        heartbeat=pb.Heartbeat(server_time=now, sequence=delivered)
                    )
                    continue
                yield pb.WatchOrderResponse(event=event)
                delivered = event.sequence
                # A final status may have been taken back by a fork: only the latest counts.
                latest = max(order.sequence, watch.last)
                if delivered == latest and ends(event.status, event.settled):
                    return

    async def GetOrder(self, request: pb.GetOrderRequest, context: Any) -> pb.GetOrderResponse:
        return pb.GetOrderResponse(order=self._order(await self._find(requests.order_id(request))))

    async def ListOrders(
        self, request: pb.ListOrdersRequest, context: Any
    ) -> pb.ListOrdersResponse:
        asked = requests.orders_filter(request, self._store.tokens)
        orders = await self._store.list_orders(
            ACCOUNT,
            before=asked.before,
            statuses=asked.statuses,
            token=asked.token,
            venue=asked.venue,
            create_time_from=asked.create_time_from,
            create_time_before=asked.create_time_before,
            limit=asked.page.size + 1,
        )
        shown = orders[: asked.page.size]
        return pb.ListOrdersResponse(
            orders=[self._order(order) for order in shown],
            next_page_token=(
                requests.page_token(shown[-1].order_id) if len(orders) > len(shown) else ""
            ),
        )

    async def ListOrderEvents(
        self, request: pb.ListOrderEventsRequest, context: Any
    ) -> pb.ListOrderEventsResponse:
        asked, page, after = requests.events_page(request)
        order = await self._find(asked)
        events = await self._store.events([(order.order_id, after)], page.size + 1)
        shown = events[: page.size]
        return pb.ListOrderEventsResponse(
            events=[wire.event(order, event, self._store.tokens) for event in shown],
            next_page_token=(
                requests.page_token(shown[-1].sequence) if len(events) > len(shown) else ""
            ),
        )

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Any
    ) -> pb.ListTokensResponse:
        page, after = requests.tokens_page(request)
        end = after + page.size
        tokens = self._store.tokens.all
        return pb.ListTokensResponse(
            tokens=[
                pb.Token(symbol=token.symbol, mint=token.mint, decimals=token.decimals)
                for token in tokens[after:end]
            ],
            next_page_token=requests.page_token(end) if end < len(tokens) else "",
        )

    async def PreviewOrder(
        self, request: pb.PreviewOrderRequest, context: Any
    ) -> pb.PreviewOrderResponse:
        wanted = requests.preview(request, self._store.tokens, self._venues)
        decision = await self._route(wanted)
        tokens = self._store.tokens
        return pb.PreviewOrderResponse(
            route=wire.route(
                decision,
                wanted.amount_in,
                tokens.by_mint(wanted.token_in),
                tokens.by_mint(wanted.token_out),
            )
        )

    async def CancelOrder(
        self, request: pb.CancelOrderRequest, context: Any
    ) -> pb.CancelOrderResponse:
        asked = requests.order_id(request)
        for _ in range(CANCEL_TRIES):
            order = await self._find(asked)
            if order.status in FINAL:
                outcome = (
                    pb.CANCEL_OUTCOME_CANCELLED_NOW
                    if order.status is Status.CANCELLED and not order.cancel_requested
                    else pb.CANCEL_OUTCOME_TOO_LATE
                )
                return pb.CancelOrderResponse(outcome=outcome, order=self._order(order))
            if order.cancel_requested:
                return pb.CancelOrderResponse(
                    outcome=pb.CANCEL_OUTCOME_CANCEL_PENDING, order=self._order(order)
                )
            unsigned = order.status in UNSIGNED
            try:
                # Rule R7: either way the version moves on, so a signer that raced this loses.
                order = await self._relay.commit(
                    order.cancel() if unsigned else order.request_cancel()
                )
            except StaleOrder:
                continue
            return pb.CancelOrderResponse(
                outcome=(
                    pb.CANCEL_OUTCOME_CANCELLED_NOW
                    if unsigned
                    else pb.CANCEL_OUTCOME_CANCEL_PENDING
                ),
                order=self._order(order),
            )
        raise Overloaded("the order moves on faster than it can be cancelled; try again")

    async def _add(self, order: Order) -> Added:
        """Store the order, unless it is new and already past its expire_time."""
        try:
            _require_future(order.request)
        except InvalidRequest:
            # A repeated request is answered as the first was, however late it is repeated.
            earlier = await self._earlier(order) or await self._store.recover(order)
            if earlier is None:
                raise
            return Added(earlier, None)
        return await self._store.add(order)

    async def _check(self, order: Order) -> None:
        """Raise what adding the order would, or NoRoute; stores nothing."""
        earlier = await self._earlier(order)
        if earlier is None:
            _require_future(order.request)
        else:
            _require_same(earlier, order.request)
        await self._route(order.request)

    async def _earlier(self, order: Order) -> Order | None:
        """The order that has this order's key already, or None."""
        if order.client_order_id is None:
            return None
        return await self._store.get_by_client_order_id(order.account, order.client_order_id)

    async def _find(self, asked: OrderId) -> Order:
        if asked.order_id is not None:
            order = await self._store.get(asked.order_id)
            name = {"order_id": str(asked.order_id)}
        else:
            assert asked.client_order_id is not None
            order = await self._store.get_by_client_order_id(ACCOUNT, asked.client_order_id)
            name = {"client_order_id": asked.client_order_id}
        if order is None or order.account != ACCOUNT:
            [(field, value)] = name.items()
            raise OrderNotFound(f"there is no order with {field} {value}", **name)
        return order

    async def _route(self, wanted: OrderRequest) -> RouteDecision:
        """The route an order would take now; raises NoRoute when it could never take any."""
        quotes = await gather_quotes(self._venues, wanted, "preview", self._quote_timeout_seconds)
        decision = choose(wanted, None, quotes)
        if not isinstance(decision, NoOffer):
            return decision
        if decision.permanent:
            raise NoRoute(
                decision.failure.message,
                **{q.venue: q.refusal.message for q in decision.decision.quotes if q.refusal},
            )
        return decision.decision

    def _order(self, order: Order) -> pb.Order:
        return wire.order(order, self._store.tokens)

    def _later(self, step: Coroutine[Any, Any, None]) -> None:
        """Do what the client need not wait for; losing it costs a moment, never an order."""
        task = asyncio.create_task(step)
        self._after_answer.add(task)
        task.add_done_callback(self._after_answer.discard)


def _require_future(wanted: OrderRequest) -> None:
    if wanted.expire_time is not None and wanted.expire_time <= datetime.now(UTC):
        raise InvalidRequest(
            [Violation("expire_time", f"{wanted.expire_time:%Y-%m-%dT%H:%M:%SZ} has passed")]
        )


def _require_same(earlier: Order, wanted: OrderRequest) -> None:
    difference = first_difference(earlier.request, wanted)
    if difference is not None:
        raise ClientOrderIdReused(
            f"client_order_id {earlier.client_order_id} belongs to order {earlier.order_id}, "
            f"whose {difference} differs; use a new key for a new order",
            order_id=str(earlier.order_id),
            first_difference=difference,
        )


def _final(status: int, settled: bool) -> bool:
    return status in wire.FINAL


def _settled(status: int, settled: bool) -> bool:
    return settled
