"""The command line: submit, watch and list orders; run the engine."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import grpc
import typer

from engine.certificates import Files
from engine.errors import StartupError
from engine.token import MAX_AMOUNT
from oee import admin, faults, orders, quote, venue
from oee.client import TIMEOUT_SECONDS, connect
from oee.console import EXIT_CODES, Edge, paint, say
from oee.orders import Engine
from oee.ports import Ports

FUND_SECONDS: Final = 60.0

app = typer.Typer(
    cls=Edge,
    help="Submit swap orders, watch them, and run the engine.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(orders.commands)
app.add_typer(faults.commands, name="faults")
app.add_typer(venue.commands, name="venue")
app.add_typer(admin.keys, name="keys")
app.add_typer(admin.trading, name="trading")
app.add_typer(admin.limits, name="limits")


@app.callback()
def engine(
    ctx: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="OEE_ADDRESS", help="Where the gateway listens: HOST:PORT.")
    ] = "127.0.0.1:50051",
    timeout: Annotated[
        float, typer.Option(help="How long a call keeps trying, in seconds.", min=0.1)
    ] = TIMEOUT_SECONDS,
    ca_file: Annotated[
        Path | None,
        typer.Option(envvar="OEE_CA_FILE", help="PEM CAs to trust; with it, TLS is spoken."),
    ] = None,
    certificate_file: Annotated[
        Path | None,
        typer.Option(envvar="OEE_CERTIFICATE_FILE", help="A PEM certificate to show."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(envvar="OEE_KEY_FILE", help="That certificate's PEM key.")
    ] = None,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="OEE_API_KEY",
            help="Who calls. Rather in the environment: others may see command lines.",
        ),
    ] = "",
) -> None:
    """Submit swap orders, watch them, and run the engine."""
    tls = Files(certificate_file, key_file, ca_file)
    # Tests bring a channel of their own as ctx.obj.
    ctx.obj = Engine(ctx.obj or partial(connect, tls=tls), address, timeout, api_key, tls)


Directory = Annotated[
    Path | None, typer.Option("--data", help="Where orders, chain and wallet are kept.")
]


@app.command(epilog=EXIT_CODES)
def up(
    data: Directory = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The gateway's port; the others follow it.")
    ] = Ports.default().gateway,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget earlier orders, chain and wallet first.")
    ] = False,
) -> None:
    """Run the whole stack until Ctrl-C, which drains it."""
    from oee.stack import default_directory
    from oee.up import up as run_up

    ports = Ports.starting_at(port)
    raise typer.Exit(asyncio.run(run_up(data or default_directory(), ports, fresh)))


@app.command(epilog=EXIT_CODES)
def demo(
    data: Directory = None,
    orders: Annotated[int, typer.Option(min=1, max=200, help="How many swaps at once.")] = 10,
    logs: Annotated[
        bool, typer.Option("--logs", help="Show the services' logs instead of filing them.")
    ] = False,
) -> None:
    """Run the whole stack, send it many swaps at once and show how each one ends."""
    from oee.demo import demo as run_demo

    raise typer.Exit(asyncio.run(run_demo(data, orders, logs, paint)))


@app.command("reconcile", epilog=EXIT_CODES)
def reconcile_restored(
    restored: Annotated[
        bool, typer.Option("--restored", help="The database was restored from a backup.")
    ] = False,
    data: Directory = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The gateway's port; the others follow it.")
    ] = Ports.default().gateway,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make a restored database safe to sign with, while the stack is stopped.

    Exits 1 when the chain has swaps that the database contradicts.
    """
    from oee.logs import MergedLog
    from oee.reconcile import reconcile
    from oee.stack import default_directory

    if not restored:
        raise typer.BadParameter("say --restored: it halts signing until it is done")
    directory, ports = data or default_directory(), Ports.starting_at(port)
    log = MergedLog(sys.stderr)
    raise typer.Exit(asyncio.run(reconcile(directory, ports, log, paint, as_json)))


@app.command("quote", epilog=quote.EXIT_CODES)
def quote_locally(
    vectors: Annotated[
        list[Path] | None,
        typer.Option("--vectors", help="Files of test vectors to compute; more may follow it."),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILE…", hidden=True)] = None,
    pool: Annotated[
        Path | None,
        typer.Option("--pool", help="A pool snapshot in JSON, by its account's fields."),
    ] = None,
    amount_in: Annotated[
        int | None, typer.Option(min=0, max=MAX_AMOUNT, help="Pay this, in base units.")
    ] = None,
    amount_out: Annotated[
        int | None, typer.Option(min=0, max=MAX_AMOUNT, help="Receive this, in base units.")
    ] = None,
    token_in: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Pay the pool's token 0 (coin, X, A) or its token 1."),
    ] = None,
    now: Annotated[
        int | None, typer.Option(min=0, help="The chain's clock, in unix seconds.")
    ] = None,
) -> None:
    """Compute a swap against a pool snapshot offline, or check test vectors of the programs."""
    if vectors:
        raise typer.Exit(quote.check_vectors([*vectors, *(more or ())]))
    if pool is None or more:
        raise typer.BadParameter("say --pool FILE with an amount, or --vectors FILE…")
    if (amount_in is None) == (amount_out is None):
        raise typer.BadParameter("say --amount-in or --amount-out")
    mode, amount = ("exact_in", amount_in) if amount_in is not None else ("exact_out", amount_out)
    zero_for_one = None if token_in is None else token_in == 0
    raise typer.Exit(quote.quote_pool(pool, mode, amount or 0, zero_for_one, now))


@app.command("fund", hidden=True)
def fund_wallet(
    ctx: typer.Context,
    key_file: Annotated[Path, typer.Option(help="The wallet's key; made when there is none.")],
    chain: Annotated[str, typer.Option(help="The simulated chain: HOST:PORT.")],
) -> None:
    """Give a development wallet simulated tokens, unless it has some."""
    from oee.wallet import development_wallet, fund

    wallet = development_wallet(key_file)
    try:
        asyncio.run(asyncio.wait_for(fund(wallet, chain, ctx.obj.tls), FUND_SECONDS))
    except (grpc.aio.AioRpcError, TimeoutError) as error:
        raise StartupError(f"{wallet.address} cannot be funded at {chain}: {error!r}") from None
    say(f"{wallet.address} is funded")


def main() -> None:
    """Run one command; never returns."""
    app(prog_name="oee")


if __name__ == "__main__":
    main()
