"""The fields of a request, looked at one by one: what each means, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from engine import wire
from engine.errors import InvalidRequest, Violation
from engine.lifecycle import Status
from engine.token import Token, Tokens
from engine.v1 import orders_pb2 as pb

# Room for whole keys, ids and mints. Clients take 8 KiB of trailers for granted; a refusal carries
# each value three times.
SHOWN_CHARACTERS: Final = 64
SHOWN_NAMES: Final = 3
HEARTBEAT_SECONDS: Final = 15.0
MIN_HEARTBEAT_SECONDS: Final = 1.0
MAX_HEARTBEAT_SECONDS: Final = 60.0


class Fields:
    """Collects what is wrong with a request, to refuse it with all of that at once."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note that `field` is wrong; the description names the value and what would be right."""
        self._violations.append(Violation(field, description))

    def check(self) -> None:
        """Raise InvalidRequest if anything was noted."""
        if self._violations:
            raise InvalidRequest(self._violations)

    def token(self, field: str, name: str, tokens: Tokens) -> Token | None:
        """The token of that name."""
        token = tokens.find(name)
        if not name:
            self.wrong(field, "is missing: name a token by symbol or mint address")
        elif token is None:
            known = ", ".join(token.symbol for token in tokens.all)
            self.wrong(field, f"{shown(name)} is not a known token: choose from {known}")
        return token

    def amount(self, field: str, text: str, token: Token | None, tokens: Tokens) -> int:
        """An amount of that token in base units."""
        if not text:
            self.wrong(field, 'is missing: give an amount in whole tokens such as "1.5"')
            return 0
        problem = ""
        # While its token is not known, an amount is wrong if it would be for every token.
        for candidate in tokens.all if token is None else [token]:
            try:
                return candidate.parse(text)
            except ValueError as error:
                problem = str(error)
        self.wrong(field, problem)
        return 0

    def statuses(self, numbers: Iterable[pb.OrderStatus.ValueType]) -> tuple[Status, ...]:
        """The statuses of these numbers, each once."""
        # A message has room for millions of repetitions.
        distinct = dict.fromkeys(numbers)
        unknown = [number for number in distinct if number not in wire.STATUS_OF]
        if unknown:
            self.wrong(
                "statuses",
                f"{unknown[0]} is not a status an order can have: name those of OrderStatus",
            )
            return ()
        return tuple(wire.STATUS_OF[number] for number in distinct)

    def venues(self, field: str, names: Sequence[str], venues: Collection[str]) -> None:
        """Note names that no venue has."""
        unknown = list(dict.fromkeys(name for name in names if name not in venues))
        if unknown:
            first = ", ".join(map(shown, unknown[:SHOWN_NAMES]))
            more = len(unknown) - SHOWN_NAMES
            said = f"{first} and {more} more" if more > 0 else first
            verb = "is" if len(unknown) == 1 else "are"
            known = ", ".join(sorted(venues))
            self.wrong(field, f"{said} {verb} not known: choose from {known}")

    def heartbeat_seconds(self, message: Any) -> float:
        """How long a watch may be silent."""
        if not message.HasField("heartbeat_interval"):
            return HEARTBEAT_SECONDS
        interval = message.heartbeat_interval
        # Exact: one that is a nanosecond too short is not to be told as one that is long enough.
        seconds = interval.seconds + Decimal(interval.nanos).scaleb(-9)
        if not MIN_HEARTBEAT_SECONDS <= seconds <= MAX_HEARTBEAT_SECONDS:
            given = f"{seconds:f}".rstrip("0").rstrip(".") if interval.nanos else interval.seconds
            self.wrong("heartbeat_interval", f"{given}s must be 1s to 60s")
        return float(seconds)


def shown(text: str) -> str:
    """A value as an error message may repeat it."""
    quoted = repr(text[:SHOWN_CHARACTERS])
    if len(text) <= SHOWN_CHARACTERS and len(quoted) <= SHOWN_CHARACTERS + 2:
        return quoted
    return f"{quoted[: SHOWN_CHARACTERS - 2]}...{quoted[0]}"
