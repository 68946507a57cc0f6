"""The examples in every language, through lost answers, broken streams and restarts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from engine import errors
from engine.rpc import serving
from engine.v1 import orders_pb2 as pb
from engine.v1 import orders_pb2_grpc
from tests.clients.conftest import Example
from tests.clients.programs import PATIENCE_SECONDS, require, running
from tests.clients.proxy import open_proxy
from tests.system.conftest import Engine

# The first of them waits for its build.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

SERVICE = "engine.v1.OrderService"


@pytest.fixture
def key() -> str:
    """A client_order_id of the test's own."""
    return f"test-{uuid4()}"


async def trade(
    example: Example, address: str, key: str, environment: Mapping[str, str] | None = None
) -> tuple[int | None, list[str], str]:
    """Run it to its end: the exit code, the lines it printed, and its words beside them."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        running(example.at(address), {"CLIENT_ORDER_ID": key, **(environment or {})}) as process,
    ):
        output, words = await process.communicate()
    return process.returncode, output.decode().splitlines(), words.decode()


async def orders(engine: Engine) -> int:
    """How many there are."""
    async with engine.client() as client:
        return len(
            (await client.ListOrders(pb.ListOrdersRequest(page_size=1000), timeout=10)).orders
        )


async def assert_followed(engine: Engine, key: str, lines: Sequence[str]) -> None:
    """The lines are the order's audit log from its first event to CONFIRMED; it swapped once."""
    async with engine.client() as client:
        order = (await client.GetOrder(pb.GetOrderRequest(client_order_id=key), timeout=10)).order
    recorded = [line(event) for event in await engine.watch(order)]

    # A stream that ends late also has what follows the final status.
    assert list(lines) == recorded[: len(lines)]
    assert lines[-1].endswith(" ORDER_STATUS_CONFIRMED")
    assert len(await engine.swaps_of(order)) == 1


def line(event: pb.OrderEvent) -> str:
    kind, status = pb.OrderEventType.Name(event.type), pb.OrderStatus.Name(event.status)
    return f"{event.sequence} {kind} {status}"


async def test_one_swap_whatever_message_the_connection_breaks_in(
    engine: Engine, example: Example, key: str
) -> None:
    before = await orders(engine)
    # The answer to the submit and then each event breaks in the middle, and passes when it is
    # asked for again. Some libraries forget what else had arrived, which is why there is an end.
    async with open_proxy(
        engine.stack.address, key, breaks=lambda answers: answers % 2 == 1 and answers < 30
    ) as proxy:
        code, lines, words = await trade(example, proxy.address, key)

    assert code == 0, words
    assert proxy.broken >= 1 + len(lines)
    assert await orders(engine) == before + 1
    await assert_followed(engine, key, lines)


async def test_a_watch_goes_on_after_the_gateway_was_killed_and_deployed(
    engine: Engine, example: Example, key: str
) -> None:
    held = engine.chain.hold("SimulateTransactions")
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        open_proxy(engine.stack.address, key) as proxy,
        running(example.at(proxy.address), {"CLIENT_ORDER_ID": key}) as process,
    ):
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(4)]
        await held.reached.wait()
        # Nothing more happens to the order until its watcher has been through it all.
        engine.stack.pause("executor")
        try:
            await engine.stack.kill("gateway")
            await engine.stack.serving("gateway")
            await proxy.asked()
            await engine.stack.stop("gateway")
            await engine.stack.start("gateway")
            await proxy.asked()
            proxy.reset()
            await proxy.asked()
        finally:
            engine.stack.resume("executor")
            held.release()
        rest, words = await process.communicate()

    assert process.returncode == 0, words.decode()
    await assert_followed(engine, key, (b"".join(lines) + rest).decode().splitlines())


async def test_two_runs_with_one_key_are_one_swap(
    engine: Engine, example: Example, key: str
) -> None:
    runs = await asyncio.gather(*(trade(example, engine.stack.address, key) for _ in range(2)))

    for code, lines, words in runs:
        assert code == 0, words
        await assert_followed(engine, key, lines)


async def test_a_refusal_is_told_and_not_tried_again(engine: Engine, example: Example) -> None:
    code, lines, words = await trade(example, engine.stack.address, "not a key")

    assert (code, lines) == (2, [])
    assert "must be 1 to 64 of" in words


