"""The services of one order's life as one hand, on a chain whose blocks the test makes."""

from __future__ import annotations

from typing import Any

from solders.keypair import Keypair

from engine.accounts import Accounts
from engine.bus import Bus
from engine.lifecycle import EventType
from engine.order import Order
from engine.relay import Relay
from engine.route import Leg, Route, RouteDecision
from engine.store import Store
from engine.trading import TradingSwitch
from executor_svc.executor import Executor
from executor_svc.settlement import Settlement
from router_svc.router import Router
from tests import builders
from tests.engine.test_store import execute, read
from tests.fakes import FakeChain, FakeVenue, asking

WALLET = Keypair.from_seed(bytes([3] * 32))
FLOOR = 200_000_000


class Desk:
    """Router, executor and settlement as one hand; `again` is a process started anew."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.chain = FakeChain()
        self.venue = FakeVenue("raydium")
        self.other = FakeVenue("meteora", kind="meteora_damm_v2")
        self.again()

    def again(self) -> None:
        relay = Relay(self.store, Bus())
        venues = {"raydium": self.venue}
        self.switch, self.accounts = TradingSwitch(self.store), Accounts(self.store)
        self.router = Router(
            self.store, relay, asking(self.store, venues), self.switch, self.accounts
        )
        builders_of_swaps = {"raydium": self.venue, "meteora": self.other}
        self.executor = Executor(
            self.store, relay, builders_of_swaps, self.chain, WALLET, self.switch
        )
        self.settlement = Settlement(self.store, relay, self.chain, self.executor)
        self.relay = relay

    async def routed(self, **request: Any) -> Order:
        order = (await self.store.add(builders.new_order(**request))).order
        await self.router.route([order.order_id])
        return await read(self.store, order)

    async def along(self, *legs: Leg, **request: Any) -> Order:
        """An order whose route is these legs."""
        order = (await self.store.add(builders.new_order(**request))).order
        order = await self.relay.commit(order.start_routing())
        return await self._take(order, legs)

    async def along_again(self, order: Order, *legs: Leg) -> Order:
        """The order's back-off is over: its route is these legs now."""
        await execute(self.store, "UPDATE orders SET not_before = now() WHERE not_before > now()")
        return await self._take(await read(self.store, order), legs)

    async def _take(self, order: Order, legs: tuple[Leg, ...]) -> Order:
        quoted = sum(leg.quoted_amount_out for leg in legs if leg.mint_out == builders.USDC)
        route = Route(legs, quoted)
        bare = Route(route.agreed_legs, quoted)
        decision = RouteDecision((), "for the test", bare, FLOOR)
        return await self.relay.commit(order.choose_route(decision, route))

    async def submitted(self, **request: Any) -> Order:
        order = await self.routed(**request)
        await self.executor.execute([order.order_id])
        return await read(self.store, order)

    async def settled(self, order: Order, *, rounds: int = 1) -> Order:
        for _ in range(rounds):
            await self.settlement.settle([await read(self.store, order)])
        return await read(self.store, order)

    async def retried(self, order: Order) -> Order:
        """The back-off is over: route and execute again."""
        await execute(self.store, "UPDATE orders SET not_before = now() WHERE not_before > now()")
        await self.router.route([order.order_id])
        await self.executor.execute([order.order_id])
        return await read(self.store, order)

    async def types(self, order: Order) -> list[EventType]:
        return [event.type for event in await self.store.events([(order.order_id, 0)], 100)]
