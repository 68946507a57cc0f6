"""The commands of operators: API keys, the trading state, the limits of accounts."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any, Final

import grpc
import typer
from google.protobuf import json_format
from rich.table import Table

from engine.v1 import admin_pb2 as pb
from engine.v1.admin_pb2_grpc import AdminServiceStub
from oee import show
from oee.client import authorization, failure_of
from oee.console import EXIT_CODES, Edge, paint, say
from oee.orders import Engine, Json

PAGE_SIZE: Final = 1000
# The limits that hold for every account by the gateways' settings, unless set otherwise.
COUNTS: Final = ("orders_per_minute", "max_open_orders", "max_streams")
ROLES: Final = {name.removeprefix("ROLE_").lower(): number for name, number in pb.Role.items()}

keys = typer.Typer(
    cls=Edge, help="Make and revoke API keys.", epilog=EXIT_CODES, no_args_is_help=True
)

trading = typer.Typer(
    cls=Edge,
    help="Stop and resume trading, everywhere at once.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)
limits = typer.Typer(
    cls=Edge, help="Show and set what accounts may do.", epilog=EXIT_CODES, no_args_is_help=True
)


def ask(engine: Engine, method: str, request: Any) -> Any:
    """One call of AdminService; raises CallFailed. It is not repeated by itself."""
    with closing(engine.connect(engine.address)) as channel:
        call = getattr(AdminServiceStub(channel), method)
        try:
            return call(
                request,
                timeout=engine.timeout_seconds,
                metadata=authorization(engine.api_key),
                wait_for_ready=False,
            )
        except grpc.RpcError as error:
            raise failure_of(error) from None


def parse_role(text: str) -> int:
    """A role by its short name, in any case."""
    if not ROLES.get(text.lower()):
        names = ", ".join(name for name, number in ROLES.items() if number)
        raise typer.BadParameter(f"{text!r} is none of {names}")
    return ROLES[text.lower()]


@keys.command(epilog=EXIT_CODES)
def create(
    ctx: typer.Context,
    account: Annotated[str, typer.Option(help="Whose orders it is for.")],
    role: Annotated[
        int,
        typer.Option(parser=parse_role, metavar="ROLE", help="viewer, trader or operator."),
    ],
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    json: Json = False,
) -> None:
    """Make a key; its secret is printed this once."""
    request = pb.CreateKeyRequest(account=account, role=pb.Role.ValueType(role), note=note)
    response = ask(ctx.obj, "CreateKey", request)
    if json:
        typer.echo(show.to_json(response))
    else:
        say(f"key {response.key.key_id} of {account}; keep it, it is not shown again:")
        typer.echo(response.secret)


@keys.command("list", epilog=EXIT_CODES)
def list_keys(
    ctx: typer.Context,
    account: Annotated[str, typer.Option(help="Only this account's.")] = "",
    json: Json = False,
) -> None:
    """List the keys, oldest first, without their secrets."""
    listed: list[pb.Key] = []
    request = pb.ListKeysRequest(page_size=PAGE_SIZE, account=account)
    while True:
        page = ask(ctx.obj, "ListKeys", request)
        listed += page.keys
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if json:
        typer.echo(show.to_json({"keys": [show.to_dict(key) for key in listed]}))
    else:
        paint(_table(listed))


@keys.command(epilog=EXIT_CODES)
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `oee keys list` shows it.")],
    json: Json = False,
) -> None:
    """Make a key worthless, within seconds and on open streams too."""
    response = ask(ctx.obj, "RevokeKey", pb.RevokeKeyRequest(key_id=key_id))
    typer.echo(show.to_json(response) if json else f"{response.key.key_id} revoked")


Why = Annotated[str, typer.Option(help="One sentence; clients whose orders are refused read it.")]


def _set_trading(
    ctx: typer.Context, state: pb.TradingState.ValueType, why: str, json: bool
) -> None:
    request = pb.SetTradingStateRequest(state=state, why=why)
    _show_trading(ask(ctx.obj, "SetTradingState", request), json)


def _show_trading(response: Any, json: bool) -> None:
    if json:
        typer.echo(show.to_json(response))
        return
    because = f": {response.why}" if response.why else ""
    by = f" by key {response.key_id}" if response.key_id else ""
    paint(
        f"{show.trading_state(response.state)}{because} (since {show.time(response.set_time)}{by})"
    )


@trading.command("show", epilog=EXIT_CODES)
def show_trading(ctx: typer.Context, json: Json = False) -> None:
    """Show whether orders are accepted and signed."""
    _show_trading(ask(ctx.obj, "GetTradingState", pb.GetTradingStateRequest()), json)


@trading.command(epilog=EXIT_CODES)
def halt(ctx: typer.Context, why: Why, json: Json = False) -> None:
    """Accept no new orders and sign nothing; what is signed is followed to its end."""
    _set_trading(ctx, pb.TRADING_STATE_HALTED, why, json)


@trading.command("cancel-only", epilog=EXIT_CODES)
def cancel_only(ctx: typer.Context, why: Why, json: Json = False) -> None:
    """Accept no new orders; those accepted are executed, and may be cancelled."""
    _set_trading(ctx, pb.TRADING_STATE_CANCEL_ONLY, why, json)


@trading.command(epilog=EXIT_CODES)
def resume(ctx: typer.Context, why: Why = "", json: Json = False) -> None:
    """Accept and execute orders; those that waited go on by themselves."""
    _set_trading(ctx, pb.TRADING_STATE_ACTIVE, why, json)


Account = Annotated[str, typer.Argument(help="The account.")]


@limits.command("show", epilog=EXIT_CODES)
def show_limits(ctx: typer.Context, account: Account, json: Json = False) -> None:
    """Show what was set for an account; what was not is as the gateways' settings say."""
    response = ask(ctx.obj, "GetAccountLimits", pb.GetAccountLimitsRequest(account=account))
    _show_limits(response.limits, json)


