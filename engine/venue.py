"""The venue port and its gRPC adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import msgspec
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from engine.batch import Batcher
from engine.certificates import Files
from engine.channel import open_channel
from engine.errors import Refused
from engine.instructions.arrays import MAX_ARRAYS
from engine.pace import Pace
from engine.route import Hints
from engine.v1 import venue_pb2 as pb
from engine.v1.venue_pb2_grpc import VenueServiceStub

if TYPE_CHECKING:
    from engine.v1.venue_pb2_grpc import VenueServiceAsyncStub

BUILD_SECONDS: Final = 3.0
# A stream says something every second.
SILENCE_SECONDS: Final = 2.5
BATCH_LIMIT: Final = 200
CALLS_IN_FLIGHT: Final = 32
# Batches grow while a venue answers; one that takes its time holds up nobody for longer.
PATIENCE_SECONDS: Final = 0.01

# Refusals to quote that time does not cure.
PERMANENT: Final = frozenset(
    {
        pb.REFUSAL_REASON_NO_POOL,
        pb.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY,
        pb.REFUSAL_REASON_INVALID,
    }
)


class BuiltSwap(msgspec.Struct, frozen=True):
    """A venue's instructions for one swap, and the hints that tell how their accounts derive."""

    instructions: tuple[Instruction, ...]
    hints: Hints


class Venue(Protocol):
    """One DEX venue. Its calls have no effect on the chain and are safe to repeat."""

    async def quote(self, query: pb.QuoteQuery, timeout_seconds: float) -> pb.Quote:
        """What the swap would yield now.

        Raises Refused when the venue says no, is away or is late.
        """

    async def build(self, swap: pb.SwapOrder) -> BuiltSwap:
        """The venue's instructions for a quoted swap.

        Raises Refused when the venue says no, is away or is late; never for good, since what
        this pool does not do now another may.
        """

    def pools(self) -> AsyncIterator[pb.WatchPoolsResponse]:
        """Every pool once, then what changes, for as long as the connection lasts.

        Raises Refused when the venue has no such stream, is away or falls silent.
        """


