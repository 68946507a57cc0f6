"""Why an order stands where it stands, told from the order and its events alone."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from engine import order as domain
from engine import token, wire
from engine.attempt import Attempt, Fill, Resolution
from engine.lifecycle import EventType, Status
from engine.order import Order, OrderEvent
from engine.route import JOINED, RouteDecision
from engine.token import Token, Tokens
from engine.v1 import orders_pb2 as pb

# As many digits of a price as people read.
PRICE_DIGITS: Final = Context(prec=6)
_HUNDREDTHS: Final = Token("", "", 2)
_TEN_THOUSANDTHS: Final = Token("", "", 4)


def explain(order: Order, events: Sequence[OrderEvent], tokens: Tokens) -> pb.ExplainOrderResponse:
    """The whole explanation; `events` are all those up to the order's sequence, oldest first."""
    token_out = tokens.by_mint(order.request.token_out)
    response = pb.ExplainOrderResponse(
        summary=summary(order, events, tokens), order=wire.order(order, tokens)
    )
    for event in events:
        if event.detail.route is not None:
            decision = wire.route(event.detail.route, order.request, tokens)
            response.routes.add(decision=decision, decide_time=wire.timestamp(event.time))
    for attempt in order.attempts:
        told = [event for event in events if _concerns(event, attempt)]
        response.attempts.add(
            outcome=outcome(attempt, _fill_of(attempt, order)),
            attempt=wire.attempt(attempt, token_out, tokens),
            sign_time=_time(told, signed=True),
            resolve_time=_time(told, signed=False),
            fill=_fill(order, attempt, events, tokens),
        )
    _add_stages(response, events)
    return response


def summary(order: Order, events: Sequence[OrderEvent], tokens: Tokens) -> str:
    """One plain sentence: where the order stands and why."""
    match order.status:
        case Status.PENDING:
            said = "Accepted and durable; waiting for a router"
        case Status.ROUTING:
            said = _routing(order)
        case Status.BUILDING:
            assert order.route is not None
            said = (
                f"The swap is built and checked for {_named(order.route.venue)}; nothing is signed"
            )
        case Status.SUBMITTED:
            said = _submitted(order, events, tokens)
        case Status.CONFIRMED:
            said = _confirmed(order, events, tokens)
        case Status.FAILED:
            said = f"Failed{_after_tries(order)}, and nothing was swapped: {_why(order)}"
        case Status.CANCELLED:
            said = f"Cancelled by its owner, and nothing was swapped: {_nothing_landed(order)}"
        case Status.EXPIRED:
            expire_time = order.request.expire_time
            moment = f" at {expire_time:%Y-%m-%dT%H:%M:%SZ}" if expire_time else ""
            said = f"Expired{moment}, and nothing was swapped: {_nothing_landed(order)}"
    return f"{said}."


def outcome(attempt: Attempt, fill: Fill | None) -> str:
    """One plain sentence: how an attempt ended, and what proves it; `fill` is what it swapped."""
    evidence = attempt.evidence
    if attempt.resolution is None or evidence is None:
        if fill is not None:
            return f"Swapped in slot {fill.slot}; final once that slot is finalized."
        return f"Live: it may land up to block height {attempt.last_valid_block_height}."
    witness = f"{evidence.node} at slot {evidence.status_context_slot}"
    match attempt.resolution:
        case Resolution.LANDED:
            return f"Swapped in slot {evidence.slot}, finalized as {witness} says."
        case Resolution.LANDED_WITH_ERROR:
            return (
                f"Failed on chain in slot {evidence.slot} ({evidence.error}), finalized as "
                f"{witness} says: nothing was swapped."
            )
        case Resolution.EXPIRED_UNLANDED:
            return (
                f"Never landed: block height {evidence.finalized_block_height} was finalized at "
                f"slot {evidence.height_context_slot}, it was valid up to "
                f"{attempt.last_valid_block_height}, and {witness}, asked after that, has no "
                "record of it."
            )


def _routing(order: Order) -> str:
    if order.route is not None:
        return f"{_named(order.route.venue)} was chosen; waiting for an executor, nothing is signed"
    if order.failure is not None:
        retries = f"retry {order.retries} of {len(domain.RETRY_DELAYS)}"
        return f"Waiting for {retries}, since the last try failed: {_why(order)}"
    return "Venues are asked for quotes; nothing is signed"


def _submitted(order: Order, events: Sequence[OrderEvent], tokens: Tokens) -> str:
    live = order.live_attempt
    assert live is not None
    out = tokens.by_mint(order.request.token_out)
    floor = f"{out.format(live.min_amount_out)} {out.symbol}"
    said = (
        f"Attempt {live.number} is signed for {_named(live.venue)} and may still land, for "
        f"at least {floor}, up to block height {live.last_valid_block_height}"
    )
    moves = [event.type for event in events if event.type is not EventType.CANCEL_REQUESTED]
    if moves and moves[-1] is EventType.SWAP_REORGED:
        said += "; a fork took back a swap that was confirmed"
    if order.cancel_requested:
        said += "; a cancel waits for its end, and no other attempt follows"
    return said


