"""The SQL of the store, with what a transition writes as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from engine.lifecycle import FINAL, Status
from engine.order import Attempt, Order, OrderEvent, Transition
from engine.rows import encode, encode_detail

# How soon an order in this status is looked at again if nothing happens; repeated looks
# back off. Long enough for the work itself, short enough to outlive a crash
# unnoticed.
CHECK_AFTER: Final = {
    Status.PENDING: timedelta(seconds=2),
    Status.ROUTING: timedelta(seconds=3),
    Status.BUILDING: timedelta(seconds=3),
    Status.SUBMITTED: timedelta(milliseconds=200),
    Status.CONFIRMED: timedelta(milliseconds=400),
}

# column, type, and where its value comes from
FACTS: Final[Sequence[tuple[str, str, Callable[[Order], object]]]] = (
    ("status", "text", lambda o: o.status.value),
    ("settled", "boolean", lambda o: o.settled),
    ("min_amount_out", "numeric", lambda o: o.min_amount_out),
    ("venue", "text", lambda o: o.route.venue if o.route else None),
    ("pool", "text", lambda o: o.route.pool if o.route else None),
    ("quoted_amount_out", "numeric", lambda o: o.route.quoted_amount_out if o.route else None),
    ("retries", "smallint", lambda o: o.retries),
    ("cancel_requested", "boolean", lambda o: o.cancel_requested),
    ("error_reason", "text", lambda o: o.failure.reason if o.failure else None),
    ("error_message", "text", lambda o: o.failure.message if o.failure else None),
    ("filled_amount_in", "numeric", lambda o: o.fill.amount_in if o.fill else None),
    ("amount_out", "numeric", lambda o: o.fill.amount_out if o.fill else None),
    ("fill_slot", "bigint", lambda o: o.fill.slot if o.fill else None),
    ("fill_signature", "text", lambda o: o.fill.signature if o.fill else None),
    ("network_fee_lamports", "bigint", lambda o: o.fill.network_fee_lamports if o.fill else None),
)

EVENT: Final[Sequence[tuple[str, str, Callable[[OrderEvent], object]]]] = (
    ("type", "text", lambda e: e.type.value),
    ("previous_status", "text", lambda e: e.previous_status.value if e.previous_status else None),
    ("detail", "text", lambda e: encode_detail(e.detail)),
)

ATTEMPT: Final[Sequence[tuple[str, str, Callable[[Attempt], object]]]] = (
    ("number", "smallint", lambda a: a.number),
    ("venue", "text", lambda a: a.venue),
    ("pool", "text", lambda a: a.pool),
    ("signature", "text", lambda a: a.signature),
    ("blockhash", "text", lambda a: a.blockhash),
    ("last_valid_block_height", "bigint", lambda a: a.last_valid_block_height),
    ("min_amount_out", "numeric", lambda a: a.min_amount_out),
    ("transaction", "bytea", lambda a: a.transaction),
    ("resolution", "text", lambda a: a.resolution.value if a.resolution else None),
    ("evidence", "text", lambda a: encode(a.evidence) if a.evidence else None),
)

REQUEST: Final[Sequence[tuple[str, str, Callable[[Order], object]]]] = (
    ("order_id", "uuid", lambda o: o.order_id),
    ("account", "text", lambda o: o.account),
    ("client_order_id", "text", lambda o: o.client_order_id),
    ("order_type", "text", lambda o: o.request.order_type.value),
    ("token_in", "text", lambda o: o.request.token_in),
    ("token_out", "text", lambda o: o.request.token_out),
    ("amount_in", "numeric", lambda o: o.request.amount_in),
    ("slippage_bps", "integer", lambda o: o.request.slippage_bps),
    ("requested_min_amount_out", "numeric", lambda o: o.request.min_amount_out),
    # unnest() would flatten an array of arrays.
    ("venues", "text", lambda o: ",".join(o.request.venues)),
    ("expire_time", "timestamptz", lambda o: o.request.expire_time),
)


def _names(columns: Iterable[tuple[str, str, Any]], prefix: str = "") -> str:
    return ", ".join(prefix + name for name, _, _ in columns)


def _unnest(first: int, alias: str, columns: Sequence[tuple[str, str, Any]]) -> str:
    arrays = ", ".join(f"${first + i}::{kind}[]" for i, (_, kind, _) in enumerate(columns))
    return f"unnest({arrays}) AS {alias} ({_names(columns)})"


_KEY: Final = (("order_id", "uuid", None), ("sequence", "integer", None))
_TIMES: Final = (("backoff", "interval", None), ("check_after", "interval", None))
_MOVE: Final = (*_KEY, *_TIMES, *FACTS, *EVENT)
_SIGNED: Final = (("order_id", "uuid", None), *ATTEMPT)

# Rule R7: nothing is signed once expire_time has passed, by the database's clock. And while
# signing is halted the record may be behind the chain: nothing is signed, and nothing is said to
# have ended without a swap.
_GUARD: Final = """
AND (m.type <> 'attempt_signed' OR o.expire_time IS NULL OR o.expire_time > now())
AND (m.type <> 'attempt_signed' AND m.status NOT IN ('failed', 'cancelled', 'expired')
     OR (SELECT signing_allowed()))
