"""Orders in any status, one call each, moved there by their own verbs."""

from __future__ import annotations

import uuid_utils.compat

from engine.attempt import Attempt, Evidence, Fill
from engine.failures import Failure
from engine.lifecycle import Status
from engine.order import Order, OrderRequest, Transition
from engine.route import Leg, Route, RouteDecision, VenueQuote
from engine.store import Store

SOL = "So11111111111111111111111111111111111111112"
USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
RAY = "4k3Dyjzvzp8eMZWUXbBCjEvwSkkk59S5iCNLY3QrkX6R"

FAILURE = Failure("TEST", "for the test")
EVIDENCE = Evidence(status_context_slot=12, node="node-1", slot=10)


def new_order(client_order_id: str | None = None, **request: object) -> Order:
    """An order for 1.5 SOL to USDC; `request` replaces its request's fields."""
    facts: dict[str, object] = {"token_in": SOL, "token_out": USDC, "amount_in": 1_500_000_000}
    wanted = OrderRequest(**(facts | request))  # type: ignore[arg-type]
    return Order(uuid_utils.compat.uuid7(), "default", client_order_id, wanted)


def decision(amount_out: int = 225_000_000, floor: int = 222_750_000) -> RouteDecision:
    """Raydium wins over a venue that refused."""
    quotes = (
        VenueQuote("meteora", 900, refusal=Failure("VENUE_TIMEOUT", "late")),
        VenueQuote("raydium", 1200, "pool", amount_out, 3_750_000, 120, 7),
    )
    why = "raydium was the only venue with a quote"
    return RouteDecision(quotes, why, route(amount_out, floor), floor)


def leg(amount_out: int = 225_000_000, floor: int = 222_750_000, venue: str = "raydium") -> Leg:
    """A swap of a new order's whole amount."""
    return Leg(venue, "pool", "raydium_cpmm", SOL, USDC, 1_500_000_000, amount_out, floor)


def route(amount_out: int = 225_000_000, floor: int = 222_750_000, venue: str = "raydium") -> Route:
    """A route of that leg alone."""
    return Route((leg(amount_out, floor, venue),), amount_out)


def attempt(order: Order, signature: str = "") -> Attempt:
    """The next attempt of an order with a route."""
    number = order.next_number
    return Attempt(
        number=number,
        legs=order.route.legs if order.route else (leg(),),
        signature=signature or f"{order.order_id}-{number}",
        blockhash="hash",
        last_valid_block_height=150,
        min_amount_out=order.min_amount_out or 1,
        transaction=b"signed bytes",
    )


def fill(order: Order) -> Fill:
    """A swap that kept the floor."""
    return Fill(
        order.request.amount_in,
        (order.min_amount_out or 0) + 1,
        10,
        order.attempts[-1].signature,
        5000,
    )


def steps(order: Order, status: Status) -> list[Transition]:
    """The transitions that lead a PENDING order to `status` (CONFIRMED: not settled)."""
    taken: list[Transition] = []

    def take(transition: Transition) -> Order:
        taken.append(transition)
        return transition.order

    match status:
        case Status.PENDING:
            return taken
        case Status.CANCELLED:
            take(order.cancel())
            return taken
        case Status.EXPIRED:
            take(order.expire())
            return taken
    order = take(order.start_routing())
    if status is Status.ROUTING:
        return taken
    if status is Status.FAILED:
        take(order.fail(FAILURE))
        return taken
    order = take(order.choose_route(decision()))
    order = take(order.start_building())
    if status is Status.BUILDING:
        return taken
    order = take(order.sign(attempt(order)))
    if status is Status.SUBMITTED:
        return taken
    take(order.confirm(fill(order)))
    return taken


async def stored(store: Store, status: Status, order: Order | None = None) -> Order:
    """An order that was led to `status` in the database, and that nobody was told of."""
    return await led(store, (await store.add(order or new_order())).order, status)


async def led(store: Store, order: Order, status: Status) -> Order:
    """The stored PENDING order, led to `status` by steps that nobody was told of."""
    for transition in steps(order, status):
        order = (await store.save(transition)).order
    return order


def in_status(status: Status) -> Order:
    """An order, never stored, that its verbs led to `status`."""
    order = new_order()
    taken = steps(order, status)
    return taken[-1].order if taken else order
