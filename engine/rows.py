"""Database rows as orders, attempts and events, and their facts as JSON."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import msgspec
from msgspec.structs import replace

from engine import order as domain
from engine.adoption import Landing, Swapped
from engine.attempt import Attempt, Evidence, Fill, Resolution
from engine.failures import Failure
from engine.lifecycle import EventType, Status
from engine.order import Detail, Order, OrderEvent, OrderRequest
from engine.route import Leg, Route


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def encode_detail(detail: Detail) -> str:
    if detail.attempt is not None:  # the signed bytes are in the attempts table
        detail = replace(detail, attempt=replace(detail.attempt, transaction=b""))
    return encode(detail)


_decode_detail: Final = msgspec.json.Decoder(Detail).decode
_decode_evidence: Final = msgspec.json.Decoder(Evidence).decode
_decode_legs: Final = msgspec.json.Decoder(tuple[Leg, ...]).decode


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def order(row: asyncpg.Record) -> Order:
    quoted, amount_out, reason = row["quoted_amount_out"], row["amount_out"], row["error_reason"]
    return Order(
        order_id=row["order_id"],
        account=row["account"],
        client_order_id=row["client_order_id"],
        request=OrderRequest(
            token_in=row["token_in"],
            token_out=row["token_out"],
            amount_in=int(row["amount_in"]),
            order_type=domain.OrderType(row["order_type"]),
            slippage_bps=row["slippage_bps"],
            min_amount_out=_int(row["requested_min_amount_out"]),
            venues=tuple(row["venues"]),
            expire_time=row["expire_time"],
        ),
        status=Status(row["status"]),
        settled=row["settled"],
        sequence=row["sequence"],
        min_amount_out=_int(row["min_amount_out"]),
        route=None if quoted is None else Route(_decode_legs(row["legs"]), int(quoted)),
        retries=row["retries"],
        cancel_requested=row["cancel_requested"],
        fill=(
            None
            if amount_out is None
            else Fill(
                int(row["filled_amount_in"]),
                int(amount_out),
                row["fill_slot"],
                row["fill_signature"],
                row["network_fee_lamports"],
            )
        ),
        failure=None if reason is None else Failure(reason, row["error_message"]),
        attempts=tuple(_attempt(attempt) for attempt in row["attempts"] or ()),
        not_before=row["not_before"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        complete_time=row["complete_time"],
        read_time=row["read_time"],
    )


def _attempt(row: asyncpg.Record) -> Attempt:
    resolution, evidence = row["resolution"], row["evidence"]
    return Attempt(
        number=row["number"],
        legs=_decode_legs(row["legs"]),
        signature=row["signature"],
        blockhash=row["blockhash"],
        last_valid_block_height=row["last_valid_block_height"],
        min_amount_out=int(row["min_amount_out"]),
        transaction=row["transaction"],
        resolution=None if resolution is None else Resolution(resolution),
        evidence=None if evidence is None else _decode_evidence(evidence),
    )


def event(row: asyncpg.Record) -> OrderEvent:
    previous = row["previous_status"]
    return OrderEvent(
        order_id=row["order_id"],
        sequence=row["sequence"],
        type=EventType(row["type"]),
        previous_status=None if previous is None else Status(previous),
        status=Status(row["status"]),
        settled=row["settled"],
        detail=_decode_detail(row["detail"]),
        venue=row["venue"],
        time=row["time"],
    )


def landing(row: asyncpg.Record) -> Landing:
    return Landing(
        order_id=row["order_id"],
        number=row["number"],
        key_hash=row["key_hash"],
        signature=row["signature"],
        slot=row["slot"],
        context_slot=row["context_slot"],
        swaps=(
            Swapped(
                token_in=row["token_in"],
                token_out=row["token_out"],
                amount_in=int(row["amount_in"]),
                amount_out=int(row["amount_out"]),
                network_fee_lamports=row["network_fee_lamports"],
            ),
        ),
    )
