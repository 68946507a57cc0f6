"""Adopting what the chain shows of an order and a restored record has forgotten. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from engine.attempt import Attempt, Evidence, Fill
from engine.failures import Failure
from engine.lifecycle import Status
from engine.order import Order, OrderRequest, Transition
from engine.route import Leg, Route, RouteDecision, VenueQuote

UNKNOWN: Final = "unknown"
WHY: Final = (
    "the route was chosen in a record that was lost; its swap was found on the chain, "
    "so quote and floor are what it paid"
)


@dataclass(frozen=True, slots=True)
class Swapped:
    """What a landed transaction paid, and received of one token, in base units."""

    token_in: str
    token_out: str
    amount_in: int
    amount_out: int
    network_fee_lamports: int


@dataclass(frozen=True, slots=True)
class Landing:
    """A finalized transaction of ours; nothing was swapped when it failed with `error`.

    order_id, number and key_hash are its memo's; `context_slot` is of the node that showed it.
    A route by way of a third token leaves some of that in the wallet: `swaps` has what was
    received of each token, and only the order's request tells which was asked for.
    """

    order_id: UUID
    number: int
    key_hash: str
    signature: str
    slot: int
    context_slot: int
    error: str = ""
    swaps: tuple[Swapped, ...] = ()

    def swapped_for(self, request: OrderRequest) -> Swapped | None:
        """What it did for such a request; None when it failed."""
        first = self.swaps[0] if self.swaps else None
        return next((s for s in self.swaps if s.token_out == request.token_out), first)


def first_difference(request: OrderRequest, swapped: Swapped) -> str | None:
    """The request's first field that this swap does not satisfy, or None."""
    if request.token_in != swapped.token_in:
        return "token_in"
    if request.token_out != swapped.token_out:
        return "token_out"
    if request.amount_in != swapped.amount_in:
        return "amount_in"
    if request.min_amount_out is not None and swapped.amount_out < request.min_amount_out:
        return "min_amount_out"
    return None


def adopt(order: Order, landing: Landing) -> list[Transition]:
    """The steps by which an order without a live attempt gets this attempt, already resolved.

    A swap settles it as CONFIRMED, a failed transaction uses up a try. Raises IllegalTransition
    for an order that is final.
    """
    taken: list[Transition] = []

    def take(transition: Transition) -> Order:
        taken.append(transition)
        return transition.order

    if order.status is Status.PENDING:
        order = take(order.start_routing())
    swapped = landing.swapped_for(order.request)
    if swapped is None:
        take(order.adopt_failed(_attempt(order, landing), _evidence(landing), _failure(landing)))
        return taken
    if order.route is None:
        order = take(order.choose_route(_decision(order, swapped)))
    if order.status is Status.ROUTING:
        order = take(order.start_building())
    order = take(order.sign(_attempt(order, landing)))
    fill = Fill(
        swapped.amount_in,
        swapped.amount_out,
        landing.slot,
        landing.signature,
        swapped.network_fee_lamports,
    )
    order = take(order.confirm(fill))
    take(order.finalize(_evidence(landing)))
    return taken


def _decision(order: Order, swapped: Swapped) -> RouteDecision:
    quote = VenueQuote(UNKNOWN, 0, pool=UNKNOWN, amount_out=swapped.amount_out)
    floor = order.min_amount_out or order.request.min_amount_out or swapped.amount_out
    leg = replace(_unknown_leg(order), quoted_amount_out=swapped.amount_out, min_amount_out=floor)
    return RouteDecision((quote,), WHY, Route((leg,), swapped.amount_out), floor)


def _unknown_leg(order: Order) -> Leg:
    request = order.request
    return Leg(
        venue=UNKNOWN,
        pool=UNKNOWN,
        kind=UNKNOWN,
        mint_in=request.token_in,
        mint_out=request.token_out,
        amount_in=request.amount_in,
        quoted_amount_out=0,
    )


def _attempt(order: Order, landing: Landing) -> Attempt:
    """What is known of it: no bytes, so nobody can send it, no blockhash and no height."""
    return Attempt(
        # Another order of the same key may have used the number already.
        number=max(landing.number, order.next_number),
        legs=order.route.agreed_legs if order.route else (_unknown_leg(order),),
        signature=landing.signature,
        blockhash="",
        last_valid_block_height=0,
        min_amount_out=order.min_amount_out or order.request.min_amount_out or 1,
        transaction=b"",
    )


def _evidence(landing: Landing) -> Evidence:
    return Evidence(landing.context_slot, "", slot=landing.slot, error=landing.error)


def _failure(landing: Landing) -> Failure:
    reason, _, words = landing.error.partition(": ")
    return Failure(reason, words or "the transaction failed on chain; nothing was swapped")
