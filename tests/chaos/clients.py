"""Clients that behave as clients do: each trades one order and notes all that it is told.

They retry, send the same key twice at once, disconnect, resume elsewhere, cancel and come back
later. What a client does is drawn from its own seed; only the timing is not.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from engine.token import Tokens
from engine.v1 import orders_pb2 as pb
from tests.chaos.facts import CancelAnswer, Event, Stream, Told
from tests.chaos.intents import Intent, any_intent
from tests.chaos.reading import streamed

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

Answer = TypeVar("Answer")

CALL_SECONDS: Final = 3.0
# A stream that says nothing for so long, not even its heartbeat, is given up.
SILENCE_SECONDS: Final = 3.0
HEARTBEAT: Final = Duration(seconds=1)
RETRY_SECONDS: Final = (0.05, 0.5)
# How long a stream is kept that is dropped on purpose.
PATIENCE_SECONDS: Final = (0.02, 1.5)

# What the README tells clients to retry.
RETRIED: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class Crowd:
    """All clients of one run, trading side by side."""

    def __init__(
        self, seed: int, gateways: Sequence[OrderServiceAsyncStub], tokens: Tokens
    ) -> None:
        self._seed = seed
        self._gateways = gateways
        self._tokens = tokens
        self._trading: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self.traders: list[Trader] = []
        self.tally: Counter[str] = Counter()

    def send(self, draw: Callable[[str, random.Random], Intent]) -> Trader:
        """Another client, who begins at once."""
        number = len(self.traders) + 1
        chance = random.Random(f"{self._seed}/{number}")
        intent = draw(f"storm-{self._seed}-{number}", chance)
        trader = Trader(intent, chance, self._gateways, self._tokens, self.tally)
        self.traders.append(trader)
        trading = asyncio.create_task(trader.trade())
        self._trading.add(trading)
        trading.add_done_callback(self._finished)
        return trader

    async def keep_sending(self, seconds: float, orders_per_second: float) -> None:
        """A steady stream of clients with all kinds of orders, whatever becomes of them."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            self.send(any_intent)
            await asyncio.sleep(1 / orders_per_second)

    async def finish(self, within_seconds: float) -> None:
        """Wait until every client has come to its end; those that have not by then are stopped.

        Raises what a client itself failed with.
        """
        if self._trading:
            await asyncio.wait(self._trading, timeout=within_seconds)
        await self.stop()
        if self._failures:
            raise self._failures[0]

    async def stop(self) -> None:
        """Stop every client where it stands."""
        for trading in self._trading:
            trading.cancel()
        if self._trading:
            await asyncio.wait(set(self._trading))

    def _finished(self, trading: asyncio.Task[None]) -> None:
        self._trading.discard(trading)
        if not trading.cancelled() and (error := trading.exception()) is not None:
            self._failures.append(error)


