"""Rows read and written together, as many in a statement as wait for one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Final, TypeVar

import asyncpg
import structlog

from engine.batch import Batcher

logger = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")
Flush = Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]]

WRITERS: Final = 3
READERS: Final = 3
# Batches grow while a statement runs; one that waits for a lock holds up the others no longer.
PATIENCE_SECONDS: Final = 0.02
BATCH_LIMIT: Final = 250


def reading(read: Flush[Item, Result]) -> Batcher[Item, Result]:
    """Batches for `read`."""
    return Batcher(read, limit=BATCH_LIMIT, in_flight=READERS, patience_seconds=PATIENCE_SECONDS)


def writing(
    write: Flush[Item, Result], key: Callable[[Item], Hashable] | None = None
) -> Batcher[Item, Result]:
    """Batches for `write`, at most one item a `key` in each; a row that the database refuses
    fails alone, not with its whole batch."""
    return Batcher(
        partial(_row_by_row_on_bad_data, write),
        limit=BATCH_LIMIT,
        in_flight=WRITERS,
        patience_seconds=PATIENCE_SECONDS,
        key=key,
    )


async def _row_by_row_on_bad_data(
    write: Flush[Item, Result], items: Sequence[Item]
) -> Sequence[Result | BaseException]:
    try:
        return await write(items)
    except asyncpg.PostgresError as error:
        if len(items) == 1:
            logger.error("the database refused a row", error=str(error))
            return [error]
    return [answer for item in items for answer in await _row_by_row_on_bad_data(write, [item])]
