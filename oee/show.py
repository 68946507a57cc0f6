"""How orders look: lines and tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Protocol

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from engine.fractions import BASIS_POINTS
from engine.v1 import admin_pb2
from engine.v1 import orders_pb2 as pb
from oee import picture, routes
from oee.table import table

STYLES: Final[Mapping[int, str]] = {
    pb.ORDER_STATUS_CONFIRMED: "green",
    pb.ORDER_STATUS_FAILED: "red",
    pb.ORDER_STATUS_CANCELLED: "yellow",
    pb.ORDER_STATUS_EXPIRED: "yellow",
}


def to_dict(message: Message) -> dict[str, Any]:
    """A message as the API names it, with the fields that have their default value."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def to_json(content: Message | dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(to_dict(content) if isinstance(content, Message) else content)


def status(number: int) -> Text:
    """A status in lower case; a number if it is newer than this program."""
    word = _word(pb.OrderStatus, number, "ORDER_STATUS_")
    return Text(word, style=STYLES.get(number, "cyan"))


def outcome(number: int) -> str:
    """What a cancel could still do, in lower case."""
    return _word(pb.CancelOutcome, number, "CANCEL_OUTCOME_").replace("_", " ")


def role(number: int) -> str:
    """What a key's holder may do, in lower case."""
    return _word(admin_pb2.Role, number, "ROLE_")


def trading_state(number: int) -> str:
    """Whether orders are accepted and signed, in lower case."""
    return _word(admin_pb2.TradingState, number, "TRADING_STATE_").replace("_", "-")


def pair(order: pb.Order) -> str:
    """What is swapped for what."""
    return f"{order.token_in}→{order.token_out}"


def slippage_bps(quoted: str, received: str) -> Decimal | None:
    """How far `received` fell short of `quoted`, in basis points; None while either is missing."""
    if not quoted or not received or not Decimal(quoted):
        return None
    lost = (Decimal(quoted) - Decimal(received)) / Decimal(quoted) * BASIS_POINTS
    return lost.quantize(Decimal("0.1")) + 0  # no -0.0


def event(event: pb.OrderEvent, *, prefix: str | None = None) -> Text:
    """One event on one line; `prefix` stands where otherwise the time and the sequence do."""
    start = prefix or f"{time(event.event_time)} {event.sequence:>3}"
    kind = _word(pb.OrderEventType, event.type, "ORDER_EVENT_TYPE_").replace("_", " ")
    line = Text.assemble(
        f"{start}  ", _padded(status(event.status), 10), f"{kind:<23}  ", "; ".join(_facts(event))
    )
    line.rstrip()
    return line


def order(order: pb.Order) -> Table:
    """Everything about one order, a row for each field that says something."""
    shown = Table.grid(padding=(0, 2))
    settled = "settled" if order.settled else "not settled"
    slippage = slippage_bps(order.quoted_amount_out, order.amount_out)
    allowed = f"{order.slippage_bps} bps" if order.HasField("slippage_bps") else ""
    rows: list[tuple[str, str | Text]] = [
        ("order", order.order_id),
        ("client order", order.client_order_id),
        ("status", Text.assemble(status(order.status), f", {settled}")),
        ("cancel", "requested" if order.cancel_requested else ""),
        ("swap", f"{order.amount_in} {order.token_in} to {order.token_out}"),
        ("slippage allowed", allowed),
        ("floor", _amount(order.min_amount_out, order.token_out)),
        ("venues allowed", ", ".join(order.venues)),
        ("expires", time(order.expire_time) if order.HasField("expire_time") else ""),
        ("venue", order.venue),
        ("route", routes.brief(order.attempts[-1].legs) if order.attempts else ""),
        ("quoted", _amount(order.quoted_amount_out, order.token_out)),
        ("received", _amount(order.amount_out, order.token_out)),
        ("net price", order.executed_price),
        ("slippage", f"{slippage} bps" if slippage is not None else ""),
        ("transaction", order.tx_hash),
        ("retries", str(order.retries) if order.retries else ""),
        ("error", _error(order.error) if order.HasField("error") else ""),
        ("accepted", time(order.create_time) if order.HasField("create_time") else ""),
        ("completed", time(order.complete_time) if order.HasField("complete_time") else ""),
    ]
    for name, value in rows:
        if value:
            shown.add_row(Text(name, style="dim"), value)
    return shown


def orders(listed: Iterable[pb.Order]) -> Table:
    """Orders, one a row."""
    shown = table("accepted", "order", "status", "pair", "paid", "received", "venue")
    for item in listed:
        shown.add_row(
            time(item.create_time),
            item.order_id,
            status(item.status),
            pair(item),
            item.amount_in,
            item.amount_out,
            item.venue,
        )
    return shown


