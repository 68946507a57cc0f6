"""The SQL of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from engine.allowance import Allowance
from engine.lifecycle import Status
from engine.order import Order
from engine.written_rows import (
    CHECK_AFTER,
    FACTS,
    REQUEST,
    NewAttempt,
    OrderStep,
    column,
    columns,
    new_order,
)

# Read by statements that accept or sign, so that what operators set holds for all of them at once.
_TRADING: Final = "(SELECT state FROM trading)"

# Rule R7: nothing is signed once expire_time has passed, by the database's clock. And while
# signing is halted the record may be behind the chain: nothing is signed, and nothing is said to
# have ended without a swap. While trading is halted only signing stops.
_GUARD: Final = f"""
AND (NOT m.signs OR o.expire_time IS NULL OR o.expire_time > now())
AND (NOT m.signs AND m.status NOT IN ('failed', 'cancelled', 'expired')
     OR (SELECT signing_allowed()))
AND (NOT m.signs OR {_TRADING} <> 'halted')
"""

_POSITION: Final = "(SELECT event_position(pg_current_xact_id()))"

# Each row is guarded by its own version; rows are locked in id order, so that two batches
# never wait for each other in a circle. The events are written by the statement that moves.
_SAVE: Final = f"""
WITH move AS (SELECT * FROM unnest($1::moved_order[])),
locked AS MATERIALIZED (
    SELECT o.order_id FROM orders o JOIN move m USING (order_id)
     ORDER BY o.order_id FOR NO KEY UPDATE OF o
), moved AS (
    UPDATE orders o
       SET sequence = m.sequence, offers = 0, update_time = now(),
           {", ".join(f"{name} = {column('m', name)}" for name in FACTS)},
           not_before = now() + m.backoff,
           next_check_at = CASE WHEN NOT m.settled
                                THEN now() + coalesce(m.backoff, m.check_after) END,
           complete_time = CASE WHEN m.status = ANY($5::text[])
                                THEN coalesce(o.complete_time, now()) END
      FROM move m, locked l
     WHERE l.order_id = o.order_id AND m.order_id = o.order_id AND o.sequence = m.replaces
       $%GUARD%
 RETURNING o.order_id, o.not_before, o.update_time, o.complete_time
), signed AS (
    INSERT INTO attempts (sign_time, {", ".join(NewAttempt._fields)})
    SELECT now(), {columns("a", NewAttempt._fields)}
      FROM unnest($2::new_attempt[]) AS a JOIN moved USING (order_id)
), resolved AS (
    UPDATE attempts a
       SET resolution = r.resolution, evidence = {column("r", "evidence")}
      FROM unnest($3::ended_attempt[]) AS r JOIN moved USING (order_id)
     WHERE a.order_id = r.order_id AND a.number = r.number AND a.resolution IS NULL
), logged AS (
    INSERT INTO order_events (position, time, {", ".join(OrderStep._fields)})
    SELECT {_POSITION}, now(), {columns("e", OrderStep._fields)}
      FROM unnest($4::order_step[]) AS e JOIN moved USING (order_id)
)
SELECT order_id, not_before, update_time, complete_time FROM moved
"""
SAVE: Final = _SAVE.replace("$%GUARD%", _GUARD)
# The same for what has happened on the chain already, whatever may be signed now.
ADOPT: Final = _SAVE.replace("$%GUARD%", "")


# What is known to have swapped already is no new order, and is added in every trading state.
_IS_NEW: Final = f"""
(n.key_hash IS NULL
 OR {_TRADING} = 'active'
    AND NOT EXISTS (SELECT FROM adopted_swaps s WHERE s.key_hash = n.key_hash))