class Moody(orders_pb2_grpc.OrderServiceServicer):
    """A gateway that says no in every way that passes, and notes how it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.asked_at: list[float] = []
        self.deadlines: list[float | None] = []
        self.keys: set[str] = set()
        self.authorizations: set[str] = set()

    async def SubmitOrder(
        self, request: pb.SubmitOrderRequest, context: Any
    ) -> pb.SubmitOrderResponse:
        match self._note("submit", 0, request.client_order_id, context):
            case 1:
                raise errors.Overloaded("too many orders")
            case 2:
                raise errors.StoreUnavailable("the database is away")
        return pb.SubmitOrderResponse(order=pb.Order(client_order_id=request.client_order_id))

    async def WatchOrder(
        self, request: pb.WatchOrderRequest, context: Any
    ) -> AsyncIterator[pb.WatchOrderResponse]:
        after = request.after_sequence
        self._note("watch", after, request.client_order_id, context)
        match after:
            case 0:
                yield self._event(1)
                yield self._event(2)
                raise errors.SlowConsumer("too slow", last_sequence="2")
            case 2:
                yield pb.WatchOrderResponse(heartbeat=pb.Heartbeat(sequence=2))
                yield self._event(3)
                raise errors.ShuttingDown("stopping")
            case 3:
                yield self._event(4, pb.ORDER_STATUS_FAILED)
                # Its last event is out, its end is not.
                raise errors.StoreUnavailable("the database is away")

    def _event(
        self, sequence: int, status: pb.OrderStatus.ValueType = pb.ORDER_STATUS_ROUTING
    ) -> pb.WatchOrderResponse:
        return pb.WatchOrderResponse(
            event=pb.OrderEvent(
                sequence=sequence, type=pb.ORDER_EVENT_TYPE_RETRY_SCHEDULED, status=status
            )
        )

    def _note(self, name: str, after: int, key: str, context: Any) -> int:
        self.calls.append((name, after))
        self.asked_at.append(asyncio.get_running_loop().time())
        self.deadlines.append(context.time_remaining())
        self.keys.add(key)
        headers = dict(context.invocation_metadata())
        self.authorizations.add(headers.get("authorization", ""))
        return len(self.calls)


async def test_it_comes_back_when_and_where_it_is_told_to(example: Example, key: str) -> None:
    moody = Moody()  # type: ignore[abstract]
    services = {
        SERVICE: lambda server: orders_pb2_grpc.add_OrderServiceServicer_to_server(moody, server)
    }
    async with serving("127.0.0.1:0", services) as server:
        code, lines, words = await trade(
            example, f"127.0.0.1:{server.port}", key, {"API_KEY": "a-key-of-the-test"}
        )
    waited = [after - before for before, after in pairwise(moody.asked_at)]

    assert (code, [line.split()[0] for line in lines]) == (1, ["1", "2", "3", "4"]), words
    assert lines[-1] == "4 ORDER_EVENT_TYPE_RETRY_SCHEDULED ORDER_STATUS_FAILED"
    assert moody.calls == [("submit", 0)] * 3 + [("watch", after) for after in (0, 2, 3, 4)]
    assert moody.keys == {key}
    assert moody.authorizations == {"Bearer a-key-of-the-test"}
    # What it was told after each call, in seconds; 0 where it was left to the client.
    for actual, told in zip(waited, (1, 1, 0, 0, 0.6, 1), strict=True):
        assert actual >= told
    for remaining, limit in zip(moody.deadlines, [10] * 3 + [30] * 4, strict=True):
        assert remaining is not None
        assert remaining < limit + 1  # gRPC rounds it up on the wire


async def test_it_speaks_tls_to_who_its_authority_vouches_for(
    engine: Engine, example: Example, key: str, tmp_path: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*await certificate(tmp_path))
    tls.set_alpn_protocols(["h2"])
    async with open_proxy(engine.stack.address, key, tls=tls) as proxy:
        code, lines, words = await trade(
            example, proxy.address, key, {"CA_FILE": str(tmp_path / "certificate.pem")}
        )

    assert code == 0, words
    await assert_followed(engine, key, lines)


async def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for this machine that vouches for itself, and its key."""
    require(("openssl",), "certificates are made with it")
    files = directory / "certificate.pem", directory / "key.pem"
    script = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        f" -out {files[0]} -keyout {files[1]}"
    )
    async with asyncio.timeout(PATIENCE_SECONDS), running(script) as process:
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return files


async def test_go_is_formatted() -> None:
    require(("gofmt",), "it comes with Go")
    async with asyncio.timeout(PATIENCE_SECONDS), running("gofmt -d examples/go/*.go") as process:
        output, _ = await process.communicate()

    assert (process.returncode, output.decode()) == (0, "")
