"""An attempt: one signed transaction, how it ended, and what it really swapped."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from engine.route import Leg, venues_of


class Resolution(StrEnum):
    """How it became certain what an attempt did (rule R4)."""

    LANDED = "landed"
    LANDED_WITH_ERROR = "landed_with_error"
    EXPIRED_UNLANDED = "expired_unlanded"


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """The readings that an attempt's resolution rests on; zero and "" where not needed."""

    status_context_slot: int
    node: str
    slot: int = 0
    error: str = ""
    finalized_block_height: int = 0
    height_context_slot: int = 0


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
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


class Leftover(msgspec.Struct, frozen=True):
    """What a route through a third token left of it in the wallet, in base units."""

    mint: str
    amount: int


class Fill(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a landed swap really paid and received, in base units, read from the chain."""

    amount_in: int
    amount_out: int
    slot: int
    signature: str
    network_fee_lamports: int
    leftovers: tuple[Leftover, ...] = ()  # of tokens between the two

    @property
    def on_order(self) -> Fill:
        """What the order keeps of it: leftovers are told with the event alone."""
        return replace(self, leftovers=())