"""

_ADDED: Final = f"""
added AS (
    INSERT INTO orders ({", ".join(REQUEST)}, status, sequence,
                        next_check_at, create_time, update_time)
    SELECT {columns("n", REQUEST)}, 'pending', 1, now() + $2::interval,
           now(), now()
      FROM $%ACCEPTED%
        ON CONFLICT DO NOTHING
 RETURNING order_id, account, create_time
), logged AS (
    INSERT INTO order_events
           (order_id, sequence, type, status, settled, time, detail, position)
    SELECT order_id, 1, 'order_accepted', 'pending', false, create_time, '{{}}', {_POSITION}
      FROM added
)"""

ADD: Final = f"""
WITH new AS (SELECT * FROM unnest($1::new_order[])),
{_ADDED.replace("$%ACCEPTED%", f"new n WHERE {_IS_NEW}")}
SELECT order_id, create_time FROM added
"""

# An order takes its share of a minute from the account's rate, and at most a minute may be taken
# ahead of the clock. The rate's row is locked first, so gateways decide one after the other; what
# was accepted before, or is not stored, takes nothing. The clock is read with the lock in hand:
# transactions do not begin in the order in which they get it. Shares are whole microseconds, and
# the burst a whole number of shares.
_SHARE: Final = "interval '1 microsecond' * (60000000 / a.orders_per_minute)"
ADD_LIMITED: Final = f"""
WITH new AS (SELECT * FROM unnest($1::new_order[]) WITH ORDINALITY),
allowed AS (
    SELECT * FROM unnest($3::text[], $4::integer[], $5::integer[])
               AS a (account, orders_per_minute, max_open_orders)
), fresh AS MATERIALIZED (
    SELECT DISTINCT ON (n.account, coalesce(n.client_order_id, n.order_id::text))
           n.order_id, n.account, n.ordinality
      FROM new n
     WHERE {_IS_NEW}
       AND NOT EXISTS (SELECT FROM orders o
                        WHERE o.account = n.account AND o.client_order_id = n.client_order_id)
     ORDER BY n.account, coalesce(n.client_order_id, n.order_id::text), n.ordinality
), numbered AS (
    SELECT order_id, account,
           row_number() OVER (PARTITION BY account ORDER BY ordinality) AS number
      FROM fresh
), rate AS MATERIALIZED (
    SELECT r.account, r.full_at FROM account_rates r
     WHERE r.account IN (SELECT f.account FROM fresh f)
     ORDER BY r.account FOR UPDATE
), clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now, count(*) FROM rate
), open AS MATERIALIZED (
    SELECT r.account, open_orders(r.account) AS orders
      FROM rate r JOIN allowed a USING (account) WHERE a.max_open_orders > 0
), decided AS MATERIALIZED (
    SELECT m.order_id,
           CASE WHEN a.orders_per_minute > 0
                THEN greatest(r.full_at, t.now) - t.now
                     + (m.number - a.orders_per_minute) * ({_SHARE}) END AS wait,
           a.max_open_orders > 0
               AND coalesce(p.orders, 0) + m.number > a.max_open_orders AS too_many
      FROM numbered m
      JOIN allowed a USING (account)
      JOIN rate r USING (account)
     CROSS JOIN clock t
      LEFT JOIN open p USING (account)
),
{
    _ADDED.replace(
        "$%ACCEPTED%",
        "new n JOIN decided d USING (order_id)"
        " WHERE NOT d.too_many AND (d.wait IS NULL OR d.wait <= interval '0')",
    )
}, charged AS (
    UPDATE account_rates r
       SET full_at = greatest(l.full_at, t.now) + c.orders * ({_SHARE})
      FROM rate l, clock t, allowed a,
           (SELECT account, count(*) AS orders FROM added GROUP BY account) c
     WHERE l.account = r.account AND a.account = r.account AND c.account = r.account
       AND a.orders_per_minute > 0
)
SELECT order_id, create_time, NULL AS wait, false AS too_many FROM added
 UNION ALL
SELECT order_id, NULL, wait, too_many FROM decided WHERE too_many OR wait > interval '0'
"""
TRADING: Final = "SELECT state, why FROM trading"
# A rate has to be there to be locked.
BEGIN_RATES: Final = """
INSERT INTO account_rates (account, full_at)
SELECT account, now() FROM unnest($1::text[]) AS account ON CONFLICT DO NOTHING
"""


def new(orders: Sequence[Order], *, known: bool = False) -> list[object]:
    """The arguments of ADD. A `known` swap's order is added all the same."""
    # The key's hash is that by which its swap may be on the chain already.
    rows = [new_order(order, None if known else order.key_hash) for order in orders]
    return [rows, CHECK_AFTER[Status.PENDING]]


