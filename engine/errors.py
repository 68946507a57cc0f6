"""What can go wrong in the engine.

EngineError
├── RequestError                what a client is told; `reason` is the public word
│   ├── InvalidRequest              FIELD_INVALID
│   ├── ClientOrderIdReused         CLIENT_ORDER_ID_REUSED
│   ├── OrderNotFound               ORDER_NOT_FOUND
│   ├── Unauthenticated             UNAUTHENTICATED
│   ├── RoleRequired                ROLE_REQUIRED
│   ├── KeyNotFound                 KEY_NOT_FOUND
│   ├── NoOperatorLeft              NO_OPERATOR_LEFT
│   ├── NoRoute                     NO_ROUTE
│   ├── RiskLimit                   RISK_LIMIT
│   ├── TradingHalted               TRADING_HALTED
│   ├── RateLimited                 RATE_LIMITED
│   ├── QuotaExceeded               QUOTA_EXCEEDED
│   ├── FutureSequence              FUTURE_SEQUENCE
│   ├── ResumeTokenTooOld           RESUME_TOKEN_TOO_OLD
│   ├── SlowConsumer                SLOW_CONSUMER
│   ├── Overloaded                  OVERLOADED
│   ├── StoreUnavailable            STORE_UNAVAILABLE
│   └── ShuttingDown                SHUTTING_DOWN
├── IllegalTransition           a move that the table does not have
├── StaleOrder                  somebody else moved the order first
├── Refused                     a venue or the chain said no, in words
├── Unanswered                  a call out got no answer: nothing is known
└── StartupError                a service cannot start; says what to change
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class EngineError(Exception):
    """Anything the engine itself raises."""


class Reason(StrEnum):
    """What an error is called on the wire: ErrorInfo.reason, and Refused.reason of one order."""

    FIELD_INVALID = "FIELD_INVALID"
    CLIENT_ORDER_ID_REUSED = "CLIENT_ORDER_ID_REUSED"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    ROLE_REQUIRED = "ROLE_REQUIRED"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    NO_OPERATOR_LEFT = "NO_OPERATOR_LEFT"
    NO_ROUTE = "NO_ROUTE"
    RISK_LIMIT = "RISK_LIMIT"
    TRADING_HALTED = "TRADING_HALTED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    FUTURE_SEQUENCE = "FUTURE_SEQUENCE"
    RESUME_TOKEN_TOO_OLD = "RESUME_TOKEN_TOO_OLD"
    SLOW_CONSUMER = "SLOW_CONSUMER"
    OVERLOADED = "OVERLOADED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"  # of an exception that is none of these


@dataclass(frozen=True, slots=True)
class Violation:
    """One request field that is wrong: its name, and value and remedy in a sentence."""

    field: str
    description: str


class RequestError(EngineError):
    """An answer to a client. `metadata` repeats the dynamic parts for programs."""

    reason: ClassVar[Reason]
    # When to come back, where that is known better than by the kind of error.
    retry_seconds: float | None = None

    def __init__(self, message: str, /, **metadata: str) -> None:
        super().__init__(message)
        self.metadata: Mapping[str, str] = metadata


class InvalidRequest(RequestError):
    """The request is malformed; carries every violation at once, the message tells the first."""

    reason = Reason.FIELD_INVALID

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        _, *others = dict.fromkeys(violation.field for violation in violations)
        also = f"; also wrong: {', '.join(others)}" if others else ""
        super().__init__(f"{first.field}: {first.description}{also}")
        self.violations = tuple(violations)


class ClientOrderIdReused(RequestError):
    """The key belongs to an order with another request."""

    reason = Reason.CLIENT_ORDER_ID_REUSED


class OrderNotFound(RequestError):
    """There is no such order for this account."""

    reason = Reason.ORDER_NOT_FOUND


class Unauthenticated(RequestError):
    """The call came without a key that is good."""

    reason = Reason.UNAUTHENTICATED


class RoleRequired(RequestError):
    """The key's role does not allow this method."""

    reason = Reason.ROLE_REQUIRED


class KeyNotFound(RequestError):
    """There is no such API key."""

    reason = Reason.KEY_NOT_FOUND


class NoOperatorLeft(RequestError):
    """There would be keys, and none of them an operator's."""

    reason = Reason.NO_OPERATOR_LEFT


class NoRoute(RequestError):
    """No venue can do this swap, or none as it has to be done."""

    reason = Reason.NO_ROUTE


class RiskLimit(RequestError):
    """The order goes beyond what its account may risk; carries every field that does."""

    reason = Reason.RISK_LIMIT

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        super().__init__(
            f"{first.field}: {first.description}", field=", ".join(v.field for v in violations)
        )
        self.violations = tuple(violations)


class TradingHalted(RequestError):
    """Operators have stopped the acceptance of orders; says why."""

    reason = Reason.TRADING_HALTED

    def __init__(self, state: str, why: str) -> None:
        super().__init__(f"no new orders are accepted now: {why}", state=state.upper(), why=why)


class RateLimited(RequestError):
    """The account placed as many orders, or asked for as many routes, as it may for now; accepts
    again after so long."""

    reason = Reason.RATE_LIMITED

    def __init__(self, message: str, account: str, retry_seconds: float) -> None:
        super().__init__(message, account=account)
        self.retry_seconds = retry_seconds


class QuotaExceeded(RequestError):
    """The account has as much going on at once as it may."""

    reason = Reason.QUOTA_EXCEEDED

    def __init__(self, message: str, account: str) -> None:
        super().__init__(message, account=account)


class FutureSequence(RequestError):
    """A watch was asked to resume after an event that does not exist yet."""

    reason = Reason.FUTURE_SEQUENCE


class ResumeTokenTooOld(RequestError):
    """A watch cannot go on from there: something after it is gone, or may be."""

    reason = Reason.RESUME_TOKEN_TOO_OLD


class SlowConsumer(RequestError):
    """A stream's reader fell too far behind; it may resume from what the metadata tells."""

    reason = Reason.SLOW_CONSUMER


class Overloaded(RequestError):
    """More work is waiting than the engine takes on."""

    reason = Reason.OVERLOADED


class StoreUnavailable(RequestError):
    """The database cannot be reached; a write that was under way may or may not be committed."""

    reason = Reason.STORE_UNAVAILABLE


class ShuttingDown(RequestError):
    """This process is draining; another one, or the next, will answer."""

    reason = Reason.SHUTTING_DOWN


class IllegalTransition(EngineError):
    """The transition table has no such move."""


class StaleOrder(EngineError):
    """The stored order is no longer at the version this transition starts from."""


class Refused(EngineError):
    """A venue, the chain or a check said no: `reason` for programs, the message for people.

    Permanent ones end the order; the others may pass on a later try.
    """

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent


class Unanswered(EngineError):
    """A venue, the chain or a node gave no usable answer: it may or may not have acted."""


class StartupError(EngineError):
    """The service cannot start; the message names what is wrong and what would be right."""
