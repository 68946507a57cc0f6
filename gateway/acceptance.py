"""Accepting orders: checked, admitted, made durable; one at a time or many on a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Final

import structlog
import uuid_utils
from asyncpg.pgproto.pgproto import UUID

from engine import answers, wire
from engine.accounts import Accounts
from engine.allowance import AccountLimits
from engine.errors import (
    ClientOrderIdReused,
    InvalidRequest,
    RequestError,
    ShuttingDown,
    Violation,
)
from engine.new_orders import Added
from engine.order import Order, OrderRequest, first_difference
from engine.store import Store
from engine.trading import TradingSwitch
from engine.v1 import orders_pb2 as pb
from gateway import requests, risks
from gateway.admission import Admission
from gateway.routes import Routes

logger = structlog.get_logger()

MAX_ORDERS_A_MESSAGE: Final = 500
# Of one stream: what else it sends waits in the client.
MAX_UNANSWERED: Final = 2_000


class Acceptance:
    """Decides about each order that a client submits."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        switch: TradingSwitch,
        accounts: Accounts,
        routes: Routes,
        venues: Collection[str],
    ) -> None:
        self._store = store
        self._switch = switch
        self._accounts = accounts
        self._admission = admission
        self._routes = routes
        self._venues = venues
        self._submissions: set[Submissions] = set()
        self._draining = False

    async def accept(self, message: pb.SubmitOrderRequest, account: str) -> pb.SubmitOrderResponse:
        """The durable order, or with validate_only what it would be; raises RequestErrors."""
        key, wanted = requests.submit(message, self._store.tokens, self._venues)
        order = Order(UUID(uuid_utils.uuid7().bytes), account, key, wanted)
        if message.validate_only:
            await self._check(order)
            return pb.SubmitOrderResponse(order=wire.order(order, self._store.tokens))
        added = await self._add(order)
        if added.event is None:
            _require_same(added.order, wanted)
        return pb.SubmitOrderResponse(
            order=wire.order(added.order, self._store.tokens), duplicate=added.event is None
        )

    async def accept_each(
        self, messages: AsyncIterator[pb.SubmitOrdersRequest], account: str
    ) -> AsyncIterator[pb.SubmitOrdersResponse]:
        """What becomes of each order of a stream, as it becomes known.

        Raises ShuttingDown on drain, once everything that was read is answered.
        """
        submissions = Submissions(self, account)
        self._submissions.add(submissions)
        if self._draining:
            submissions.drain()
        try:
            async for response in submissions.answers(messages):
                yield response
        finally:
            self._submissions.discard(submissions)

    def drain(self) -> None:
        """Read nothing more from any stream."""
        self._draining = True
        for submissions in self._submissions:
            submissions.drain()

    async def _add(self, order: Order) -> Added:
        """Store the order, unless it is new and not to be accepted."""
        limits = self._accounts.limits(order.account)
        try:
            self._require_acceptable(order.request, limits)
            self._admission.enter()
        except RequestError:
            # A repeated request is answered as the first was, however late it is repeated.
            earlier = None if order.client_order_id is None else await self._store.earlier(order)
            if earlier is None:
                raise
            return Added(earlier, None)
        accepted = False
        try:
            added = await self._store.add(order, limits.allowance)
            accepted = added.event is not None
            return added
        finally:
            self._admission.leave(accepted=accepted)

    async def _check(self, order: Order) -> None:
        """Raise what adding the order would, or NoRoute; stores nothing."""
        earlier = await self._earlier(order)
        limits = self._accounts.limits(order.account)
        if earlier is None:
            self._require_acceptable(order.request, limits)
        else:
            _require_same(earlier, order.request)
        await self._routes.require(order.account, order.request, limits.max_price_impact_bps)

    def _require_acceptable(self, wanted: OrderRequest, limits: AccountLimits) -> None:
        _require_future(wanted)
        self._switch.require_active()
        risks.require_within(wanted, limits, self._store.tokens)

    async def _earlier(self, order: Order) -> Order | None:
        """The order that has this order's key already, or None."""
        if order.client_order_id is None:
            return None
        return await self._store.get_by_client_order_id(order.account, order.client_order_id)


class Submissions:
    """The orders of one stream: accepted side by side, answered as they are done."""

    def __init__(self, acceptance: Acceptance, account: str) -> None:
        self._acceptance = acceptance
        self._account = account
        self._room = asyncio.Semaphore(MAX_UNANSWERED)
        self._accepting: set[asyncio.Task[None]] = set()
        self._results: list[pb.SubmitOrdersResult] = []
        self._news = asyncio.Event()
        self._drained = asyncio.Event()

    async def answers(
        self, messages: AsyncIterator[pb.SubmitOrdersRequest]
    ) -> AsyncIterator[pb.SubmitOrdersResponse]:
        """Results in any order, until the client has closed its side and all are told."""
        reading = asyncio.create_task(self._read(messages))
        draining = asyncio.create_task(self._drained.wait())
        reading.add_done_callback(lambda _: self._news.set())
        draining.add_done_callback(lambda _: self._news.set())
        try:
            while not reading.done() or self._accepting or self._results:
                await self._news.wait()
                self._news.clear()
                if draining.done():
                    reading.cancel()
                if self._results:
                    results, self._results = self._results, []
                    yield pb.SubmitOrdersResponse(results=results)
            if draining.done():
                raise ShuttingDown(
                    "this gateway is stopping; send again what has no result, with the same "
                    "client_order_ids"
                )
            reading.result()
        finally:
            reading.cancel()
            draining.cancel()
            for accepting in self._accepting:
                accepting.cancel()

    def drain(self) -> None:
        """Read no more."""
        self._drained.set()

    async def _read(self, messages: AsyncIterator[pb.SubmitOrdersRequest]) -> None:
        index = 0
        async for message in messages:
            if len(message.orders) > MAX_ORDERS_A_MESSAGE:
                raise InvalidRequest(
                    [
                        Violation(
                            "orders",
                            f"{len(message.orders)} in one message must be at most "
                            f"{MAX_ORDERS_A_MESSAGE}",
                        )
                    ]
                )
            for order in message.orders:
                await self._room.acquire()
                task = asyncio.create_task(self._accept(index, order))
                self._accepting.add(task)
                task.add_done_callback(self._accepted)
                index += 1

    async def _accept(self, index: int, order: pb.SubmitOrderRequest) -> None:
        try:
            accepted = await self._acceptance.accept(order, self._account)
            result = pb.SubmitOrdersResult(index=index, accepted=accepted)
        except RequestError as error:
            result = pb.SubmitOrdersResult(index=index, refused=answers.to_refused(error))
        except Exception as error:  # noqa: BLE001 - the edge of each order of the stream
            result = pb.SubmitOrdersResult(index=index, refused=answers.to_internal(error))
        self._results.append(result)

    def _accepted(self, task: asyncio.Task[None]) -> None:
        self._accepting.discard(task)
        self._room.release()
        self._news.set()


def _require_future(wanted: OrderRequest) -> None:
    if wanted.expire_time is not None and wanted.expire_time <= datetime.now(UTC):
        raise InvalidRequest(
            [
                Violation(
                    "expire_time",
                    f"{wanted.expire_time:%Y-%m-%dT%H:%M:%SZ} has passed: give a later time",
                )
            ]
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
