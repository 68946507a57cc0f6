"""`oee reconcile --restored`: a restored database of a stack, brought up to its chain."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from oee.console import Exit, say
from oee.logs import MergedLog
from oee.ports import Ports
from oee.stack import Stack

EXITS: Final[Mapping[int, Exit]] = {0: Exit.DONE, 1: Exit.NOT_CONFIRMED}


async def reconcile(
    directory: Path, ports: Ports, log: MergedLog, paint: Callable[[str], None], as_json: bool
) -> Exit:
    """Reconcile with only database and chain running; what was done goes to `paint`.

    DONE: signing goes on. NOT_CONFIRMED: the record contradicts the chain. REFUSED: it could not
    finish, signing stays halted. Raises StartupError while the stack runs.
    """
    with closing(log):
        stack = Stack(directory, ports, gateways=0, routers=0, executors=0, show=log.show)
        async with stack:
            code, report = await stack.reconcile()
    if not report:
        say("it could not finish, and signing stays halted: run it again")
        return Exit.REFUSED
    paint(report if as_json else summary(json.loads(report)))
    return EXITS[code]


def summary(report: Mapping[str, Any]) -> str:
    """What was done, for people."""
    lines = [
        f"{report['read']} transactions of this engine are on chain, all of them final "
        f"(height {report['finalized_block_height']} is beyond {report['horizon']})",
        *(f"order {order_id} is CONFIRMED" for order_id in report["confirmed"]),
        *(f"order {order_id} has an attempt that failed on chain" for order_id in report["failed"]),
        *(
            f"order {order_id} was lost; who submits it again finds its swap done"
            for order_id in report["kept"]
        ),
        *(f"CONTRADICTION: {sentence}" for sentence in report["contradictions"]),
        f"signing is {report['signing']}",
    ]
    return "\n".join(lines)
