"""`oee venue check`: whether addresses keep what a venue and a chain promise."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from engine.certificates import Files
from oee import show
from oee.conformance.check import Finding, Outcome
from oee.console import Edge
from oee.orders import Json

EXIT_CODES: Final = (
    "Exit codes: 0 every promise that could be checked is kept; 1 one is broken; 2 wrong usage, or "
    "an address where neither service can be reached; 130 Ctrl-C."
)
WIDTH: Final = max(map(len, Outcome))

commands = typer.Typer(
    cls=Edge,
    help="Hold a venue of your own, or a chain, to what it promises.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    KEPT = 0
    BROKEN = 1


@commands.callback()
def venue() -> None:
    """Hold a venue of your own, or a chain, to what it promises."""


@commands.command(epilog=EXIT_CODES)
def check(
    ctx: typer.Context,
    addresses: Annotated[
        list[str],
        typer.Argument(
            metavar="HOST:PORT…", help="Where a VenueService, a ChainService or both are served."
        ),
    ],
    wallet: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="A wallet that has traded: its history is read."),
    ] = "",
    wallet_key_file: Annotated[
        Path | None,
        typer.Option(
            help="The key of a funded development wallet. It SPENDS: a millionth of a pool is "
            "swapped twice, and three network fees are paid. Needs the addresses of venue and "
            "chain."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check every promise of the services at these addresses; reads only, without a key."""
    findings = asyncio.run(_check(addresses, ctx.obj.tls, wallet, wallet_key_file, json))
    counts = Counter(finding.outcome for _, finding in findings)
    if json:
        totals = {outcome.name.lower(): counts[outcome] for outcome in Outcome}
        told = [_told(group, finding) for group, finding in findings]
        typer.echo(show.to_json({"checks": told} | totals))
    else:
        typer.echo(", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome))
    raise typer.Exit(Exit.BROKEN if counts[Outcome.FAILED] else Exit.KEPT)


async def _check(
    addresses: Sequence[str], tls: Files, wallet: str, key_file: Path | None, quiet: bool
) -> list[tuple[str, Finding]]:
    # Only this command needs any of it.
    from oee.conformance.suite import groups
    from oee.wallet import read_key

    key = read_key(key_file) if key_file else None
    found = []
    async with AsyncExitStack() as opened:
        for group in await groups(opened, addresses, tls=tls, wallet=wallet, key=key):
            if not quiet:
                typer.echo(group.title)
            async for finding in group.findings():
                found.append((group.title, finding))
                if not quiet:
                    _show(finding)
            if not quiet:
                typer.echo()
    return found


def _show(finding: Finding) -> None:
    typer.echo(f"  {finding.outcome:{WIDTH}}  {finding.check}: {finding.promise}")
    for title, words in finding.words.items():
        typer.echo(f"  {'':{WIDTH}}    {title}: {words}")


def _told(group: str, finding: Finding) -> Mapping[str, Any]:
    return {
        "group": group,
        "check": finding.check,
        "promise": finding.promise,
        "outcome": finding.outcome.name.lower(),
        **finding.words,
    }
