"""What watchers have not been told yet."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from engine.errors import ShuttingDown

# A watcher that is further behind than this loses the oldest.
LIMIT: Final = 10_000

T = TypeVar("T")


class Feed(Generic[T]):
    """One watcher's items: distinct, the newest `LIMIT` of them."""

    def __init__(self) -> None:
        self._items: OrderedDict[T, None] = OrderedDict()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, items: Iterable[T]) -> None:
        """Add items; one that waits already is told once."""
        self._items.update(dict.fromkeys(items))
        while len(self._items) > LIMIT:
            self._items.popitem(last=False)
        self._changed.set()

    def close(self) -> None:
        """End the watch once its reader comes back for more."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[T]:
        """Wait for items and take all of them, oldest first; ShuttingDown once closed."""
        await self._changed.wait()
        if self._closed:
            raise ShuttingDown("the simulator is stopping")
        self._changed.clear()
        items = list(self._items)
        self._items.clear()
        return items


class Feeds(Generic[T]):
    """The open feeds by topic."""

    def __init__(self) -> None:
        self._open: defaultdict[str, set[Feed[T]]] = defaultdict(set)
        self._closed = False

    @contextmanager
    def open(self, topic: str) -> Iterator[Feed[T]]:
        """A feed of what is published on the topic from now on."""
        feed = Feed[T]()
        if self._closed:
            feed.close()
        self._open[topic].add(feed)
        try:
            yield feed
        finally:
            self._open[topic].discard(feed)
            if not self._open[topic]:
                del self._open[topic]

    def publish(self, topic: str, items: Iterable[T]) -> None:
        """Put items on every feed of the topic."""
        for feed in self._open.get(topic, ()):
            feed.put(items)

    def close(self) -> None:
        """End all watches, and any that is opened from now on."""
        self._closed = True
        for feeds in self._open.values():
            for feed in feeds:
                feed.close()