def limited(allowances: Mapping[str, Allowance]) -> list[object]:
    """The further arguments of ADD_LIMITED: what each account may place."""
    return [
        list(allowances),
        [allowance.orders_per_minute for allowance in allowances.values()],
        [allowance.max_open_orders for allowance in allowances.values()],
    ]


READ: Final = """
SELECT o.*, clock_timestamp() AS read_time,
       CASE WHEN o.retries = 0 AND o.status IN ('pending', 'routing', 'building') THEN NULL ELSE
       (SELECT array_agg(a ORDER BY a.number) FROM attempts a WHERE a.order_id = o.order_id)
       END AS attempts
  FROM orders o
"""

GET_MANY: Final = READ + "WHERE o.order_id = ANY($1::uuid[])"
GET_BY_CLIENT_ORDER_ID: Final = READ + "WHERE o.account = $1 AND o.client_order_id = $2"
GET_MANY_BY_CLIENT_ORDER_ID: Final = (
    READ
    + """JOIN unnest($1::text[], $2::text[]) AS k (account, client_order_id)
         ON o.account = k.account AND o.client_order_id = k.client_order_id"""
)
_LIST: Final = (
    READ
    + """WHERE o.account = $1
   AND ($2::uuid IS NULL OR o.order_id {beyond} $2)
   AND ($3::text[] IS NULL OR o.status = ANY($3))
   AND ($4::text IS NULL OR o.token_in = $4 OR o.token_out = $4)
   AND ($5::text IS NULL OR $5 = ANY(string_to_array(o.venue, '+')))
   AND ($6::timestamptz IS NULL OR o.create_time >= $6)
   AND ($7::timestamptz IS NULL OR o.create_time < $7)
 ORDER BY o.order_id {direction} LIMIT $8"""
)
NEWEST_FIRST: Final = _LIST.format(beyond="<", direction="DESC")
OLDEST_FIRST: Final = _LIST.format(beyond=">", direction="ASC")

EVENTS: Final = """
SELECT e.* FROM unnest($1::uuid[], $2::integer[]) AS w (order_id, after)
  JOIN order_events e ON e.order_id = w.order_id AND e.sequence > w.after
 ORDER BY e.order_id, e.sequence LIMIT $3
"""

ADOPTED_OF: Final = "SELECT key_hash FROM adopted_swaps WHERE key_hash = ANY($1::text[])"
ADOPTED: Final = """
SELECT * FROM adopted_swaps WHERE key_hash = $1 ORDER BY slot, token_out = $2 DESC LIMIT 1
"""

COUNT_WAITING: Final = """
SELECT count(*) AS waiting
  FROM (SELECT FROM orders
         WHERE NOT settled AND status IN ('pending', 'routing', 'building') LIMIT $1) AS o
"""

_DUE: Final = """
     WHERE NOT settled AND status IN ({statuses}) AND next_check_at <= now() {only}"""
# Rule R8: due orders are claimed by moving the time of their next look, each time further.
_CLAIM: Final = f"""
WITH due AS (
    SELECT order_id FROM orders {_DUE}
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
_TO_OFFER: Final = {
    "statuses": "'pending', 'routing', 'building'",
    # While trading is halted there is nothing to do for them but to expire.
    "only": f"AND ({_TRADING} <> 'halted' OR expire_time <= now())",
}
CLAIM_TO_OFFER: Final = _CLAIM.format(**_TO_OFFER)
# Locks nothing, writes nothing, and ends with the first that is due.
DUE_TO_OFFER: Final = f"SELECT FROM orders {_DUE} LIMIT 1".format(**_TO_OFFER)
CLAIM_TO_SETTLE: Final = _CLAIM.format(statuses="'submitted', 'confirmed'", only="")
CHECK_AFTER_JSON: Final = msgspec.json.encode(
    {status: f"{delay.total_seconds()} s" for status, delay in CHECK_AFTER.items()}
).decode()

TOKENS: Final = "SELECT symbol, mint, decimals FROM tokens"

# A copy of the database in another server counts its transactions anew; positions go on growing.
GO_ON_IN_A_COPY: Final = """
UPDATE event_log
   SET home = signing_home(),
       base = greatest(base, 1 - pg_current_xact_id()::text::bigint
                               + (SELECT coalesce(max(position), 0) FROM order_events))
 WHERE home IS DISTINCT FROM signing_home()
"""
