"""OrderService: parse, call, convert. Errors travel as engine exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from engine import wire
from engine.accounts import Accounts
from engine.errors import FutureSequence, OrderNotFound, Overloaded, StaleOrder
from engine.lifecycle import FINAL, UNSIGNED, Status
from engine.order import Order
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from engine.v1 import orders_pb2_grpc
from gateway import pages, requests, risks, selection
from gateway.acceptance import Acceptance
from gateway.explanation import explain
from gateway.guard import caller
from gateway.log_watch import LogTail, Reader
from gateway.requests import OrderId
from gateway.routes import Routes
from gateway.watch import WatchHub

# A cancel that loses a race reads again; an order has only so many steps.
CANCEL_TRIES: Final = 20
# Far more than the tries and forks of one order make.
MAX_EXPLAINED_EVENTS: Final = 1000
# In the initial metadata of WatchOrders: where it begins.
RESUME_TOKEN: Final = "resume-token"


class OrderService(orders_pb2_grpc.OrderServiceServicer):
    """What clients call."""

    def __init__(
        self,
        store: Store,
        relay: Relay,
        acceptance: Acceptance,
        hub: WatchHub,
        tail: LogTail,
        routes: Routes,
        venues: Collection[str],
        accounts: Accounts,
    ) -> None:
        self._store = store
        self._relay = relay
        self._acceptance = acceptance
        self._hub = hub
        self._tail = tail
        self._routes = routes
        self._venues = venues
        self._accounts = accounts

    async def SubmitOrder(
        self, request: pb.SubmitOrderRequest, context: Any
    ) -> pb.SubmitOrderResponse:
        return await self._acceptance.accept(request, caller().account)

    async def SubmitOrders(
        self, request_iterator: AsyncIterator[pb.SubmitOrdersRequest], context: Any
    ) -> AsyncIterator[pb.SubmitOrdersResponse]:
        async for response in self._acceptance.accept_each(request_iterator, caller().account):
            yield response

    async def WatchOrder(
        self, request: pb.WatchOrderRequest, context: Any
    ) -> AsyncIterator[pb.WatchOrderResponse]:
        asked, heartbeat_seconds = requests.watch(request)
        resuming = request.HasField("after_sequence")
        ends = _settled if request.until_settled else _final
        life = self._hub.fresh(asked.order_id, request.after_sequence) if resuming else None
        if life is not None and life.order.account == caller().account:
            order, after, heard = life.order, request.after_sequence, tuple(life.events)
            if 0 < after == len(heard) and ends(heard[-1].status, heard[-1].settled):
                return
        else:
            order, heard = await self._find(asked), None
            after = request.after_sequence if resuming else order.sequence
            if after > order.sequence:
                raise FutureSequence(
                    f"after_sequence {after} does not exist yet: resume after "
                    f"{order.sequence} at most",
                    latest_sequence=str(order.sequence),
                )
            if not resuming:
                yield pb.WatchOrderResponse(snapshot=self._order(order))
            if after == order.sequence and ends(wire.STATUS[order.status], order.settled):
                return
        delivered = after
        async with self._hub.watch(order, after, heard) as watch:
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

    async def WatchOrders(
        self, request: pb.WatchOrdersRequest, context: Any
    ) -> AsyncIterator[pb.WatchOrdersResponse]:
        asked = selection.watch_orders(request, caller().account, self._store.tokens, self._venues)
        async with self._tail.read(asked.selection) as reader:
            # From here on nothing is missed, even if no message ever arrives.
            since = asked.since or reader.place
            await context.send_initial_metadata(((RESUME_TOKEN, selection.resume_token(since)),))
            if asked.since is not None:
                async for events in self._tail.replay(reader, asked.since):
                    yield _happened(events, reader)
            if asked.snapshot:
                async for orders in self._tail.snapshot(reader):
                    shown = [self._order(order) for order in orders]
                    kept = [order for order in shown if asked.selection.has(order)]
                    yield pb.WatchOrdersResponse(snapshot=pb.OrdersSnapshot(orders=kept))
                yield pb.WatchOrdersResponse(
                    snapshot=pb.OrdersSnapshot(complete=True),
                    resume_token=selection.resume_token(reader.place),
                )
            while True:
                yield _happened(await reader.next(asked.heartbeat_seconds, self._tail), reader)

    async def GetOrder(self, request: pb.GetOrderRequest, context: Any) -> pb.GetOrderResponse:
        return pb.GetOrderResponse(order=self._order(await self._find(requests.order_id(request))))

    async def ExplainOrder(
        self, request: pb.ExplainOrderRequest, context: Any
    ) -> pb.ExplainOrderResponse:
        asked = requests.order_id(request)
        order = await self._find(asked)
        events = await self._store.events([(order.order_id, 0)], MAX_EXPLAINED_EVENTS)
        told = [event for event in events if event.sequence <= order.sequence]
        return explain(order, told, self._store.tokens)

    async def ListOrders(
        self, request: pb.ListOrdersRequest, context: Any
    ) -> pb.ListOrdersResponse:
        asked = requests.orders_filter(request, self._store.tokens)
        orders = await self._store.list_orders(
            caller().account,
            after=asked.after,
            oldest_first=asked.oldest_first,
            statuses=asked.statuses,
            token=asked.token,
            venue=asked.venue,
            create_time_from=asked.create_time_from,
            create_time_before=asked.create_time_before,
            limit=asked.page_size + 1,
        )
        shown = orders[: asked.page_size]
        return pb.ListOrdersResponse(
            orders=[self._order(order) for order in shown],
            next_page_token=(
                pages.ORDERS.token(shown[-1].order_id, *asked.of)
                if len(orders) > len(shown)
                else ""
            ),
        )

    async def ListOrderEvents(
        self, request: pb.ListOrderEventsRequest, context: Any
    ) -> pb.ListOrderEventsResponse:
        asked, page = requests.events_page(request)
        order = await self._find(asked)
        order_id = str(order.order_id)
        after = int(page.after(order_id) or 0)
        events = await self._store.events([(order.order_id, after)], page.size + 1)
        shown = events[: page.size]
        return pb.ListOrderEventsResponse(
            events=[wire.event(order, event, self._store.tokens) for event in shown],
            next_page_token=(
                pages.EVENTS.token(shown[-1].sequence, order_id) if len(events) > len(shown) else ""
            ),
        )

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Any
    ) -> pb.ListTokensResponse:
        after, size = requests.tokens_page(request)
        end = after + size
        tokens = self._store.tokens.all
        return pb.ListTokensResponse(
            tokens=[
                pb.Token(symbol=token.symbol, mint=token.mint, decimals=token.decimals)
                for token in tokens[after:end]
            ],
            next_page_token=pages.TOKENS.token(end) if end < len(tokens) else "",
        )

    async def PreviewOrder(
        self, request: pb.PreviewOrderRequest, context: Any
    ) -> pb.PreviewOrderResponse:
        wanted = requests.preview(request, self._store.tokens, self._venues)
        account, tokens = caller().account, self._store.tokens
        limits = self._accounts.limits(account)
        risks.require_within(wanted, limits, tokens)
        decision, points = await self._routes.preview(account, wanted, limits.max_price_impact_bps)
        return pb.PreviewOrderResponse(
            route=wire.route(decision, wanted, tokens),
            curve=[wire.impact_point(point, wanted, tokens) for point in points],
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

    async def _find(self, asked: OrderId) -> Order:
        """The caller's order; raises OrderNotFound for those of others too."""
        account = caller().account
        if asked.order_id is not None:
            order = await self._store.get(asked.order_id)
            name = {"order_id": str(asked.order_id)}
        else:
            assert asked.client_order_id is not None
            order = await self._store.get_by_client_order_id(account, asked.client_order_id)
            name = {"client_order_id": asked.client_order_id}
        if order is None or order.account != account:
            [(field, value)] = name.items()
            raise OrderNotFound(
                f"there is no order with {field} {value}: ListOrders has those there are", **name
            )
        return order

    def _order(self, order: Order) -> pb.Order:
        return wire.order(order, self._store.tokens)


def _happened(events: Sequence[pb.OrderEvent], reader: Reader) -> pb.WatchOrdersResponse:
    token = selection.resume_token(reader.place)
    if events:
        return pb.WatchOrdersResponse(events=pb.OrderEvents(events=events), resume_token=token)
    now = Timestamp()
    now.GetCurrentTime()
    return pb.WatchOrdersResponse(heartbeat=pb.OrdersHeartbeat(server_time=now), resume_token=token)


def _final(status: int, settled: bool) -> bool:
    return status in wire.FINAL


def _settled(status: int, settled: bool) -> bool:
    return settled
