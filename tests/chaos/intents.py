"""What clients want and how they behave, drawn from a seed."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

from engine.v1 import orders_pb2 as pb

# Pair, amount, and about what it yields, in whole tokens.
SWAPS: Final = (
    ("SOL", "USDC", "1.5", 220.0),
    ("USDC", "SOL", "200", 1.3),
    ("SOL", "USDT", "2", 290.0),
    ("JUP", "USDC", "400", 310.0),
    ("RAY", "SOL", "80", 1.3),
    ("RAY", "USDC", "120.5", 290.0),
    ("USDT", "JUP", "300", 360.0),
    ("BONK", "SOL", "5000000", 0.65),
)


@dataclass(frozen=True, slots=True)
class Intent:
    """What one client wants and how it behaves."""

    request: pb.SubmitOrderRequest
    submits_at_once: int = 1
    watchers: int = 1  # from the first event until the order is settled
    glances: int = 0  # from a snapshot until the first final status
    drops: int = 0  # how often each of these drops its stream on purpose
    cancels_after_seconds: float | None = None
    comes_back: bool = False


def plain_intent(key: str, chance: random.Random) -> Intent:
    """A market order and one watcher."""
    token_in, token_out, amount_in, _ = chance.choice(SWAPS)
    request = pb.SubmitOrderRequest(
        client_order_id=key,
        token_in=token_in,
        token_out=token_out,
        amount_in=amount_in,
        slippage_bps=500,
    )
    return Intent(request)


def any_intent(key: str, chance: random.Random) -> Intent:
    """Any order, and any behaviour."""
    token_in, token_out, amount_in, yields = chance.choice(SWAPS)
    request = pb.SubmitOrderRequest(
        client_order_id=key, token_in=token_in, token_out=token_out, amount_in=amount_in
    )
    match chance.choices(["default", "wide", "tight", "floor", "dear"], [30, 30, 10, 20, 4])[0]:
        case "wide":
            request.slippage_bps = chance.randint(200, 1000)
        case "tight":
            request.slippage_bps = chance.randint(10, 60)
        case "floor":
            request.min_amount_out = f"{yields * chance.uniform(0.5, 0.9):.5f}"
        case "dear":
            request.min_amount_out = f"{yields * 3:.5f}"
    if chance.random() < 0.2:
        request.venues.append(chance.choice(["raydium", "meteora"]))
    if chance.random() < 0.12:
        end = time.time() + chance.uniform(0.3, 12)
        request.expire_time.FromMicroseconds(int(end * 1e6))
    return Intent(
        request,
        submits_at_once=2 if chance.random() < 0.2 else 1,
        watchers=chance.choice([1, 1, 1, 2]),
        glances=chance.choice([0, 0, 1]),
        drops=chance.choice([0, 0, 2, 5]),
        cancels_after_seconds=chance.uniform(0, 3) if chance.random() < 0.15 else None,
        comes_back=chance.random() < 0.3,
    )
