"""What an account may do: how much, how often, and with which tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

MAX_ORDERS_PER_MINUTE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many orders an account may place: in a minute, and at once before they are settled.

    Zero: any number.
    """

    orders_per_minute: int = 0
    max_open_orders: int = 0


UNLIMITED: Final = Allowance()


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """The limits of an account; None: nothing was said about it.

    Tokens are mints and amounts base units. A count of zero means any number; no allowed tokens
    mean all.
    """

    orders_per_minute: int | None = None
    max_open_orders: int | None = None
    max_streams: int | None = None
    allowed_tokens: frozenset[str] = frozenset()
    max_amounts_in: Mapping[str, int] = field(default_factory=dict)
    max_price_impact_bps: int | None = None

    @property
    def allowance(self) -> Allowance:
        """How many orders that allows."""
        if not (self.orders_per_minute or self.max_open_orders):
            return UNLIMITED
        return Allowance(self.orders_per_minute or 0, self.max_open_orders or 0)

    def over(self, default: AccountLimits) -> AccountLimits:
        """These limits, and the default's where they say nothing."""
        names = (f.name for f in fields(self))
        said = {name: value for name in names if (value := getattr(self, name)) not in _UNSAID}
        return replace(default, **said)


# What a field has that nothing was said about.
_UNSAID: Final[tuple[object, ...]] = (None, frozenset(), {})
NO_LIMITS: Final = AccountLimits()