def preview(
    asked: pb.PreviewOrderRequest, answer: pb.PreviewOrderResponse
) -> Iterator[Table | str]:
    """What would happen to an order: the quotes, the route drawn, why, the price impact curve."""
    yield from routes.decision(answer.route)
    yield f"\n{answer.route.why}"
    points = {Decimal(point.amount_in): Decimal(point.price_impact_bps) for point in answer.curve}
    lines = picture.curve(points, Decimal(asked.amount_in), _symbol(asked, answer.route))
    if lines:
        yield "\n".join(["\nprice impact", *lines])


def explanation(explained: pb.ExplainOrderResponse) -> Iterator[Table | str]:
    """What stands behind the summary: every decision, every attempt, how long it stood where."""
    for decided in explained.routes:
        yield f"\n{time(decided.decide_time)}  {decided.decision.why}"
        yield from routes.decision(decided.decision)
    for tried in explained.attempts:
        attempt = tried.attempt
        signed = time(tried.sign_time) if tried.HasField("sign_time") else ""
        yield f"\n{signed}  attempt {attempt.number} at {attempt.venue}, {attempt.tx_hash}"
        yield tried.outcome
        if attempt.legs:
            yield routes.drawing(attempt.legs)
        if tried.HasField("fill"):
            yield _filled(tried.fill)
    yield ""
    shown = table("status", "since", "seconds")
    for stage in explained.stages:
        seconds = Decimal(stage.duration.ToMilliseconds()) / 1000
        lasted = str(seconds) if stage.HasField("duration") else ""
        shown.add_row(status(stage.status), time(stage.start_time), lasted)
    yield shown


def tokens(listed: Iterable[pb.Token]) -> Table:
    """Tokens, one a row."""
    shown = table("symbol", "decimals", "mint")
    for token in listed:
        shown.add_row(token.symbol, str(token.decimals), token.mint)
    return shown


def summary(ended: Iterable[tuple[int, pb.Order]]) -> Table:
    """What became of numbered orders, one a row."""
    numbers = ("paid", "quoted", "received", "net price", "slip bps", "seconds")
    shown = table(
        *("#", "order", "status", "pair", "venue", *numbers[:-1], "tx hash", "seconds"),
        numbers=numbers,
    )
    for number, item in ended:
        slippage = slippage_bps(item.quoted_amount_out, item.amount_out)
        milliseconds = item.complete_time.ToMilliseconds() - item.create_time.ToMilliseconds()
        shown.add_row(
            str(number),
            item.order_id,
            status(item.status),
            pair(item),
            item.venue,
            item.amount_in,
            item.quoted_amount_out,
            item.amount_out,
            item.executed_price,
            str(slippage) if slippage is not None else "",
            f"{item.tx_hash[:8]}…" if item.tx_hash else "",
            str(Decimal(milliseconds) / 1000) if item.HasField("complete_time") else "",
        )
    return shown


def _facts(event: pb.OrderEvent) -> list[str]:
    facts: list[str] = []
    route = event.route
    if route.venue:
        way = routes.brief(route.legs) or route.venue
        facts.append(f"{way}, quoted {route.quoted_amount_out}, floor {route.min_amount_out}")
        facts.append(route.why)
    if event.HasField("attempt"):
        attempt = event.attempt
        way = routes.brief(attempt.legs) or attempt.venue
        facts.append(f"attempt {attempt.number} at {way}, {attempt.tx_hash}")
        if attempt.resolution:
            word = _word(pb.AttemptResolution, attempt.resolution, "ATTEMPT_RESOLUTION_")
            facts.append(word.replace("_", " "))
    if event.HasField("fill"):
        facts.append(_filled(event.fill))
    if event.HasField("error"):
        facts.append(_error(event.error))
    if event.HasField("retry"):
        delay = Decimal(event.retry.delay.ToMilliseconds()) / 1000
        facts.append(f"retry {event.retry.number} in {delay} s")
    return facts


def _filled(fill: pb.Fill) -> str:
    left = "".join(f", left over {each.amount} {each.token}" for each in fill.leftovers)
    return (
        f"paid {fill.amount_in}, received {fill.amount_out}, net price {fill.executed_price}{left}"
    )


class _Enum(Protocol):
    def items(self) -> list[tuple[str, Any]]: ...


def _word(enum: _Enum, number: int, prefix: str) -> str:
    # The API adds values; a program older than the engine shows their numbers.
    names = {value: name for name, value in enum.items()}
    return names.get(number, str(number)).removeprefix(prefix).lower()


def _symbol(asked: pb.PreviewOrderRequest, route: pb.RouteDecision) -> str:
    return route.legs[0].token_in if route.legs else asked.token_in


def _padded(text: Text, width: int) -> Text:
    text.pad_right(max(0, width - len(text)))
    return text


def time(moment: Timestamp) -> str:
    """A moment, to the millisecond."""
    return moment.ToDatetime().isoformat(timespec="milliseconds") + "Z"


def _amount(amount: str, token: str) -> str:
    return f"{amount} {token}" if amount else ""


def _error(error: pb.OrderError) -> str:
    return f"{error.reason}: {error.message}"