"""

# Each row is guarded by its own version; rows are locked in id order, so that two batches
# never wait for each other in a circle. The event is written by the statement that moves.
_SAVE: Final = f"""
WITH move AS (SELECT * FROM {_unnest(1, "m", _MOVE)}),
locked AS MATERIALIZED (
    SELECT o.order_id FROM orders o JOIN move m USING (order_id)
     ORDER BY o.order_id FOR NO KEY UPDATE OF o
), moved AS (
    UPDATE orders o
       SET sequence = m.sequence, offers = 0, update_time = now(),
           {", ".join(f"{name} = m.{name}" for name, _, _ in FACTS)},
           not_before = now() + m.backoff,
           next_check_at = CASE WHEN NOT m.settled
                                THEN now() + coalesce(m.backoff, m.check_after) END,
           complete_time = CASE WHEN m.status = ANY($%FINAL%::text[])
                                THEN coalesce(o.complete_time, now()) END
      FROM move m, locked l
     WHERE l.order_id = o.order_id AND m.order_id = o.order_id AND o.sequence = m.sequence - 1
       $%GUARD%
 RETURNING o.order_id, o.not_before, o.update_time, o.complete_time
), signed AS (
    INSERT INTO attempts (order_id, sign_time, {_names(ATTEMPT)})
    SELECT a.order_id, now(), {_names(ATTEMPT[:-1], "a.")}, a.evidence::jsonb
      FROM {_unnest(1 + len(_MOVE), "a", _SIGNED)} JOIN moved USING (order_id)
        ON CONFLICT (order_id, number) DO UPDATE
       SET resolution = EXCLUDED.resolution, evidence = EXCLUDED.evidence
     WHERE attempts.resolution IS NULL
), logged AS (
    INSERT INTO order_events
           (order_id, sequence, type, previous_status, status, settled, time, detail)
    SELECT m.order_id, m.sequence, m.type, m.previous_status, m.status, m.settled, now(),
           m.detail::jsonb
      FROM move m JOIN moved USING (order_id)
)
SELECT order_id, not_before, update_time, complete_time FROM moved
""".replace("$%FINAL%", f"${1 + len(_MOVE) + len(_SIGNED)}")
SAVE: Final = _SAVE.replace("$%GUARD%", _GUARD)
# The same for what has happened on the chain already, whatever may be signed now.
ADOPT: Final = _SAVE.replace("$%GUARD%", "")


def written(batch: Sequence[Transition]) -> list[object]:
    """The arguments of SAVE and ADOPT."""
    orders = [transition.order for transition in batch]
    events = [transition.event for transition in batch]
    signed = [
        (event.order_id, attempt)
        for event in events
        if (attempt := event.detail.attempt) is not None
    ]
    return [
        [order.order_id for order in orders],
        [order.sequence for order in orders],
        [order.backoff for order in orders],
        [CHECK_AFTER.get(order.status) for order in orders],
        *([value(order) for order in orders] for _, _, value in FACTS),
        *([value(event) for event in events] for _, _, value in EVENT),
        [order_id for order_id, _ in signed],
        *([value(attempt) for _, attempt in signed] for _, _, value in ATTEMPT),
        [status.value for status in FINAL],
    ]


# The key by which its swap may be on the chain already.
NEW: Final[Sequence[tuple[str, str, Callable[[Order], object]]]] = (
    *REQUEST,
    ("key_hash", "text", lambda o: o.key_hash),
)

ADD: Final = f"""
WITH new AS (SELECT * FROM {_unnest(1, "n", NEW)}),
added AS (
    INSERT INTO orders ({_names(REQUEST)}, status, sequence,
                        next_check_at, create_time, update_time)
    SELECT {_names(REQUEST[:-2])}, string_to_array(venues, ','), expire_time,
           'pending', 1, now() + ${len(NEW) + 1}::interval, now(), now()
      FROM new
     WHERE NOT EXISTS (SELECT FROM adopted_swaps s WHERE s.key_hash = new.key_hash)
        ON CONFLICT DO NOTHING
 RETURNING order_id, create_time
), logged AS (
    INSERT INTO order_events (order_id, sequence, type, status, settled, time, detail)
    SELECT order_id, 1, 'order_accepted', 'pending', false, create_time, '{{}}' FROM added
)
SELECT order_id, create_time FROM added
"""

_READ: Final = """
SELECT o.*, clock_timestamp() AS read_time,
       CASE WHEN o.status IN ('pending') THEN NULL ELSE
       (SELECT array_agg(a ORDER BY a.number) FROM attempts a WHERE a.order_id = o.order_id)
       END AS attempts
  FROM orders o
