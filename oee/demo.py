"""Many swaps at once through the whole stack, every status live, then what became of each."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from engine.errors import StartupError
from engine.v1 import orders_pb2 as pb
from oee import show
from oee.client import Client, connect, new_client_order_id
from oee.logs import MergedLog
from oee.stack import Ports, Stack

# Far above what the slowest order needs with all its retries.
DEADLINE_SECONDS: Final = 120.0
SLIPPAGE_BPS: Final = 200
SWAPS: Final = (
    ("SOL", "USDC", "1.5"),
    ("USDC", "SOL", "250"),
    ("SOL", "USDT", "2"),
    ("JUP", "USDC", "400"),
    ("BONK", "SOL", "5000000"),
    ("RAY", "SOL", "80"),
    ("USDC", "USDT", "1000"),
    ("USDT", "JUP", "300"),
    ("SOL", "BONK", "0.75"),
    ("RAY", "USDC", "120.5"),
)

Paint = Callable[[object], None]


async def demo(directory: Path | None, count: int, show_logs: bool, paint: Paint) -> int:
    """Swap `count` times at once on a stack of its own; 0 when every order is CONFIRMED, else 1.

    Without a directory, everything is thrown away afterwards, unless something went wrong.
    """
    _cancel_on_signals()
    home = directory or _throwaway()
    home.mkdir(parents=True, exist_ok=True)
    with _log(home, show_logs) as log:
        stack = Stack(
            home, Ports.free(), settings={"gateway": {"ORDERS_PER_MINUTE": "0"}}, show=log.show
        )
        try:
            ended = await _swap_all(stack, count, paint)
        except asyncio.CancelledError:
            if directory is None:
                await _throw_away(stack)
            raise
        paint("")
        paint(show.summary(ended.items()))
        confirmed = [n for n, order in ended.items() if order.status == pb.ORDER_STATUS_CONFIRMED]
        paint(f"\n{len(confirmed)} of {count} orders are CONFIRMED")
        if len(confirmed) == count:
            if directory is None:
                await _throw_away(stack)
            return 0
        for number in sorted(set(range(1, count + 1)) - set(confirmed)):
            paint(f"#{number} {_why(ended.get(number))}")
        paint(f"data and logs are kept in {home}")
        return 1


async def _swap_all(stack: Stack, count: int, paint: Paint) -> dict[int, pb.Order]:
    """The orders by their number, as they ended; without those that did not end in time."""
    paint(f"starting PostgreSQL, NATS, simulated venues and three services in {stack.directory} …")
    with ThreadPoolExecutor(count) as threads:
        async with stack:
            # Closed before the threads are waited for: that ends their calls.
            with closing(connect(stack.address)) as channel:
                paint(f"SERVING at {stack.address}; submitting {count} swaps at once\n")
                swaps = _Swaps(Client(channel), paint)
                loop = asyncio.get_running_loop()
                work = [
                    loop.run_in_executor(threads, swaps.swap, number, *swap)
                    for number, swap in enumerate(islice(cycle(SWAPS), count), start=1)
                ]
                try:
                    done, _ = await asyncio.wait(work, timeout=DEADLINE_SECONDS)
                finally:
                    for swap in work:
                        swap.cancel()
                return dict(sorted(swap.result() for swap in done))


def _why(order: pb.Order | None) -> str:
    if order is None:
        return f"did not end within {DEADLINE_SECONDS:.0f} s"
    return f"{show.status(order.status)}: {order.error.reason}: {order.error.message}"


def _throwaway() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="oee-demo-"))
    # Run by root, PostgreSQL belongs to another user, who has to get to its data.
    directory.chmod(0o711)
    return directory


async def _throw_away(stack: Stack) -> None:
    # The database may be elsewhere: wipe knows, and refuses when it is not ours.
    with suppress(StartupError):
        await stack.wipe()
    shutil.rmtree(stack.directory)


class _Swaps:
    """Submits and follows orders, one a thread, and paints every step with its time."""

    def __init__(self, client: Client, paint: Paint) -> None:
        self._client = client
        self._paint = paint
        self._started = time.monotonic()

    def swap(
        self, number: int, token_in: str, token_out: str, amount_in: str
    ) -> tuple[int, pb.Order]:
        """One order from its submission to its end."""
        request = pb.SubmitOrderRequest(
            client_order_id=new_client_order_id(),
            token_in=token_in,
            token_out=token_out,
            amount_in=amount_in,
            slippage_bps=SLIPPAGE_BPS,
        )
        order_id = self._client.submit(request).order.order_id
        pair = f"{token_in}→{token_out}"
        for event in self._client.watch(order_id):
            seconds = time.monotonic() - self._started
            self._paint(show.event(event, prefix=f"{seconds:6.2f} s  #{number:<3} {pair:<10}"))
        return number, self._client.order(order_id)


def _cancel_on_signals() -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def cancel() -> None:
        # Once: a second Ctrl-C must not cut short the draining of processes.
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)


@contextmanager
def _log(directory: Path, shown: bool) -> Iterator[MergedLog]:
    with (directory / "services.log").open("a") as file:
        log = MergedLog(sys.stderr if shown else file)
        try:
            yield log
        finally:
            log.close()
