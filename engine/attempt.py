"""An attempt: one signed transaction, how it ended, and what it really swapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from engine.route import Leg, venues_of


class Resolution(StrEnum):
    """How it became certain what an attempt did (rule R4)."""

    LANDED = "landed"
    LANDED_WITH_ERROR = "landed_with_error"
    EXPIRED_UNLANDED = "expired_unlanded"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The readings that an attempt's resolution rests on; zero and "" where not needed."""

    status_context_slot: int
    node: str
    slot: int = 0
    error: str = ""
    finalized_block_height: int = 0
    height_context_slot: int = 0


@dataclass(frozen=True)
class Attempt:
    """One signed transaction; live while `resolution` is None."""

    number: int
    legs: tuple[Leg, ...]
    signature: str
    blockhash: str
    last_valid_block_height: int
    min_amount_out: int
    transaction: bytes
    resolution: Resolution | None = None
    evidence: Evidence | None = None

    @property
    def venue(self) -> str:
        """Where it swaps, as `Route.venue`."""
        return venues_of(self.legs)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a route through a third token left of it in the wallet, in base units."""

    mint: str
    amount: int


@dataclass(frozen=True, slots=True)
class Fill:
    """What a landed swap really paid and received, in base units, read from the chain."""

    amount_in: int
    amount_out: int
    slot: int
    signature: str
    network_fee_lamports: int
    # Of tokens between the two; not on the order's row, and no part of what makes two fills equal.
    leftovers: tuple[Leftover, ...] = field(default=(), compare=False)
