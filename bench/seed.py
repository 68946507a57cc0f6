"""Settled orders by the million, put into the database as the engine would have left them."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from engine.mints import SOL, USDC

OPEN_SECONDS: Final = 10.0
SEED_SECONDS: Final = 600.0
CHUNK: Final = 20_000
CONNECTIONS: Final = 2

# All CHECKs and unique keys hold; only foreign keys are not looked up row by row, and a crash
# would lose no more than the benchmark.
_SESSION: Final = "SET session_replication_role = replica; SET synchronous_commit = off"

# 88 digits of base58, different for every n; as many bytes as a swap with one instruction.
_SIGNATURE: Final = """
translate(encode(sha256(('seed-' || n)::bytea), 'hex') || left(md5(n::text), 24), '0', 'z')
"""
_TRANSACTION: Final = "decode(repeat('5a', 560), 'hex')"
_POOL: Final = "'7qbRF6YsyGuLUVs6Y1q64bdVrfe4ZcUUz1JRdoVNUJnm'"
_LEGS: Final = f"""
[{{"venue": "raydium", "pool": "7qbRF6YsyGuLUVs6Y1q64bdVrfe4ZcUUz1JRdoVNUJnm",
  "kind": "raydium_cpmm", "mint_in": "{SOL}",
  "mint_out": "{USDC}", "amount_in": 100000000,
  "quoted_amount_out": 15000000, "min_amount_out": 13500000}}]
"""

_EVENTS: Final = """
(1, 'order_accepted', NULL, 'pending', false, '{}'),
(2, 'routing_started', 'pending', 'routing', false, '{}'),
(3, 'route_chosen', 'routing', 'routing', false,
 '{"route": {"quotes": [
     {"venue": "raydium", "latency_microseconds": 900, "amount_out": 15000000, "fee": 250000,
      "pool": "7qbRF6YsyGuLUVs6Y1q64bdVrfe4ZcUUz1JRdoVNUJnm", "price_impact_ppm": 1,
      "slot": 1},
     {"venue": "meteora", "latency_microseconds": 900, "amount_out": 14990000, "fee": 200000,
      "pool": "7qbRF6YsyGuLUVs6Y1q64bdVrfe4ZcUUz1JRdoVNUJnm", "price_impact_ppm": 1,
      "slot": 1}],
   "why": "raydium yields most after its fee",
   "route": {"legs": $%LEGS%, "quoted_amount_out": 15000000},
   "min_amount_out": 13500000}}'),
(4, 'build_started', 'routing', 'building', false, '{}'),
(5, 'attempt_signed', 'building', 'submitted', false, '{}'),
(6, 'swap_confirmed', 'submitted', 'confirmed', false, '{}'),
(7, 'swap_finalized', 'confirmed', 'confirmed', true, '{}')
""".replace("$%LEGS%", _LEGS)

_SEED: Final = f"""
WITH added AS (
    INSERT INTO orders (
        order_id, account, client_order_id, order_type, token_in, token_out, amount_in,
        slippage_bps, venues, status, settled, sequence, min_amount_out, venue, legs,
        quoted_amount_out, filled_amount_in, amount_out, fill_slot, fill_signature,
        network_fee_lamports, create_time, update_time, complete_time)
    SELECT uuidv7(interval '-1 day'), 'default', 'seed-' || n, 'market',
           '{SOL}', '{USDC}', 100000000,
           1000, '{{}}', 'confirmed', true, 7, 13500000, 'raydium', '{_LEGS}',
           15000000, 100000000, 14900000, n, {_SIGNATURE},
           5000, now() - interval '1 day', now() - interval '1 day', now() - interval '1 day'
      FROM generate_series($1::bigint, $2::bigint) AS n
 RETURNING order_id, fill_slot, fill_signature, create_time
), signed AS (
    INSERT INTO attempts (
        order_id, number, venue, legs, signature, blockhash, last_valid_block_height,
        min_amount_out, transaction, sign_time, resolution, evidence)
    SELECT order_id, 1, 'raydium', '{_LEGS}', fill_signature, {_POOL}, fill_slot + 150,
           13500000, {_TRANSACTION}, create_time, 'landed',
           '{{"status_context_slot": 1, "node": "node-1", "slot": 1}}'
      FROM added
)
INSERT INTO order_events
       (order_id, sequence, type, previous_status, status, settled, venue, time, detail, position)
SELECT order_id, sequence, type, previous_status, status, settled,
       CASE WHEN sequence > 2 THEN 'raydium' END, create_time, detail::json, $3 + fill_slot
  FROM added, (VALUES {_EVENTS})
       AS event (sequence, type, previous_status, status, settled, detail)
"""

# The log's positions go on above what is put below them.
_MAKE_ROOM: Final = """
UPDATE event_log SET base = base + $1
RETURNING base - $1 + pg_current_xact_id()::text::bigint
"""
_SEEDED: Final = "SELECT count(*) FROM orders WHERE client_order_id LIKE 'seed-%'"


async def seed(dsn: str, count: int) -> None:
    """Have so many settled orders in the database, those of earlier calls included.

    No gateway may run: it would read all of that as new. Leaves the database analysed, vacuumed
    and written to disk, so that none of that is measured.
    """
    connections = [await asyncpg.connect(dsn, timeout=OPEN_SECONDS) for _ in range(CONNECTIONS)]
    try:
        first = await connections[0].fetchval(_SEEDED, timeout=SEED_SECONDS) + 1
        room = count - first + 1
        base = await connections[0].fetchval(_MAKE_ROOM, room, timeout=SEED_SECONDS) - first
        chunks = iter(range(first, count + 1, CHUNK))

        async def insert(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await connection.execute(_SESSION)
            for start in chunks:
                last = min(start + CHUNK - 1, count)
                await connection.execute(_SEED, start, last, base, timeout=SEED_SECONDS)

        async with asyncio.timeout(SEED_SECONDS), asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(insert(connection))
        for statement in ("VACUUM (ANALYZE) orders, attempts, order_events", "CHECKPOINT"):
            await connections[0].execute(statement, timeout=SEED_SECONDS)
    finally:
        for connection in connections:
            await connection.close(timeout=OPEN_SECONDS)