class Trader:
    """One client with one order, at several gateways."""

    def __init__(
        self,
        intent: Intent,
        chance: random.Random,
        gateways: Sequence[OrderServiceAsyncStub],
        tokens: Tokens,
        tally: Counter[str],
    ) -> None:
        self._intent = intent
        self._chance = chance
        self._gateways = gateways
        request = intent.request
        token_in, token_out = tokens.find(request.token_in), tokens.find(request.token_out)
        assert token_in is not None
        assert token_out is not None
        self._pair = token_in, token_out
        self._tally = tally
        self._order_ids: set[str] = set()
        self._notes: list[_Notes] = []
        self._cancels: list[CancelAnswer] = []
        self._wrong_answers: list[str] = []
        self.confirmed = asyncio.Event()

    @property
    def told(self) -> Told:
        """All that this client was told so far."""
        return Told(
            self._intent.request.client_order_id,
            frozenset(self._order_ids),
            [n.stream() for n in self._notes],
            tuple(self._cancels),
            tuple(self._wrong_answers),
        )

    async def trade(self) -> None:
        """Submit the order, follow it to its end, and do all else that the intent says."""
        await asyncio.gather(*(self._submit() for _ in range(self._intent.submits_at_once)))
        if not self._order_ids:
            return
        async with asyncio.TaskGroup() as group:
            for _ in range(self._intent.watchers):
                group.create_task(self._watch(_Notes(after=0, until_settled=True)))
            for _ in range(self._intent.glances):
                group.create_task(self._watch(_Notes(after=None, until_settled=False)))
            group.create_task(self._cancel())
        if self._intent.comes_back:
            await self._submit()
            await self._watch(_Notes(after=0, until_settled=True))

    async def _submit(self) -> None:
        response = await self._ask(
            "SubmitOrder", lambda g: g.SubmitOrder(self._intent.request, timeout=CALL_SECONDS)
        )
        if response is not None:
            self._tally["answers: duplicate" if response.duplicate else "answers: accepted"] += 1
            self._order_ids.add(response.order.order_id)

    async def _cancel(self) -> None:
        if self._intent.cancels_after_seconds is None:
            return
        await asyncio.sleep(self._intent.cancels_after_seconds)
        request = pb.CancelOrderRequest(client_order_id=self._intent.request.client_order_id)
        response = await self._ask(
            "CancelOrder", lambda g: g.CancelOrder(request, timeout=CALL_SECONDS)
        )
        if response is not None:
            outcome = pb.CancelOutcome.Name(response.outcome).removeprefix("CANCEL_OUTCOME_")
            self._tally[f"cancels: {outcome}"] += 1
            self._cancels.append(CancelAnswer(outcome.lower(), response.order.sequence))

    async def _watch(self, notes: _Notes) -> None:
        """Follow the order to its end, however often the stream breaks or is dropped."""
        self._notes.append(notes)
        drops = self._intent.drops
        while not notes.ended:
            patience = self._chance.uniform(*PATIENCE_SECONDS) if drops > 0 else None
            drops -= 1
            try:
                async with asyncio.timeout(patience):
                    await self._read(self._chance.choice(self._gateways), notes)
            except TimeoutError:
                self._tally["streams: dropped"] += 1
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    self._wrong(f"WatchOrder: {error.code().name}: {error.details()}")
                    return
                self._tally["streams: broken"] += 1
                await asyncio.sleep(self._chance.uniform(*RETRY_SECONDS))

    async def _read(self, gateway: OrderServiceAsyncStub, notes: _Notes) -> None:
        """One stream to its end; TimeoutError when it falls silent."""
        request = pb.WatchOrderRequest(
            after_sequence=notes.last,
            until_settled=notes.until_settled,
            heartbeat_interval=HEARTBEAT,
        )
        if self._chance.random() < 0.5:
            request.client_order_id = self._intent.request.client_order_id
        else:
            request.order_id = self._chance.choice(sorted(self._order_ids))
        call = gateway.WatchOrder(request)
        responses = aiter(call)
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await anext(responses, None)
                if response is None:
                    notes.ended = True
                    return
                self._note(response, notes)
        finally:
            call.cancel()

    def _note(self, response: pb.WatchOrderResponse, notes: _Notes) -> None:
        match response.WhichOneof("payload"):
            case "snapshot":
                notes.after = response.snapshot.sequence
            case "event":
                notes.events.append(streamed(response.event, *self._pair))
                if response.event.status == pb.ORDER_STATUS_CONFIRMED:
                    self.confirmed.set()

    async def _ask(
        self, name: str, call: Callable[[OrderServiceAsyncStub], Awaitable[Answer]]
    ) -> Answer | None:
        """Call any gateway until one answers; None when the answer is a refusal."""
        while True:
            try:
                return await call(self._chance.choice(self._gateways))
            except grpc.aio.AioRpcError as error:
                if error.code() in RETRIED:
                    self._tally["calls: retried"] += 1
                    await asyncio.sleep(self._chance.uniform(*RETRY_SECONDS))
                    continue
                # The one right refusal: it took so long to be heard that it came too late.
                if not self._order_ids and "expire_time" in (error.details() or ""):
                    self._tally["answers: too late"] += 1
                else:
                    self._wrong(f"{name}: {error.code().name}: {error.details()}")
                return None

    def _wrong(self, answer: str) -> None:
        self._wrong_answers.append(answer)


class _Notes:
    """What one watcher has seen, over all its reconnects."""

    def __init__(self, *, after: int | None, until_settled: bool) -> None:
        self.after = after  # None until the snapshot is here
        self.until_settled = until_settled
        self.events: list[Event] = []
        self.ended = False

    @property
    def last(self) -> int | None:
        """Where to resume; None: with a snapshot."""
        return self.events[-1].sequence if self.events else self.after

    def stream(self) -> Stream:
        return Stream(self.after or 0, self.until_settled, tuple(self.events), self.ended)
