"""What each venue's attempts of late came to, and what that weighs when routes are compared."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from engine.errors import StoreUnavailable
from engine.fractions import PPM
from engine.route import MAX_SCORE_PPM, VenueScore
from engine.store import Store

logger = structlog.get_logger()

LOOK_SECONDS: Final = 10.0
WINDOW: Final = timedelta(hours=1)
# The newest of the window, all venues together: what one look may cost.
ATTEMPTS: Final = 1_000
# With fewer, chance says more than the venue does.
ENOUGH_ATTEMPTS: Final = 20

# One failed attempt in a hundred weighs as much as a price this much worse.
FAILURE_PPM_A_PERCENT: Final = 100
# So does a signature that comes so much later: prices move meanwhile.
LATENCY_MICROSECONDS_A_PPM: Final = 10_000

# Order ids begin with their time, so the newest orders stand at the end of the primary key. What a
# route over several venues came to is nobody's in particular: only its failures count.
SCORES: Final = """
WITH recent AS (
    SELECT a.order_id, a.venue, a.resolution = 'landed' AS landed, a.sign_time,
           o.amount_out, o.quoted_amount_out
      FROM attempts a JOIN orders o USING (order_id)
     WHERE a.order_id >= $1 AND a.resolution IS NOT NULL
     ORDER BY a.order_id DESC, a.number DESC LIMIT $2
)
SELECT v.venue, count(*) AS attempts, count(*) FILTER (WHERE NOT r.landed) AS failed,
       (avg(least(1000000, (r.amount_out - r.quoted_amount_out) * 1000000 / r.quoted_amount_out))
            FILTER (WHERE r.landed AND r.venue = v.venue))::bigint AS realised_ppm,
       avg(r.sign_time - chosen.time) AS latency
  FROM recent r
 CROSS JOIN unnest(string_to_array(r.venue, '+')) AS v (venue)
  LEFT JOIN LATERAL (
        SELECT e.time FROM order_events e
         WHERE e.order_id = r.order_id AND e.type = 'route_chosen' AND e.time <= r.sign_time
         ORDER BY e.sequence DESC LIMIT 1) AS chosen ON true
 GROUP BY v.venue ORDER BY v.venue
"""


def weigh(realised_ppm: int, failed_ppm: int, latency_microseconds: int) -> int:
    """The score of such a past, in parts per million of the amount out; bounded."""
    failures = failed_ppm * FAILURE_PPM_A_PERCENT // 10_000
    raw = realised_ppm - failures - latency_microseconds // LATENCY_MICROSECONDS_A_PPM
    return max(-MAX_SCORE_PPM, min(MAX_SCORE_PPM, raw))


class VenueScores:
    """The venues' scores, read again now and then; none until `look` was called."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.scores: Mapping[str, VenueScore] = {}

    async def look(self) -> None:
        """Read the past of the venues; raises StoreUnavailable."""
        since_milliseconds = int((time.time() - WINDOW.total_seconds()) * 1000)
        oldest = UUID(int=since_milliseconds << 80)
        rows = await self._store.ask(lambda connection: connection.fetch(SCORES, oldest, ATTEMPTS))
        self.scores = {row["venue"]: _score(row) for row in rows}

    async def follow(self) -> None:
        """Read it now and then, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                logger.debug("scores stay as they are", error=str(error))
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))


def _score(row: asyncpg.Record) -> VenueScore:
    attempts, realised_ppm = row["attempts"], row["realised_ppm"] or 0
    failed_ppm = row["failed"] * PPM // attempts
    latency_microseconds = (row["latency"] or timedelta()) // timedelta(microseconds=1)
    known = attempts >= ENOUGH_ATTEMPTS
    return VenueScore(
        venue=row["venue"],
        attempts=attempts,
        realised_ppm=realised_ppm,
        failed_ppm=failed_ppm,
        latency_microseconds=latency_microseconds,
        score_ppm=weigh(realised_ppm, failed_ppm, latency_microseconds) if known else 0,
    )
