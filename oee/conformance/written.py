"""How addresses and amounts are written on the wire."""

from __future__ import annotations

from solders.pubkey import Pubkey


def is_address(text: str) -> bool:
    """Whether this is an address, or a blockhash: 32 bytes in base58."""
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True


def amount_of(text: str) -> int | None:
    """A decimal string's whole number; None when it is not one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 60 else None