"""

GET_MANY: Final = _READ + "WHERE o.order_id = ANY($1::uuid[])"
GET_BY_CLIENT_ORDER_ID: Final = _READ + "WHERE o.account = $1 AND o.client_order_id = $2"
GET_MANY_BY_CLIENT_ORDER_ID: Final = (
    _READ
    + """JOIN unnest($1::text[], $2::text[]) AS k (account, client_order_id)
         ON o.account = k.account AND o.client_order_id = k.client_order_id"""
)
LIST: Final = (
    _READ
    + """WHERE o.account = $1
   AND ($2::uuid IS NULL OR o.order_id < $2)
   AND ($3::text[] IS NULL OR o.status = ANY($3))
   AND ($4::text IS NULL OR o.token_in = $4 OR o.token_out = $4)
   AND ($5::text IS NULL OR o.venue = $5)
   AND ($6::timestamptz IS NULL OR o.create_time >= $6)
   AND ($7::timestamptz IS NULL OR o.create_time < $7)
 ORDER BY o.order_id DESC LIMIT $8"""
)

EVENTS: Final = """
SELECT e.* FROM unnest($1::uuid[], $2::integer[]) AS w (order_id, after)
  JOIN order_events e ON e.order_id = w.order_id AND e.sequence > w.after
 ORDER BY e.order_id, e.sequence LIMIT $3
"""

ADOPTED: Final = "SELECT * FROM adopted_swaps WHERE key_hash = $1 ORDER BY slot LIMIT 1"

# Rule R8: due orders are claimed by moving the time of their next look, each time further.
_CLAIM: Final = """
WITH due AS (
    SELECT order_id FROM orders
     WHERE NOT settled AND status IN ({statuses}) AND next_check_at <= now()
     ORDER BY next_check_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), claimed AS (
    UPDATE orders o
       SET offers = least(o.offers + 1, 100),
           next_check_at = now() + least($3::interval,
               ($2::jsonb ->> o.status)::interval * (1 << least(o.offers, 10)))
      FROM due WHERE o.order_id = due.order_id
 RETURNING o.*
)
SELECT o.*, clock_timestamp() AS read_time,
       (SELECT array_agg(a ORDER BY a.number) FROM attempts a WHERE a.order_id = o.order_id)
           AS attempts
  FROM claimed o
"""
CLAIM_TO_OFFER: Final = _CLAIM.format(statuses="'pending', 'routing', 'building'")
CLAIM_TO_SETTLE: Final = _CLAIM.format(statuses="'submitted', 'confirmed'")
CHECK_AFTER_JSON: Final = msgspec.json.encode(
    {status: f"{delay.total_seconds()} s" for status, delay in CHECK_AFTER.items()}
).decode()
