"""`oee up`: the whole stack in the foreground, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from engine.errors import StartupError
from oee.logs import MergedLog
from oee.ports import Ports
from oee.stack import COMMANDS, Stack

USAGE_ERROR: Final = 2
# SIGHUP: the terminal was closed.
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXAMPLE: Final = {
    "client_order_id": "my-first-swap",
    "token_in": "SOL",
    "token_out": "USDC",
    "amount_in": "1.5",
}


async def up(
    directory: Path, ports: Ports, fresh: bool, commands: Mapping[str, Sequence[str]] = COMMANDS
) -> int:
    """Run a stack until Ctrl-C or SIGTERM, showing its logs; returns the exit code.

    0: stopped as asked, everything drained. 2: it could not start; one line says why.
    """
    log = MergedLog(sys.stdout)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    stack = Stack(directory, ports, commands=commands, show=log.show)
    running = asyncio.create_task(_run(stack, fresh, log))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        # Cancelled once only: signals that come while it drains change nothing.
        running.cancel()
        await running
    except asyncio.CancelledError:
        return 0
    except (StartupError, OSError) as error:
        sys.stderr.write(f"oee: {error}\n")
        return USAGE_ERROR
    finally:
        stopped.cancel()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        log.close()
    return 0


async def _run(stack: Stack, fresh: bool, log: MergedLog) -> None:
    if fresh:
        await stack.wipe()
    async with stack:
        order = json.dumps(EXAMPLE)
        log.show("oee", f"SERVING at {stack.address}; Ctrl-C drains it. Try:")
        log.show(
            "oee",
            f"grpcurl -plaintext -d '{order}' {stack.address} engine.v1.OrderService/SubmitOrder",
        )
        try:
            await asyncio.Event().wait()
        finally:
            log.show("oee", f"draining; the data stay in {stack.directory}")
