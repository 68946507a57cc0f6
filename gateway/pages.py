"""Lists in pages: each page ends with a token that leads to the next, good for its list alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import InvalidRequest, Violation
from gateway.fields import Fields, shown

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
AGAIN: Final = "ask for the first page again"

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Paged:
    """A method that lists: how it names what a page ends with, and what its lists differ in.

    Tokens are opaque, not secret: a forged one leads no further than the caller may see anyway.
    """

    method: str
    last: re.Pattern[str]
    differs: tuple[str, ...] = ()

    def page(self, fields: Fields, message: Any) -> Page:
        """Which page is asked for; notes a size out of range, and a token that is none of these."""
        size = message.page_size
        if not 0 <= size <= MAX_PAGE_SIZE:
            fields.wrong("page_size", f"{size} must be 1 to {MAX_PAGE_SIZE}, or left out")
        size, written = size or DEFAULT_PAGE_SIZE, message.page_token
        if not written:
            return Page(self, size, written)
        method, *of = _decoded(written).split("/")
        last = of.pop() if of else ""
        if method == self.method and len(of) == len(self.differs) and self.last.fullmatch(last):
            return Page(self, size, written, tuple(of), last)
        if method in METHODS and method != self.method:
            fields.wrong("page_token", f"{shown(written)} is of {method}: {AGAIN}")
        else:  # those of earlier releases, too
            fields.wrong(
                "page_token",
                f"{shown(written)} is not a page token: pass on next_page_token unchanged, "
                f"or {AGAIN}",
            )
        return Page(self, size, "")

    def token(self, last: object, *of: str) -> str:
        """An opaque token for the page after `last`; `of` says what the list is of."""
        return _encoded("/".join((self.method, *of, str(last))))


@dataclass(frozen=True, slots=True)
class Page:
    """Which page of a list is asked for, and of what the list was that its token came with."""

    paged: Paged
    size: int
    token: str
    of: tuple[str, ...] = ()
    last: str = ""

    def after(self, *of: str) -> str | None:
        """What the page before ended with; None for the first page.

        Raises InvalidRequest if that page was of another list.
        """
        if not self.token:
            return None
        for differs, theirs, ours in zip(self.paged.differs, self.of, of, strict=True):
            if theirs != ours:
                why = f"{shown(self.token)} is of {differs}: {AGAIN}"
                raise InvalidRequest([Violation("page_token", why)])
        return self.last


ORDERS: Final = Paged("ListOrders", _ID, ("another order_by", "other filters"))
EVENTS: Final = Paged("ListOrderEvents", _NUMBER, ("another order's events",))
TOKENS: Final = Paged("ListTokens", _NUMBER)
KEYS: Final = Paged("ListKeys", _NUMBER, ("another account",))
METHODS: Final = frozenset(paged.method for paged in (ORDERS, EVENTS, TOKENS, KEYS))


def digest(*filters: object) -> str:
    """A few letters that differ where filters do."""
    written = json.dumps(filters, default=str)
    return hashlib.blake2b(written.encode(), digest_size=6).hexdigest()


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decoded(token: str) -> str:
    """What was encoded; empty if nothing was."""
    try:
        text = base64.urlsafe_b64decode(token).decode()
    except ValueError:
        return ""
    # The decoder skips what is not base64.
    return text if _encoded(text) == token else ""
