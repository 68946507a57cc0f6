"""Orders and events as protobuf; the only module that knows both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from engine import lifecycle, token
from engine import order as domain
from engine.attempt import Attempt, Fill, Leftover, Resolution
from engine.failures import Failure
from engine.lifecycle import EventType, Status
from engine.order import NO_DETAIL, Detail, Order, OrderEvent, OrderRequest
from engine.route import Candidate, ImpactPoint, Leg, RouteDecision, VenueScore
from engine.token import Token, Tokens
from engine.v1 import orders_pb2 as pb

STATUS: Final = {s: pb.OrderStatus.Value(f"ORDER_STATUS_{s.name}") for s in Status}
STATUS_OF: Final = {number: status for status, number in STATUS.items()}
_EVENT_TYPE: Final = {e: pb.OrderEventType.Value(f"ORDER_EVENT_TYPE_{e.name}") for e in EventType}
_ORDER_TYPE: Final = {t: pb.OrderType.Value(f"ORDER_TYPE_{t.name}") for t in domain.OrderType}
_RESOLUTION: Final = {
    r: pb.AttemptResolution.Value(f"ATTEMPT_RESOLUTION_{r.name}") for r in Resolution
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# NATS takes messages of up to a MiB.
_BATCH_BYTES: Final = 256 * 1024
_HUNDREDTHS: Final = Token("", "", 2)
FINAL: Final = frozenset(STATUS[status] for status in lifecycle.FINAL)


def order(order: Order, tokens: Tokens) -> pb.Order:
    """The public view of an order."""
    request = order.request
    token_in, token_out = tokens.by_mint(request.token_in), tokens.by_mint(request.token_out)
    message = pb.Order(
        # A validated order that was not stored has no id.
        order_id=str(order.order_id) if order.create_time else "",
        client_order_id=order.client_order_id or "",
        account=order.account,
        order_type=_ORDER_TYPE[request.order_type],
        token_in=token_in.symbol,
        token_out=token_out.symbol,
        token_in_mint=token_in.mint,
        token_out_mint=token_out.mint,
        amount_in=token_in.format(request.amount_in),
        slippage_bps=request.slippage_bps,
        venues=request.venues,
        status=STATUS[order.status],
        settled=order.settled,
        sequence=order.sequence,
        attempts=[attempt(a, token_out, tokens) for a in order.attempts],
        cancel_requested=order.cancel_requested,
        retries=order.retries,
        expire_time=timestamp(request.expire_time),
        create_time=timestamp(order.create_time),
        update_time=timestamp(order.update_time),
        complete_time=timestamp(order.complete_time),
    )
    if order.failure is not None:
        message.error.CopyFrom(order_error(order.failure))
    floor = order.min_amount_out or request.min_amount_out
    if floor is not None:
        message.min_amount_out = token_out.format(floor)
    if order.route is not None:
        message.venue = order.route.venue
        message.quoted_amount_out = token_out.format(order.route.quoted_amount_out)
    if order.attempts:
        message.tx_hash = order.attempts[-1].signature
    if order.fill is not None:
        message.amount_out = token_out.format(order.fill.amount_out)
        message.executed_price = token.price(
            order.fill.amount_in, token_in, order.fill.amount_out, token_out
        )
    return message


def event(order: Order, event: OrderEvent, tokens: Tokens) -> pb.OrderEvent:
    """One event of an order; of `order` only what never changes is used."""
    [message] = events(order, (event,), tokens)
    return message


def events(order: Order, taken: Sequence[OrderEvent], tokens: Tokens) -> Iterator[pb.OrderEvent]:
    """Events of one order, with what is the same in all of them made once."""
    shared = pb.OrderEvent(
        order_id=str(order.order_id),
        client_order_id=order.client_order_id or "",
        account=order.account,
        token_in=tokens.by_mint(order.request.token_in).symbol,
        token_out=tokens.by_mint(order.request.token_out).symbol,
    )
    for event in taken:
        message = pb.OrderEvent()
        message.CopyFrom(shared)
        message.sequence = event.sequence
        message.type = _EVENT_TYPE[event.type]
        message.status = STATUS[event.status]
        message.settled = event.settled
        message.venue = event.venue or ""
        if event.previous_status is not None:
            message.previous_status = STATUS[event.previous_status]
        if event.time is not None:
            _set_time(message.event_time, event.time)
        if event.detail is not NO_DETAIL:
            _tell(message, event.detail, order.request, tokens)
        yield message


def _tell(message: pb.OrderEvent, detail: Detail, request: OrderRequest, tokens: Tokens) -> None:
    if detail.failure is not None:
        message.error.CopyFrom(order_error(detail.failure))
    if detail.route is not None:
        message.route.CopyFrom(route(detail.route, request, tokens))
    if detail.retry is not None:
        message.retry.number = detail.retry.number
        message.retry.delay.FromMilliseconds(detail.retry.delay_milliseconds)
    if detail.attempt is not None:
        token_out = tokens.by_mint(request.token_out)
        message.attempt.CopyFrom(attempt(detail.attempt, token_out, tokens))
    if detail.fill is not None:
        message.fill.CopyFrom(fill(detail.fill, request, tokens))


def batches(events: Sequence[bytes]) -> Iterator[bytes]:
    """Encoded events as OrderEvents messages, encoded, none much larger than 256 KiB.

    A repeated field's items stand one after the other, each behind its tag and its length.
    """
    framed = bytearray()
    for event in events:
        framed += b"\n" + _varint(len(event)) + event
        if len(framed) >= _BATCH_BYTES:
            yield bytes(framed)
            framed.clear()
    if framed:
        yield bytes(framed)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def route(decision: RouteDecision, request: OrderRequest, tokens: Tokens) -> pb.RouteDecision:
    """A decision with every quote or refusal."""
    token_in, token_out = tokens.by_mint(request.token_in), tokens.by_mint(request.token_out)
    message = pb.RouteDecision(
        venue=decision.venue or "",
        why=decision.why,
        candidates=[_candidate(each, token_out, tokens) for each in decision.candidates],
        scores=map(_score, decision.scores),
    )
    if decision.min_amount_out is not None:
        message.min_amount_out = token_out.format(decision.min_amount_out)
    if decision.route is not None:
        message.legs.extend(_legs(decision.route.legs, tokens))
        message.quoted_amount_out = token_out.format(decision.route.quoted_amount_out)
    for quote in decision.quotes:
        if quote.refusal is not None:
            item = message.quotes.add(venue=quote.venue, refusal=order_error(quote.refusal))
        else:
            item = message.quotes.add(
                venue=quote.venue,
                pool=quote.pool,
                amount_out=token_out.format(quote.amount_out),
                net_price=token.price(request.amount_in, token_in, quote.amount_out, token_out),
                fee=token_in.format(quote.fee),
                price_impact_bps=_bps(quote.price_impact_ppm),
                slot=quote.slot,
                kind=quote.kind,
                is_local=quote.is_local,
                pool_share_bps="" if quote.pool_share_ppm is None else _bps(quote.pool_share_ppm),
            )
        _set_microseconds(item.latency, quote.latency_microseconds)
    return message


def _candidate(candidate: Candidate, token_out: Token, tokens: Tokens) -> pb.RouteCandidate:
    message = pb.RouteCandidate(
        legs=_legs(candidate.route.legs, tokens),
        amount_out=token_out.format(candidate.route.quoted_amount_out),
        network_fee_lamports=candidate.network_fee_lamports,
        net_amount_out=token_out.format(max(0, candidate.net_amount_out)),
        price_impact_bps=_bps(candidate.price_impact_ppm),
        score_bps=_bps(candidate.score_ppm),
    )
    if candidate.network_cost:
        message.network_cost = token_out.format(candidate.network_cost)
    return message


def _score(score: VenueScore) -> pb.VenueScore:
    message = pb.VenueScore(
        venue=score.venue,
        attempts=score.attempts,
        realised_bps=_bps(score.realised_ppm),
        # A part per million is a ten-thousandth of a percent.
        failed_percent=Token("", "", 4).format(score.failed_ppm),
        score_bps=_bps(score.score_ppm),
    )
    _set_microseconds(message.latency, score.latency_microseconds)
    return message


def _legs(legs: Sequence[Leg], tokens: Tokens) -> list[pb.RouteLeg]:
    return [_leg(leg, tokens.by_mint(leg.mint_in), tokens.by_mint(leg.mint_out)) for leg in legs]


def _leg(leg: Leg, token_in: Token, token_out: Token) -> pb.RouteLeg:
    return pb.RouteLeg(
        venue=leg.venue,
        pool=leg.pool,
        kind=leg.kind,
        token_in=token_in.symbol,
        token_out=token_out.symbol,
        amount_in=token_in.format(leg.amount_in),
        quoted_amount_out=token_out.format(leg.quoted_amount_out),
        min_amount_out=token_out.format(leg.min_amount_out),
    )


def impact_point(point: ImpactPoint, request: OrderRequest, tokens: Tokens) -> pb.ImpactPoint:
    """One point of the price impact curve of such a request."""
    return pb.ImpactPoint(
        amount_in=tokens.by_mint(request.token_in).format(point.amount_in),
        amount_out=tokens.by_mint(request.token_out).format(point.amount_out),
        price_impact_bps=_bps(point.price_impact_ppm),
        venue=point.venue,
    )


def fill(fill: Fill, request: OrderRequest, tokens: Tokens) -> pb.Fill:
    """What a landed swap of such a request really did."""
    token_in, token_out = tokens.by_mint(request.token_in), tokens.by_mint(request.token_out)
    return pb.Fill(
        amount_in=token_in.format(fill.amount_in),
        amount_out=token_out.format(fill.amount_out),
        executed_price=token.price(fill.amount_in, token_in, fill.amount_out, token_out),
        slot=fill.slot,
        tx_hash=fill.signature,
        network_fee_lamports=fill.network_fee_lamports,
        leftovers=[_leftover(each, tokens) for each in fill.leftovers],
    )


def _leftover(leftover: Leftover, tokens: Tokens) -> pb.Leftover:
    found = tokens.by_mint(leftover.mint)
    return pb.Leftover(token=found.symbol, amount=found.format(leftover.amount))


def _bps(ppm: int) -> str:
    """A part per million is a hundredth of a basis point."""
    sign = "-" if ppm < 0 else ""
    return sign + _HUNDREDTHS.format(abs(ppm))


def attempt(attempt: Attempt, token_out: Token, tokens: Tokens) -> pb.Attempt:
    """One signed transaction, without its bytes."""
    message = pb.Attempt(
        number=attempt.number,
        venue=attempt.venue,
        pool=attempt.legs[0].pool,
        tx_hash=attempt.signature,
        blockhash=attempt.blockhash,
        last_valid_block_height=attempt.last_valid_block_height,
        min_amount_out=token_out.format(attempt.min_amount_out),
        legs=_legs(attempt.legs, tokens),
    )
    if attempt.resolution is not None:
        message.resolution = _RESOLUTION[attempt.resolution]
    evidence = attempt.evidence
    if evidence is not None:
        message.evidence.CopyFrom(
            pb.Evidence(
                slot=evidence.slot,
                error=evidence.error,
                finalized_block_height=evidence.finalized_block_height,
                height_context_slot=evidence.height_context_slot,
                status_context_slot=evidence.status_context_slot,
                node=evidence.node,
            )
        )
    return message


def order_error(failure: Failure) -> pb.OrderError:
    """Why something failed."""
    return pb.OrderError(reason=failure.reason, message=failure.message)


def timestamp(time: datetime | None) -> Timestamp | None:
    """A protobuf timestamp, or None."""
    if time is None:
        return None
    message = Timestamp()
    _set_time(message, time)
    return message


# Set in place: a message of a well-known type costs more to put into another than all of this.
def _set_time(message: Timestamp, time: datetime) -> None:
    since = time - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


def _set_microseconds(message: Duration, microseconds: int) -> None:
    message.seconds, rest = divmod(microseconds, 1_000_000)
    message.nanos = rest * 1000


def moment(message: Timestamp) -> datetime:
    """The UTC time of a protobuf timestamp, to the microsecond; raises ValueError beyond years
    1–9999."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def order_id(text: str) -> UUID:
    """The id; raises ValueError when it is not written as the server writes ids."""
    parsed = UUID(text)
    if str(parsed) != text.lower():
        raise ValueError(f"{text!r} is not an order id")
    return parsed
