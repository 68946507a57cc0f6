"""Reading the facts: the database's rows, the chain's ledger, and events as clients get them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import grpc

from engine import rows, wire
from engine.token import Token, Tokens
from engine.v1 import orders_pb2 as pb
from engine.v1 import sim_pb2
from engine.v1.sim_pb2_grpc import SimControlServiceStub
from tests.chaos.facts import Attempt, Event, Facts, Leg, Order, Swap, Told

READ_SECONDS: Final = 60.0
PAGE: Final = 1000

UNSETTLED: Final = "SELECT count(*) FROM orders WHERE NOT settled"


async def unsettled(postgres_dsn: str) -> int:
    """How many orders are not settled."""
    connection = await asyncpg.connect(postgres_dsn, timeout=10)
    try:
        return int(await connection.fetchval(UNSETTLED, timeout=READ_SECONDS))
    finally:
        await connection.close()


async def read_tokens(postgres_dsn: str) -> Tokens:
    """The engine's token table."""
    connection = await asyncpg.connect(postgres_dsn, timeout=10)
    try:
        found = await connection.fetch("SELECT * FROM tokens", timeout=READ_SECONDS)
    finally:
        await connection.close()
    return Tokens(Token(row["symbol"], row["mint"], row["decimals"]) for row in found)


async def read_facts(
    postgres_dsn: str, control: grpc.aio.Channel, tokens: Tokens, told: Sequence[Told]
) -> Facts:
    """All there is to check. Only once everything is at rest: the sources are read in turn."""
    connection = await asyncpg.connect(postgres_dsn, timeout=10)
    try:
        orders, attempts, events = [
            await connection.fetch(f"SELECT * FROM {table}", timeout=READ_SECONDS)
            for table in (
                "(SELECT *, NULL AS attempts, now() AS read_time FROM orders) o ORDER BY order_id",
                "attempts ORDER BY order_id, number",
                "order_events ORDER BY order_id, sequence",
            )
        ]
    finally:
        await connection.close()
    owners = {str(row["order_id"]): row for row in orders}
    logs: dict[str, list[Event]] = defaultdict(list)
    for row in events:
        order_id = str(row["order_id"])
        logs[order_id].append(_logged(row, owners[order_id], tokens))
    return Facts(
        orders=[_order(row) for row in orders],
        attempts=[_attempt(row) for row in attempts],
        events=logs,
        swaps=await _swaps(control),
        told=told,
    )


def streamed(message: pb.OrderEvent, token_in: Token, token_out: Token) -> Event:
    """An event as a client got it."""
    fill = message.fill if message.HasField("fill") else None
    return Event(
        sequence=message.sequence,
        type=_word(pb.OrderEventType.Name(message.type), "ORDER_EVENT_TYPE_"),
        previous_status=(
            _word(pb.OrderStatus.Name(message.previous_status), "ORDER_STATUS_")
            if message.previous_status
            else None
        ),
        status=_word(pb.OrderStatus.Name(message.status), "ORDER_STATUS_"),
        settled=message.settled,
        signature=fill.tx_hash if fill else message.attempt.tx_hash,
        amount_in=token_in.parse(fill.amount_in) if fill else None,
        amount_out=token_out.parse(fill.amount_out) if fill else None,
        text=str(message),
    )


def _logged(row: asyncpg.Record, owner: asyncpg.Record, tokens: Tokens) -> Event:
    """An event as the database has it. Only `text` is made the way the gateway does it."""
    detail = json.loads(row["detail"])
    fill, attempt = detail.get("fill"), detail.get("attempt")
    return Event(
        sequence=row["sequence"],
        type=row["type"],
        previous_status=row["previous_status"],
        status=row["status"],
        settled=row["settled"],
        signature=(fill or attempt or {}).get("signature", ""),
        amount_in=fill and fill["amount_in"],
        amount_out=fill and fill["amount_out"],
        text=str(wire.event(rows.order(owner), rows.event(row), tokens)),
    )


def _order(row: asyncpg.Record) -> Order:
    return Order(
        order_id=str(row["order_id"]),
        client_order_id=row["client_order_id"],
        status=row["status"],
        settled=row["settled"],
        sequence=row["sequence"],
        token_in=row["token_in"],
        token_out=row["token_out"],
        amount_in=int(row["amount_in"]),
        venues=tuple(row["venues"]),
        requested_min_amount_out=_int(row["requested_min_amount_out"]),
        expire_time=row["expire_time"],
        min_amount_out=_int(row["min_amount_out"]),
        filled_amount_in=_int(row["filled_amount_in"]),
        amount_out=_int(row["amount_out"]),
        fill_signature=row["fill_signature"],
    )


def _attempt(row: asyncpg.Record) -> Attempt:
    evidence = json.loads(row["evidence"] or "{}")
    return Attempt(
        order_id=str(row["order_id"]),
        number=row["number"],
        legs=tuple(
            Leg(**{name: leg[name] for name in Leg.__slots__}) for leg in json.loads(row["legs"])
        ),
        signature=row["signature"],
        last_valid_block_height=row["last_valid_block_height"],
        min_amount_out=int(row["min_amount_out"]),
        sign_time=row["sign_time"],
        resolution=row["resolution"],
        slot=evidence.get("slot", 0),
        error=evidence.get("error", ""),
        finalized_block_height=evidence.get("finalized_block_height", 0),
        height_context_slot=evidence.get("height_context_slot", 0),
        status_context_slot=evidence.get("status_context_slot", 0),
    )


async def _swaps(control: grpc.aio.Channel) -> list[Swap]:
    stub, swaps = SimControlServiceStub(control), list[Swap]()
    while True:
        after = swaps[-1].number if swaps else 0
        response = await stub.ListSwaps(
            sim_pb2.ListSwapsRequest(after_number=after, limit=PAGE),
            timeout=READ_SECONDS,
            wait_for_ready=True,
        )
        swaps += [
            Swap(
                number=swap.number,
                signature=swap.signature,
                slot=swap.slot,
                leg=Leg(
                    swap.venue,
                    swap.pool,
                    swap.mint_in,
                    swap.mint_out,
                    swap.amount_in,
                    swap.min_amount_out,
                ),
                amount_out=swap.amount_out,
                memo=swap.memo,
            )
            for swap in response.swaps
        ]
        if len(response.swaps) < PAGE:
            return swaps


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _int(value: Any) -> int | None:
    return None if value is None else int(value)
