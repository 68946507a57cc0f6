"""Times of one job's orders and events, as its flows note them."""

from __future__ import annotations

import time
from collections import Counter

from bench.job import Job, Outcome, spread
from engine.v1 import orders_pb2 as pb

FINAL = frozenset(
    {
        pb.ORDER_STATUS_CONFIRMED,
        pb.ORDER_STATUS_FAILED,
        pb.ORDER_STATUS_CANCELLED,
        pb.ORDER_STATUS_EXPIRED,
    }
)
STATUS_PREFIX = len("ORDER_STATUS_")


class Tally:
    """Notes what happens; orders are counted 0, 1, 2 … in the order of sending."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._prefix = f"{job.key}-"
        self._cpu = time.process_time()
        self.started = time.perf_counter()
        self._window_end = self.started
        self._last_final = self.started
        self.sent: list[float] = []
        self.accepted = 0
        self.final: set[int] = set()
        self.held_back = 0
        self._events = 0
        self._in_window = 0
        self._sending = True
        self._refused: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._submit: list[float] = []
        self._refusal: list[float] = []
        self._order: list[float] = []
        self._event: list[float] = []

    @property
    def refused(self) -> int:
        """How many were refused."""
        return len(self._refusal)

    @property
    def unanswered(self) -> int:
        """How many were sent and have no answer yet."""
        return len(self.sent) - self.accepted - self.refused

    @property
    def open(self) -> int:
        """How many were sent and are neither refused nor final."""
        return len(self.sent) - self.refused - len(self.final)

    def may_send(self) -> int:
        """How many more the job allows now."""
        job = self.job
        if job.seconds and time.perf_counter() - self.started >= job.seconds:
            return 0
        return job.orders - len(self.sent) if job.orders else 1_000_000

    def send(self) -> pb.SubmitOrderRequest:
        """The next order, noted as sent now."""
        number = len(self.sent)
        self.sent.append(time.perf_counter())
        there = number % 2 == 0
        return pb.SubmitOrderRequest(
            client_order_id=f"{self._prefix}{number}",
            token_in="SOL" if there else "USDC",
            token_out="USDC" if there else "SOL",
            amount_in="0.1" if there else "15",
            slippage_bps=1000,
        )

    def released(self) -> None:
        """Open orders were held until now: their time begins."""
        now = time.perf_counter()
        for number in range(len(self.sent) - 1, -1, -1):
            if number in self.final:
                break
            self.sent[number] = now

    def stop_sending(self) -> None:
        """The window is over; only the first time counts."""
        if self._sending:
            self._sending = False
            self._window_end = time.perf_counter()

    def accept(self, number: int) -> None:
        """The order's answer is here."""
        self.accepted += 1
        self._submit.append(time.perf_counter() - self.sent[number])

    def refuse(self, number: int, reason: str) -> None:
        """The order was refused."""
        self._refused[reason] += 1
        self._refusal.append(time.perf_counter() - self.sent[number])

    def number(self, event: pb.OrderEvent) -> int | None:
        """Which of our orders it is about; None: of somebody else's."""
        key = event.client_order_id
        return int(key[len(self._prefix) :]) if key.startswith(self._prefix) else None

    def arrived(self, event: pb.OrderEvent, now: float, since: float) -> None:
        """An event is here at `now` by the wall clock, over a watch that is live `since` then."""
        self._events += 1
        committed = event.event_time.seconds + event.event_time.nanos / 1e9
        if committed > since:
            self._event.append(now - committed)

    def end(self, number: int, status: pb.OrderStatus.ValueType) -> bool:
        """The order has a final status; False when that is known already."""
        if number in self.final:
            return False
        self.final.add(number)
        self._last_final = time.perf_counter()
        self._order.append(self._last_final - self.sent[number])
        self._statuses[pb.OrderStatus.Name(status)[STATUS_PREFIX:]] += 1
        self._in_window += self._sending
        return True

    def outcome(self) -> Outcome:
        """All of it."""
        seconds = self._last_final - self.started
        return Outcome(
            orders=len(self.final),
            seconds=round(seconds, 3),
            orders_per_second=round(len(self.final) / seconds, 1) if seconds else 0,
            in_window=self._in_window,
            window_seconds=round(self._window_end - self.started, 3),
            offered_per_second=self.job.orders_per_second,
            sent=len(self.sent),
            accepted=self.accepted,
            refused=dict(self._refused),
            unfinished=self.accepted - len(self.final),
            held_back=self.held_back,
            statuses=dict(self._statuses),
            events=self._events,
            submit=spread(self._submit),
            refusal=spread(self._refusal),
            order=spread(self._order),
            event=spread(self._event),
            client_cpu_seconds=round(time.process_time() - self._cpu, 3),
        )
