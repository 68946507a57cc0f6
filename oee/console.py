"""How a command talks: data on stdout, words on stderr, an exit code for scripts."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Any, Final

import grpc
import typer
from rich.console import Console
from typer.core import TyperGroup

from engine.errors import StartupError
from oee.client import CallFailed

EXIT_CODES: Final = (
    "Exit codes: 0 done, and an order that was watched is CONFIRMED; 1 the order ended FAILED, "
    "CANCELLED or EXPIRED, or a cancel came too late; 2 wrong usage, or refused by the engine; "
    "3 the engine cannot be reached or has no answer now; 4 there is no such order; 130 Ctrl-C."
)
INTERRUPTED: Final = 130
# What processes are run with; of the extra `embedded`.
EMBEDDED: Final = "psutil"
# Wider than any row, so that rich never shortens an id.
WIDTH: Final = 1000


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    DONE = 0
    NOT_CONFIRMED = 1
    REFUSED = 2
    NO_ANSWER = 3
    NOT_FOUND = 4


# Every other code says that asking again later may help.
EXITS: Final = {
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: Exit.REFUSED,
    grpc.StatusCode.ALREADY_EXISTS: Exit.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Exit.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: Exit.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Exit.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Exit.REFUSED,
}


class Edge(TyperGroup):
    """The process edge: a failed call becomes readable lines and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CallFailed as failure:
            code = EXITS.get(failure.code, Exit.NO_ANSWER)
            where = f"no answer from {ctx.obj.address}: " if code is Exit.NO_ANSWER else ""
            # A message that only repeats the details is left out.
            message = f": {failure}" * (str(failure) != "; ".join(failure.details))
            say(f"{where}{failure.code.name}{message}")
            for detail in failure.details:
                say(f"  {detail}")
            raise typer.Exit(code) from None
        except StartupError as error:
            say(str(error))
            raise typer.Exit(Exit.REFUSED) from None
        except ModuleNotFoundError as error:
            # Who only calls an engine needs none of what runs one.
            if error.name != EMBEDDED:
                raise
            say(
                f"{EMBEDDED} is not installed, which it takes to run the stack: "
                "pip install '.[embedded]' where its pyproject.toml is"
            )
            raise typer.Exit(Exit.REFUSED) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise typer.Exit(INTERRUPTED) from None


def say(message: str) -> None:
    """Tell a person something; stdout is for data."""
    typer.echo(message, err=True)


def paint(*things: object) -> None:
    """Show data to a person; the terminal may wrap it, but nothing is cut."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=WIDTH)
    for thing in things:
        console.print(thing)
