"""What other processes commit, as they announce it: at once, and some of it may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from engine.bus import ABSENT, EVENTS_SUBJECT, Bus
from engine.v1 import orders_pb2 as pb

CLOSE_SECONDS: Final = 2.0

Listener = Callable[[Sequence[pb.OrderEvent]], None]


class Announcements:
    """One subscription for all who listen in this process, held while anybody does.

    Interest in one subject costs a gateway less than a subscription for every watched order,
    which would have to be made and undone with every watch.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._listeners: set[Listener] = set()
        self._subscription: Subscription | None = None
        self._changing = asyncio.Lock()

    async def join(self, listener: Listener) -> None:
        """Call `listener` with what is announced from now on."""
        self._listeners.add(listener)
        await self.ensure()

    async def leave(self, listener: Listener) -> None:
        """Call `listener` no more; safe to repeat."""
        self._listeners.discard(listener)
        async with self._changing:
            if self._listeners or self._subscription is None:
                return
            subscription, self._subscription = self._subscription, None
            with suppress(*ABSENT):
                await asyncio.wait_for(subscription.unsubscribe(), CLOSE_SECONDS)

    async def ensure(self) -> None:
        """Subscribe if anybody listens and NATS was away when that began; safe to repeat."""
        async with self._changing:
            if self._listeners and self._subscription is None:
                self._subscription = await self._bus.subscribe(EVENTS_SUBJECT, self._receive)

    async def _receive(self, message: Msg) -> None:
        events = pb.OrderEvents.FromString(message.data).events
        for listener in tuple(self._listeners):
            listener(events)
