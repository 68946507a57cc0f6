"""Structured logs: readable lines on a terminal, one JSON object a line elsewhere."""

import logging
import sys
from contextvars import ContextVar
from typing import Final
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor

# The order in hand, for every record that is written while it is.
order_in_hand: Final[ContextVar[UUID | None]] = ContextVar("order_in_hand", default=None)


def _add_order(logger: object, method: str, record: EventDict) -> EventDict:
    order_id = order_in_hand.get()
    if order_id is not None:
        record.setdefault("order_id", str(order_id))
    return record


def configure(service: str, level: str = "INFO") -> None:
    """Send every record of this process to stderr, with `service` and the bound context in it."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_order,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    # Tracebacks without local variables: those hold keys and passwords.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if terminal
        else [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(),
        ]
    )
    number = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; their records take the same road.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    structlog.contextvars.bind_contextvars(service=service)