class VenueClient:
    """A venue at an address."""

    def __init__(self, name: str, channel: grpc.aio.Channel, pace: Pace | None = None) -> None:
        self._name = name
        self._pace = pace
        # Calls that wait for their turn would only be smaller ones.
        in_flight = CALLS_IN_FLIGHT if pace is None else min(CALLS_IN_FLIGHT, pace.calls_ahead)
        self._stub: VenueServiceAsyncStub = VenueServiceStub(channel)
        self._quotes: Batcher[tuple[pb.QuoteQuery, float], pb.Quote] = Batcher(
            self._quote_batch,
            limit=BATCH_LIMIT,
            in_flight=in_flight,
            patience_seconds=PATIENCE_SECONDS,
        )
        self._builds: Batcher[pb.SwapOrder, BuiltSwap] = Batcher(
            self._build_batch,
            limit=BATCH_LIMIT,
            in_flight=in_flight,
            patience_seconds=PATIENCE_SECONDS,
        )

    async def quote(self, query: pb.QuoteQuery, timeout_seconds: float) -> pb.Quote:
        return await self._quotes.submit((query, timeout_seconds))

    async def build(self, swap: pb.SwapOrder) -> BuiltSwap:
        return await self._builds.submit(swap)

    async def pools(self) -> AsyncIterator[pb.WatchPoolsResponse]:
        call = self._stub.WatchPools(pb.WatchPoolsRequest())
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await call.read()
                if not isinstance(message, pb.WatchPoolsResponse):
                    raise Refused("VENUE_UNAVAILABLE", f"{self._name} ended its stream of pools")
                yield message
        except TimeoutError:
            raise Refused("VENUE_TIMEOUT", f"{self._name}'s stream of pools is silent") from None
        except grpc.aio.AioRpcError as error:
            raise self._no_answer(error) from None
        finally:
            call.cancel()

    async def _quote_batch(
        self, batch: Sequence[tuple[pb.QuoteQuery, float]]
    ) -> list[pb.Quote | BaseException]:
        queries = [query for query, _ in batch]
        await self._turn()
        try:
            response = await self._stub.Quote(
                pb.QuoteRequest(queries=queries), timeout=max(seconds for _, seconds in batch)
            )
        except grpc.aio.AioRpcError as error:
            raise self._no_answer(error) from None
        self._expect(len(queries), len(response.results))
        return [
            self._checked(query, result)
            for query, result in zip(queries, response.results, strict=True)
        ]

    async def _build_batch(self, swaps: Sequence[pb.SwapOrder]) -> list[BuiltSwap | BaseException]:
        await self._turn()
        try:
            response = await self._stub.BuildSwap(
                pb.BuildSwapRequest(swaps=swaps), timeout=BUILD_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise self._no_answer(error) from None
        self._expect(len(swaps), len(response.results))
        return [self._built(result) for result in response.results]

    async def _turn(self) -> None:
        if self._pace is not None:
            await self._pace.turn()

    def _expect(self, asked: int, answered: int) -> None:
        if asked != answered:
            raise Refused(
                "VENUE_ANSWER_INVALID",
                f"{self._name} gave {answered} answers to {asked} questions",
            )

    def _checked(self, query: pb.QuoteQuery, result: pb.QuoteResult) -> pb.Quote | Refused:
        if result.WhichOneof("result") != "quote":
            return self._refusal(result.refusal, permanent=result.refusal.reason in PERMANENT)
        quote = result.quote
        asked = (query.mint_in, query.mint_out, query.amount_in)
        if (quote.mint_in, quote.mint_out, quote.amount_in) != asked or not quote.amount_out:
            return Refused(
                "VENUE_ANSWER_INVALID", f"{self._name} quoted another swap than it was asked for"
            )
        try:
            Pubkey.from_string(quote.pool)
        except ValueError:
            return Refused("VENUE_ANSWER_INVALID", f"{self._name} quoted a pool without an address")
        return quote

    def _built(self, result: pb.BuildSwapResult) -> BuiltSwap | Refused:
        if result.WhichOneof("result") != "swap":
            return self._refusal(result.refusal)
        swap = result.swap
        if len(swap.arrays) > MAX_ARRAYS:
            return Refused(
                "VENUE_ANSWER_INVALID",
                f"{self._name} named {len(swap.arrays)} arrays for one swap; {MAX_ARRAYS} is most",
            )
        try:
            return BuiltSwap(
                tuple([_instruction(each) for each in swap.instructions]),
                Hints(
                    arrays=tuple(swap.arrays),
                    market=str(Pubkey.from_string(swap.market)) if swap.market else None,
                    config=swap.config,
                    zero_for_one=not swap.one_for_zero,
                ),
            )
        except ValueError:
            return Refused(
                "VENUE_ANSWER_INVALID", f"{self._name} built instructions with malformed addresses"
            )

    def _refusal(self, refusal: pb.Refusal, *, permanent: bool = False) -> Refused:
        known = refusal.reason in pb.RefusalReason.values()
        name = pb.RefusalReason.Name(refusal.reason if known else pb.REFUSAL_REASON_UNSPECIFIED)
        return Refused(
            name.removeprefix("REFUSAL_REASON_"),
            refusal.message or f"{self._name} refused",
            permanent=permanent,
        )

    def _no_answer(self, error: grpc.aio.AioRpcError) -> Refused:
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return Refused("VENUE_TIMEOUT", f"{self._name} did not answer in time")
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return Refused("RATE_LIMITED", f"{self._name} takes no more calls now")
            case code:
                return Refused("VENUE_UNAVAILABLE", f"{self._name} is not available ({code.name})")


def _instruction(built: pb.Instruction) -> Instruction:
    called = pb.Instruction()
    called.CopyFrom(built)
    called.ClearField("data")
    program, accounts = _called(called.SerializeToString())
    return Instruction(program, built.data, accounts)


# A venue names the same programs and accounts again and again.
@lru_cache(maxsize=1024)
def _called(raw: bytes) -> tuple[Pubkey, list[AccountMeta]]:
    called = pb.Instruction.FromString(raw)
    return (
        Pubkey.from_string(called.program),
        [
            AccountMeta(Pubkey.from_string(each.address), each.signer, each.writable)
            for each in called.accounts
        ],
    )


@asynccontextmanager
async def open_venues(
    addresses: Mapping[str, str], tls: Files | None = None, calls_per_second: float = 0
) -> AsyncIterator[dict[str, Venue]]:
    """Clients for venues by name; they connect when first asked, and again when needed.

    Each venue is called so often a second at most; 0 means any number of times.
    """
    async with AsyncExitStack() as stack:
        venues: dict[str, Venue] = {}
        for name, address in addresses.items():
            channel = await stack.enter_async_context(open_channel(address, tls))
            venues[name] = VenueClient(
                name, channel, Pace(calls_per_second) if calls_per_second else None
            )
        yield venues
