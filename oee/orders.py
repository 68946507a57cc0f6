"""The commands about orders: submit, watch, list, preview, cancel."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated

import grpc
import typer

from engine.certificates import Files
from engine.v1 import orders_pb2 as pb
from oee import show
from oee.client import CallFailed, Client, new_client_order_id
from oee.console import EXIT_CODES, EXITS, Exit, paint, say

commands = typer.Typer()


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the engine is asked; nothing is opened before the first call."""

    connect: Callable[[str], grpc.Channel]
    address: str
    timeout_seconds: float
    api_key: str = field(default="", repr=False)
    # How other addresses than the engine's are spoken to.
    tls: Files = field(default_factory=Files)

    def client(self) -> Client:
        """A client of this engine, which tells of interruptions on stderr."""
        return Client(
            self.connect(self.address),
            timeout_seconds=self.timeout_seconds,
            api_key=self.api_key,
            interrupted=lambda failure: say(f"interrupted, resuming: {failure}"),
        )


def parse_duration(text: str) -> timedelta:
    """`30s`, `5m`, `1h30m`, `250ms`."""
    units = {"h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
    parts = re.findall(r"(\d+)(ms|h|m|s)", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise typer.BadParameter(f"{text!r} is not a duration like 30s, 5m or 1h30m")
    return sum((timedelta(**{units[unit]: int(n)}) for n, unit in parts), timedelta())


def parse_status(text: str) -> int:
    """A status by its short name, in any case."""
    names = {name.removeprefix("ORDER_STATUS_"): n for name, n in pb.OrderStatus.items() if n}
    if text.upper() not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names).lower()}")
    return names[text.upper()]


TokenIn = Annotated[str, typer.Argument(help="Token to pay: symbol or mint.", metavar="TOKEN_IN")]
TokenOut = Annotated[
    str, typer.Argument(help="Token to receive: symbol or mint.", metavar="TOKEN_OUT")
]
AmountIn = Annotated[
    str, typer.Argument(help="How much to pay, in whole tokens: 1.5.", metavar="AMOUNT")
]
Slippage = Annotated[
    int | None,
    typer.Option(
        "--slippage-bps",
        help="How far below the first quote the result may be, in basis points (default 100).",
        min=0,
    ),
]
Floor = Annotated[
    str, typer.Option("--min-amount-out", help="The least to receive; replaces slippage.")
]
Venues = Annotated[
    list[str] | None, typer.Option("--venue", help="Swap only here. May be repeated.")
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="An order id (any UUID) or else the client_order_id it was given."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: an object, or one a line.")]


@commands.command(epilog=EXIT_CODES)
def submit(
    ctx: typer.Context,
    token_in: TokenIn,
    token_out: TokenOut,
    amount_in: AmountIn,
    slippage_bps: Slippage = None,
    min_amount_out: Floor = "",
    venue: Venues = None,
    expire_in: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse_duration, metavar="DURATION", help="Sign nothing later than this: 30s, 5m."
        ),
    ] = None,
    client_order_id: Annotated[
        str, typer.Option(help="The key of this intent; the same key is never swapped twice.")
    ] = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, store nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the order to its end.")] = False,
    json: Json = False,
) -> None:
    """Submit an order; safe to repeat with the same --client-order-id."""
    request = pb.SubmitOrderRequest(
        client_order_id=client_order_id or new_client_order_id(),
        order_type=pb.ORDER_TYPE_MARKET,
        token_in=token_in,
        token_out=token_out,
        amount_in=amount_in,
        slippage_bps=slippage_bps,
        min_amount_out=min_amount_out,
        venues=venue or [],
        validate_only=validate_only,
    )
    if expire_in is not None:
        request.expire_time.FromDatetime(datetime.now(UTC) + expire_in)
    # Told before it is used: whatever happens next, the order can be found, or sent again.
    say(f"client_order_id {request.client_order_id}")
    client = ctx.obj.client()
    try:
        response = client.submit(request)
    except CallFailed as failure:
        if failure.code not in EXITS:
            say("It may have been accepted. Submit again with this --client-order-id, or watch it.")
        raise
    if json:
        typer.echo(show.to_json(response))
    elif validate_only:
        typer.echo("valid; nothing was stored")
    else:
        known = "known already" if response.duplicate else "accepted"
        typer.echo(f"{response.order.order_id} {known}")
    if watch and not validate_only:
        follow(client, response.order.order_id, after=0, until_settled=False, json=json)


