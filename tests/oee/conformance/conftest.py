"""A simulator that answers at once, and servers that answer as it does, but for one thing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from solders.keypair import Keypair

from dex_sim.__main__ import Simulator, open_simulator
from engine.v1 import chain_pb2, sim_pb2, sim_pb2_grpc, venue_pb2
from oee.conformance.chain import ChainAt
from oee.conformance.check import Check, Finding, Outcome, examine
from oee.conformance.swap import Desk
from oee.conformance.venue import Venue
from tests.dex_sim.conftest import quick

VENUE_SERVICE: ServiceDescriptor = venue_pb2.DESCRIPTOR.services_by_name["VenueService"]
CHAIN_SERVICE: ServiceDescriptor = chain_pb2.DESCRIPTOR.services_by_name["ChainService"]

# A watch of this simulator tells all at once; there is nothing to wait for.
LISTEN_SECONDS = 0.4
GIFT = 10**15


@dataclass(frozen=True)
class Wrong:
    """What a server does wrong: it spoils the requests of a method, or the answers."""

    method: str
    answer: Callable[[Any, Any], object] = lambda request, response: None
    request: Callable[[Any], object] = lambda request: None


@dataclass(frozen=True)
class Mistake:
    """What is wrong, the check that must say so and in which words; others it may fail as well."""

    wrong: Wrong
    check: str
    said: str
    also: Set[str] = frozenset()

    def is_told(self, failed: Mapping[str, Finding]) -> bool:
        """Whether that check says so, with expected, came and right, and no unconcerned one."""
        if failed.keys() - self.also != {self.check}:
            return False
        words = failed[self.check].words
        return words.keys() == {"expected", "came", "right"} and self.said in " ".join(
            words.values()
        )


class KeptBack(Exception):
    """Raised by what is wrong with a stream: this message is not passed on."""


class Relay(grpc.GenericRpcHandler):
    """Answers as the service behind a channel does, but for what is wrong."""

    def __init__(
        self, channel: grpc.aio.Channel, service: ServiceDescriptor, wrongs: Sequence[Wrong]
    ) -> None:
        self._channel = channel
        self._service = service
        self._wrongs = wrongs

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        service, _, name = details.method.strip("/").rpartition("/")
        if service != self._service.full_name:
            return None
        method = self._service.methods_by_name[name]
        wrongs = [wrong for wrong in self._wrongs if wrong.method == name]
        asked, told = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        wire: dict[str, Any] = {
            "request_serializer": asked.SerializeToString,
            "response_deserializer": told.FromString,
        }

        def ask(request: Message) -> Message:
            sent = asked.FromString(request.SerializeToString())
            for wrong in wrongs:
                wrong.request(sent)
            return sent

        def tell(request: Message, response: Message) -> Message:
            for wrong in wrongs:
                wrong.answer(request, response)
            return response

        async def single(request: Message, context: Any) -> Message:
            call: Any = self._channel.unary_unary(details.method, **wire)
            try:
                return tell(request, await call(ask(request), timeout=10))
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
                raise

        async def stream(request: Message, context: Any) -> AsyncIterator[Message]:
            opened: Any = self._channel.unary_stream(details.method, **wire)
            call = opened(ask(request))
            await call.initial_metadata()
            await context.send_initial_metadata(())
            async for response in call:
                with suppress(KeptBack):
                    if not tell(request, response).ByteSize():
                        return  # with nothing left to tell, it ends
                    yield response

        as_wire: dict[str, Any] = {
            "request_deserializer": asked.FromString,
            "response_serializer": told.SerializeToString,
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **as_wire)
        return grpc.unary_unary_rpc_method_handler(single, **as_wire)


class World:
    """A simulator, a funded wallet in it, and servers that stand before it."""

    def __init__(self, simulator: Simulator, opened: AsyncExitStack) -> None:
        self.simulator = simulator
        self.key = Keypair()
        self.wallet = str(self.key.pubkey())
        self._opened = opened

    async def channel(self, address: str) -> grpc.aio.Channel:
        return await self._opened.enter_async_context(grpc.aio.insecure_channel(address))

    async def control(self) -> Any:
        return sim_pb2_grpc.SimControlServiceStub(await self.channel(self.chain))

    @property
    def chain(self) -> str:
        return self.simulator.chain_address

    def venue(self, name: str = "raydium") -> str:
        return self.simulator.venue_addresses[name]

    async def inject(self, **fault: Any) -> None:
        """Let the simulator itself go wrong."""
        request = sim_pb2.InjectFaultRequest(fault=sim_pb2.Fault(**fault))
        await (await self.control()).InjectFault(request)

    async def fund(self, *mints: str) -> None:
        """Give the wallet plenty of these, and of lamports."""
        control = await self.control()
        for mint in ("", *mints):
            gift = sim_pb2.FundWalletRequest(wallet=self.wallet, mint=mint, amount=str(GIFT))
            await control.FundWallet(gift)

    async def relay(self, service: ServiceDescriptor, address: str, *wrongs: Wrong) -> str:
        """The address of a server that is wrong in these things only; it has no reflection."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = Relay(await self.channel(address), service, wrongs)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._opened.push_async_callback(server.stop, None)
        return f"127.0.0.1:{port}"

    async def wrong_venue(self, *wrongs: Wrong, venue: str = "raydium") -> Venue:
        address = await self.relay(VENUE_SERVICE, self.venue(venue), *wrongs)
        return Venue(await self.channel(address), self.wallet, LISTEN_SECONDS)

    async def wrong_chain(self, *wrongs: Wrong) -> ChainAt:
        address = await self.relay(CHAIN_SERVICE, self.chain, *wrongs)
        return ChainAt(await self.channel(address), self.wallet)

    async def desk(self, *wrongs: Wrong) -> Desk:
        """The funded wallet between a right venue and a wrong chain."""
        venue = Venue(await self.channel(self.venue()), self.wallet)
        return Desk(venue, await self.wrong_chain(*wrongs), self.key)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as opened:
        simulator = await opened.enter_async_context(open_simulator(quick(tmp_path)))
        yield World(simulator, opened)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def still_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for all tests of a module, which leave it as it is."""
    async with AsyncExitStack() as opened:
        directory = tmp_path_factory.mktemp("chain")
        simulator = await opened.enter_async_context(open_simulator(quick(directory)))
        yield World(simulator, opened)


async def failed(subject: Any, checks: Sequence[Check[Any]]) -> dict[str, Finding]:
    """Examines, and returns what failed by its check's name."""
    return {
        finding.check: finding
        async for finding in examine(subject, checks)
        if finding.outcome is Outcome.FAILED
    }