@limits.command("set", epilog=EXIT_CODES)
def set_limits(
    ctx: typer.Context,
    account: Account,
    orders_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Orders a minute, and at once; 0: any number.")
    ] = None,
    max_open_orders: Annotated[
        int | None, typer.Option(min=0, help="Orders that are not settled; 0: any number.")
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(min=0, help="Streams open at one gateway; 0: any number.")
    ] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="Only these tokens. May be repeated.")
    ] = None,
    max_amount: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN=AMOUNT", help="The largest amount to pay. May be repeated: SOL=100."
        ),
    ] = None,
    max_price_impact_bps: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="Of a route, in basis points.")
    ] = None,
    json: Json = False,
) -> None:
    """Replace what was set for an account: what is left out is as the gateways' settings say."""
    amounts = [text.partition("=") for text in max_amount or []]
    wanted = pb.AccountLimits(
        orders_per_minute=orders_per_minute,
        max_open_orders=max_open_orders,
        max_streams=max_streams,
        allowed_tokens=token or [],
        token_limits=[pb.TokenLimit(token=name, max_amount_in=text) for name, _, text in amounts],
        max_price_impact_bps=max_price_impact_bps,
    )
    request = pb.SetAccountLimitsRequest(account=account, limits=wanted)
    _show_limits(ask(ctx.obj, "SetAccountLimits", request).limits, json)


def _show_limits(limits: pb.AccountLimits, json: bool) -> None:
    if json:
        typer.echo(json_format.MessageToJson(limits, preserving_proto_field_name=True, indent=None))
        return
    said = [
        f"{field.name} {value}" for field, value in limits.ListFields() if not field.is_repeated
    ]
    if limits.allowed_tokens:
        said.append(f"allowed_tokens {', '.join(limits.allowed_tokens)}")
    said += [f"max_amount_in {limit.max_amount_in} {limit.token}" for limit in limits.token_limits]
    if others := [name.upper() for name in COUNTS if not limits.HasField(name)]:
        begin = "for the rest" if said else "nothing is set:"
        said.append(f"{begin} the gateways' settings hold ({', '.join(others)})")
    paint("\n".join(said))


def _table(listed: list[pb.Key]) -> Table:
    table = Table("key_id", "account", "role", "made", "revoked", "note", box=None, pad_edge=False)
    for key in listed:
        table.add_row(
            key.key_id,
            key.account,
            show.role(key.role),
            show.time(key.create_time),
            show.time(key.revoke_time) if key.HasField("revoke_time") else "",
            key.note,
        )
    return table
