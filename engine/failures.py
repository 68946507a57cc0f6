"""Why an order that was accepted failed: every word that OrderError.reason may be, and its meaning.

Beside these, a venue's refusal and the chain's error keep the names they have on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

FAILURES: Final[Mapping[str, str]] = {
    "NO_ROUTE": "no allowed venue can do this swap",
    "NO_POOL": "the venue has no pool for the pair",
    "INSUFFICIENT_LIQUIDITY": "no venue's pool can fill this amount",
    "VENUE_UNAVAILABLE": "no venue answered with a quote, or the chosen one could not be reached",
    "VENUE_TIMEOUT": "a venue did not answer in time",
    "VENUE_UNKNOWN": "a venue that the order names is not configured",
    "VENUE_ANSWER_INVALID": "a venue's answer was not one to what it was asked",
    "RATE_LIMITED": "a venue takes no more calls now",
    "PRICE_FLOOR_NOT_MET": "the best quote was below the pinned floor",
    "POOL_SHARE_LIMIT": "the best route would take more of a pool than MAX_POOL_SHARE_BPS allows",
    "RISK_LIMIT": "the best route moves its pool's price further than the account may",
    "CHAIN_UNAVAILABLE": "the chain did not answer before anything was signed",
    "INSTRUCTIONS_REFUSED": "a venue built, or told, something else than was agreed; not signed",
    "ROUTE_REFUSED": "the route's swaps together do not keep what was agreed; not signed",
    "TRANSACTION_TOO_LARGE": "the route's swaps do not fit into one transaction",
    "NOT_LANDED": "the transaction had not landed when its blockhash expired, proven",
    "UNSPECIFIED": "the venue or the chain gave a reason that this version does not know",
}


class Failure(msgspec.Struct, frozen=True):
    """Why a try or an order failed: a word for programs, a sentence for people."""

    reason: str
    message: str