@commands.command(epilog=EXIT_CODES)
def watch(
    ctx: typer.Context,
    name: Name,
    after: Annotated[
        int, typer.Option(min=0, help="Resume after this sequence; 0 replays the whole life.")
    ] = 0,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="Go on until nothing can change any more.")
    ] = False,
    json: Json = False,
) -> None:
    """Follow an order to its end, every event once; a lost engine is looked for again."""
    follow(ctx.obj.client(), name, after=after, until_settled=until_settled, json=json)


def follow(client: Client, name: str, *, after: int, until_settled: bool, json: bool) -> None:
    """Show every event as it happens; raises Exit with what became of the order."""
    status: int | None = None
    for event in client.watch(name, after=after, until_settled=until_settled):
        status = event.status
        if json:
            typer.echo(show.to_json(event))
        else:
            paint(show.event(event))
    if status is None:
        status = client.order(name).status
    confirmed = status == pb.ORDER_STATUS_CONFIRMED
    raise typer.Exit(Exit.DONE if confirmed else Exit.NOT_CONFIRMED)


@commands.command(epilog=EXIT_CODES)
def orders(
    ctx: typer.Context,
    status: Annotated[
        list[int] | None,
        typer.Option(parser=parse_status, metavar="STATUS", help="Only these. May be repeated."),
    ] = None,
    token: Annotated[str, typer.Option(help="Only orders that pay or receive this.")] = "",
    venue: Annotated[str, typer.Option(help="Only orders routed to this venue.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 50,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="The earliest accepted first.")
    ] = False,
    json: Json = False,
) -> None:
    """List orders, newest first."""
    order_by = pb.ORDER_BY_OLDEST_FIRST if oldest_first else pb.ORDER_BY_NEWEST_FIRST
    request = pb.ListOrdersRequest(token=token, venue=venue, order_by=order_by)
    request.statuses.extend(pb.OrderStatus.ValueType(number) for number in status or [])
    listed = list(ctx.obj.client().orders(request, limit))
    if json:
        typer.echo(show.to_json({"orders": [show.to_dict(order) for order in listed]}))
    else:
        paint(show.orders(listed))


@commands.command(epilog=EXIT_CODES)
def order(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one order and everything that happened to it."""
    client = ctx.obj.client()
    found, events = client.order(name), list(client.events(name))
    if json:
        typer.echo(
            show.to_json(
                {"order": show.to_dict(found), "events": [show.to_dict(event) for event in events]}
            )
        )
    else:
        paint(show.order(found), "", *(show.event(event) for event in events))


@commands.command(epilog=EXIT_CODES)
def explain(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Say what happened to an order and why: quotes, attempts, evidence, times."""
    response = ctx.obj.client().explain(name)
    if json:
        typer.echo(show.to_json(response))
    else:
        paint(response.summary, *show.explanation(response))


@commands.command(epilog=EXIT_CODES)
def preview(
    ctx: typer.Context,
    token_in: TokenIn,
    token_out: TokenOut,
    amount_in: AmountIn,
    slippage_bps: Slippage = None,
    min_amount_out: Floor = "",
    venue: Venues = None,
    json: Json = False,
) -> None:
    """Show what every venue offers, the route that would be chosen and the price impact curve.

    Stores nothing.
    """
    request = pb.PreviewOrderRequest(
        token_in=token_in,
        token_out=token_out,
        amount_in=amount_in,
        slippage_bps=slippage_bps,
        min_amount_out=min_amount_out,
        venues=venue or [],
    )
    response = ctx.obj.client().preview(request)
    if json:
        typer.echo(show.to_json(response))
    else:
        paint(*show.preview(request, response))


@commands.command(epilog=EXIT_CODES)
def tokens(ctx: typer.Context, json: Json = False) -> None:
    """List the tokens that orders may name."""
    listed = list(ctx.obj.client().tokens())
    if json:
        typer.echo(show.to_json({"tokens": [show.to_dict(token) for token in listed]}))
    else:
        paint(show.tokens(listed))


@commands.command(epilog=EXIT_CODES)
def cancel(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Stop an order from being signed; says whether it can still swap."""
    response = ctx.obj.client().cancel(name)
    if json:
        typer.echo(show.to_json(response))
    else:
        paint(f"{response.order.order_id} {show.outcome(response.outcome)}")
    if response.outcome == pb.CANCEL_OUTCOME_TOO_LATE:
        raise typer.Exit(Exit.NOT_CONFIRMED)