def _confirmed(order: Order, events: Sequence[OrderEvent], tokens: Tokens) -> str:
    fill = order.fill
    assert fill is not None
    request = order.request
    token_in, token_out = tokens.by_mint(request.token_in), tokens.by_mint(request.token_out)
    price = token.price(fill.amount_in, token_in, fill.amount_out, token_out)
    attempt = next(a for a in order.attempts if a.signature == fill.signature)
    readable = format(PRICE_DIGITS.create_decimal(price), "f")
    pair = f"{token_out.symbol} per {token_in.symbol}"
    said = f"Confirmed on {_named(attempt.venue)} at {readable} {pair}"
    if order.min_amount_out is not None:
        better = _percent(fill.amount_out - order.min_amount_out, order.min_amount_out)
        said += f", {better} better than the floor"
    decision = _decision_before(attempt, events)
    if decision is not None:
        said += f"; {_others(decision)}"
    if not order.settled:
        said += "; not finalized yet"
    return said


def _decision_before(attempt: Attempt, events: Sequence[OrderEvent]) -> RouteDecision | None:
    """The decision that led to an attempt; None when the record of it was lost."""
    last = None
    for event in events:
        if event.type is EventType.ROUTE_CHOSEN:
            last = event.detail.route
        if event.type is EventType.ATTEMPT_SIGNED and _concerns(event, attempt):
            return last
    return None


def _others(decision: RouteDecision) -> str:
    """What the best of the pools not taken would have given for the whole amount."""
    best = decision.route
    several = best is not None and len(best.legs) > 1
    # Next to a split, a venue of it is another way, too: its best pool alone.
    others = [quote for quote in decision.quotes if several or quote.venue != decision.venue]
    offers = [quote for quote in others if quote.refusal is None]
    if not others:
        return "no other venue was asked"
    if best is None or not offers:
        names = " and ".join(quote.venue for quote in others)
        return "no single pool offered anything" if several else f"{names} offered nothing"
    second = max(offers, key=lambda quote: quote.amount_out)
    offered = f"the best single pool, at {second.venue}," if several else second.venue
    lead = best.quoted_amount_out - second.amount_out
    if lead < 0:
        more = _percent(-lead, best.quoted_amount_out)
        return f"{offered} offered {more} more, which network cost and its past outweighed"
    if lead == 0:
        return f"{offered} offered the same"
    return f"{offered} offered {_percent(lead, best.quoted_amount_out)} less"


def _named(venues: str) -> str:
    """ "meteora and raydium" for "meteora+raydium"."""
    return venues.replace(JOINED, " and ")


def _percent(part: int, whole: int) -> str:
    """Rounded down to hundredths, or to ten-thousandths where that would leave nothing."""
    hundredths = part * 10_000 // whole
    if hundredths:
        return f"{_HUNDREDTHS.format(hundredths)} %"
    return f"{_TEN_THOUSANDTHS.format(part * 1_000_000 // whole)} %"


def _after_tries(order: Order) -> str:
    match order.retries:
        case 0:
            return ""
        case 1:
            return " after 1 retry"
        case tries:
            return f" after {tries} retries"


def _why(order: Order) -> str:
    return order.failure.message.rstrip(".") if order.failure else "the reason is not on record"


def _nothing_landed(order: Order) -> str:
    if not order.attempts:
        return "nothing had been signed"
    last = order.attempts[-1]
    failed = last.resolution is Resolution.LANDED_WITH_ERROR
    end = "to have failed on chain" if failed else "never to have landed"
    return f"attempt {last.number} is proven {end}"


def _concerns(event: OrderEvent, attempt: Attempt) -> bool:
    return event.detail.attempt is not None and event.detail.attempt.number == attempt.number


def _fill(
    order: Order, attempt: Attempt, events: Sequence[OrderEvent], tokens: Tokens
) -> pb.Fill | None:
    swapped = _fill_of(attempt, order)
    if swapped is None:
        return None
    # Only the event tells what it left of other tokens.
    told = [fill for event in events if (fill := event.detail.fill) and fill.on_order == swapped]
    return wire.fill(told[-1] if told else swapped, order.request, tokens)


def _fill_of(attempt: Attempt, order: Order) -> Fill | None:
    """What the order says that this attempt swapped."""
    fill = order.fill
    return fill if fill is not None and fill.signature == attempt.signature else None


def _time(events: Sequence[OrderEvent], *, signed: bool) -> Timestamp | None:
    wanted = (e for e in events if (e.type is EventType.ATTEMPT_SIGNED) is signed)
    found = next(wanted, None)
    return wire.timestamp(found.time) if found else None


def _add_stages(response: pb.ExplainOrderResponse, events: Sequence[OrderEvent]) -> None:
    since = None
    for event in events:
        if event.status is event.previous_status or event.time is None:
            continue
        if since is not None:
            response.stages[-1].duration.FromTimedelta(event.time - since)
        since = event.time
        response.stages.add(status=wire.STATUS[event.status], start_time=wire.timestamp(since))
