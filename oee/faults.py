"""The commands about faults: let the simulated chain and its venues go wrong, on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import grpc
import typer
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from engine.v1 import sim_pb2 as pb
from engine.v1.sim_pb2_grpc import SimControlServiceStub
from oee import show
from oee.client import connect, failure_of
from oee.console import EXIT_CODES, Edge, paint
from oee.orders import Engine, Json, parse_duration
from oee.ports import HOST, Ports

CALL_SECONDS: Final = 10.0

EFFECTS: Final[dict[str, Descriptor]] = {
    field.name: getattr(pb.Fault(), field.name).DESCRIPTOR
    for field in pb.Fault.DESCRIPTOR.oneofs_by_name["effect"].fields
}

commands = typer.Typer(
    cls=Edge,
    help="Let the simulated chain and its venues go wrong, on purpose.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)


@dataclass(frozen=True, slots=True)
class Simulator:
    """Where the simulator is asked, and the engine that knows orders by their clients' keys."""

    address: str
    engine: Engine

    def ask(self, method: str, request: Any) -> Any:
        """One call; raises CallFailed."""
        with connect(self.address, self.engine.tls) as channel:
            call = getattr(SimControlServiceStub(channel), method)
            try:
                return call(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                raise failure_of(error) from None

    def order_id(self, name: str) -> str:
        """The order called `name`: a UUID is an order id, all else the client's key."""
        try:
            return str(UUID(name))
        except ValueError:
            return self.engine.client().order(name).order_id


@commands.callback()
def simulator(
    ctx: typer.Context,
    chain: Annotated[
        str, typer.Option(envvar="OEE_CHAIN_ADDRESS", help="The simulated chain: HOST:PORT.")
    ] = f"{HOST}:{Ports.default().chain}",
) -> None:
    """Let the simulated chain and its venues go wrong, on purpose."""
    ctx.obj = Simulator(chain, ctx.obj)


def _parameters(effect: str) -> str:
    names = [f"{field.name}={_expected(field)}" for field in EFFECTS[effect].fields]
    return " ".join([effect, *names])


def _expected(field: FieldDescriptor) -> str:
    if field.enum_type:
        return "|".join(_words(field))
    if field.message_type:
        return "DURATION"
    return {
        FieldDescriptor.CPPTYPE_BOOL: "true|false",
        FieldDescriptor.CPPTYPE_STRING: "TEXT",
    }.get(field.cpp_type, "NUMBER")


def _words(field: FieldDescriptor) -> dict[str, int]:
    """The values of an enum by their short names."""
    assert field.enum_type is not None, "asked of enums only"
    zero, *values = field.enum_type.values
    prefix = zero.name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in values}


def _value(field: FieldDescriptor, text: str) -> Any:
    if field.message_type:
        return _duration(parse_duration(text))
    try:
        if field.enum_type:
            return _words(field)[text.lower()]
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"true": True, "false": False}[text.lower()]
        return text if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else int(text)
    except (KeyError, ValueError):
        raise typer.BadParameter(f"{field.name} must be {_expected(field)}, not {text!r}") from None


def _duration(length: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def _set_effect(fault: pb.Fault, effect: str, parameters: list[str]) -> None:
    if effect not in EFFECTS:
        raise typer.BadParameter(f"{effect!r} is none of {', '.join(EFFECTS)}")
    target = getattr(fault, effect)
    target.SetInParent()
    for parameter in parameters:
        name, _, text = parameter.partition("=")
        field = EFFECTS[effect].fields_by_name.get(name)
        if field is None:
            raise typer.BadParameter(f"{parameter!r} does not fit: {_parameters(effect)}")
        value = _value(field, text)
        if field.message_type:
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)


@commands.command(
    epilog="Effects and their parameters:\n\n" + "\n\n".join(map(_parameters, EFFECTS))
)
def inject(
    ctx: typer.Context,
    effect: Annotated[str, typer.Argument(metavar="EFFECT", help="What goes wrong.")],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="How it goes wrong.")
    ] = None,
    call: Annotated[str, typer.Option(help="Only this RPC method.")] = "",
    venue: Annotated[
        str, typer.Option(help="Only this venue; chain for the chain's own calls.")
    ] = "",
    node: Annotated[str, typer.Option(help="Only this node of the chain: node-1.")] = "",
    except_node: Annotated[str, typer.Option(help="Every node but this one.")] = "",
    order: Annotated[
        str, typer.Option(metavar="ID", help="Only this order: its id, or its client_order_id.")
    ] = "",
    attempt: Annotated[int, typer.Option(min=0, help="Only this attempt of the orders.")] = 0,
    nth: Annotated[int, typer.Option(min=0, help="Not before the n-th time.")] = 0,
    times: Annotated[int, typer.Option(min=0, help="So often; without it, for ever.")] = 0,
    percent: Annotated[
        int, typer.Option(min=0, max=100, help="How likely, drawn from the simulator's seed.")
    ] = 0,
    lasts: Annotated[
        timedelta | None,
        typer.Option("--for", parser=parse_duration, metavar="DURATION", help="So long: 30s."),
    ] = None,
    until_slot: Annotated[int, typer.Option(min=0, help="Up to this slot.")] = 0,
    json: Json = False,
) -> None:
    """Let something go wrong from now on: fail code=UNAVAILABLE --venue raydium --times 3."""
    fault = pb.Fault(
        call=call,
        venue=venue,
        node=node,
        except_node=except_node,
        attempt=attempt,
        nth=nth,
        times=times,
        percent=percent,
        lasts=_duration(lasts) if lasts is not None else None,
        until_slot=until_slot,
    )
    _set_effect(fault, effect, parameters or [])
    if order:
        fault.order_id = ctx.obj.order_id(order)
    report = ctx.obj.ask("InjectFault", pb.InjectFaultRequest(fault=fault)).report
    typer.echo(show.to_json(report) if json else report.fault_id)


@commands.command("list", epilog=EXIT_CODES)
def list_faults(ctx: typer.Context, json: Json = False) -> None:
    """List the faults and what each did."""
    response = ctx.obj.ask("ListFaults", pb.ListFaultsRequest())
    if json:
        typer.echo(show.to_json(response))
    else:
        paint(_table(response.reports))


@commands.command(epilog=EXIT_CODES)
def clear(
    ctx: typer.Context,
    fault_ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="Which; without any, all.")
    ] = None,
    json: Json = False,
) -> None:
    """Take faults away, and show what each did; what was done stays done."""
    response = ctx.obj.ask("ClearFaults", pb.ClearFaultsRequest(fault_ids=fault_ids or []))
    if json:
        typer.echo(show.to_json(response))
    elif response.reports:
        paint("removed:", _table(response.reports))
    else:
        paint("there was nothing to remove")


def _table(reports: list[pb.FaultReport]) -> Table:
    table = Table("id", "fault", "seen", "hits", "left", box=None, pad_edge=False)
    for report in reports:
        left = str(report.remaining) if report.HasField("remaining") else "∞"
        table.add_row(
            str(report.fault_id),
            _line(report.fault),
            str(report.seen),
            str(report.hits),
            "over" if report.over else left,
        )
    return table


def _line(fault: pb.Fault) -> str:
    """The fault as it is injected on the command line, more or less."""
    fields = MessageToDict(fault, preserving_proto_field_name=True)
    effect = fault.WhichOneof("effect") or ""
    parameters = fields.pop(effect, {})
    return " ".join([effect, *(f"{name}={value}" for name, value in (parameters | fields).items())])
