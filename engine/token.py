"""Tokens and their amounts: whole tokens at the edge, integers in base units inside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal
from typing import Final

# Amounts are u64 on chain, so the table and the wire hold no more either.
MAX_AMOUNT: Final = 2**64 - 1

# Far more digits than any amount has, so that a number is refused for what is wrong with it.
MAX_DIGITS: Final = 40
_DECIMAL: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
_TWELVE_DIGITS: Final = Context(prec=12, rounding=ROUND_DOWN)


@dataclass(frozen=True, slots=True)
class Token:
    """A token: short name, mint address (base58), decimal places of one whole token."""

    symbol: str
    mint: str
    decimals: int

    def parse(self, text: str) -> int:
        """Base units of a decimal string in whole tokens ("1.5").

        Raises ValueError with a sentence that names the value and what would be right.
        """
        match = _DECIMAL.fullmatch(text)
        shown = text if len(text) <= 40 else text[:37] + "..."
        if match is None:
            raise ValueError(
                f'{shown!r} is not an amount: write plain decimal digits such as "1.5", '
                "without sign, exponent or spaces"
            )
        whole, fraction = match[1], match[2] or ""
        if max(len(whole), len(fraction)) > MAX_DIGITS:
            raise ValueError(
                f"{shown!r} is too long: at most {MAX_DIGITS} digits before the point and as many "
                "after it"
            )
        significant = fraction.rstrip("0")
        if len(significant) > self.decimals:
            raise ValueError(
                f"{text!r} has {len(significant)} decimal places: {self.symbol} has {self.decimals}"
            )
        amount: int = int(whole) * 10**self.decimals + int(
            significant.ljust(self.decimals, "0") or "0"
        )
        if amount == 0:
            raise ValueError(f"{text!r} is zero: it must be at least {self.format(1)}")
        if amount > MAX_AMOUNT:
            raise ValueError(
                f"{text!r} is too large: at most {self.format(MAX_AMOUNT)} {self.symbol}"
            )
        return amount

    def format(self, amount: int) -> str:
        """The decimal string of base units, without trailing zeros: 1500000000 → "1.5"."""
        if not self.decimals:
            return str(amount)
        digits = str(amount).zfill(self.decimals + 1)
        whole, fraction = digits[: -self.decimals], digits[-self.decimals :].rstrip("0")
        return f"{whole}.{fraction}" if fraction else whole


def price(amount_in: int, token_in: Token, amount_out: int, token_out: Token) -> str:
    """amount_out per amount_in in whole tokens, rounded down to 12 significant digits."""
    numerator = amount_out * 10**token_in.decimals
    denominator = amount_in * 10**token_out.decimals
    price = _TWELVE_DIGITS.divide(Decimal(numerator), Decimal(denominator))
    return format(price.normalize(_TWELVE_DIGITS), "f")


class Tokens:
    """The tokens that orders may name, found by symbol or mint."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self.all = tuple(sorted(tokens, key=lambda token: token.symbol))
        self._by_mint = {token.mint: token for token in self.all}
        self._by_name = self._by_mint | {token.symbol: token for token in self.all}

    def find(self, name: str) -> Token | None:
        """The token with this symbol or mint, or None."""
        return self._by_name.get(name)

    def by_mint(self, mint: str) -> Token:
        """The token with this mint; raises KeyError for one that the table does not have."""
        return self._by_mint[mint]

    def written(self, mint: str, amount: int) -> str:
        """Base units of the token with this mint as people write them: "1.5 SOL"."""
        token = self.by_mint(mint)
        return f"{token.format(amount)} {token.symbol}"
