"""Faults in force: which of them hit an occasion, counted and drawn so that a seed repeats it."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dex_sim.chance import Chance, Range
from dex_sim.effects import RULES, Site, calls_of, effect_of
from engine.errors import InvalidRequest, Violation
from engine.v1 import sim_pb2 as pb

MAX_FAULTS: Final = 1_000

PERCENT: Final = Range(0, 99)

_MEMO: Final = re.compile(r"oee:([^:]+):(\d+):")


class Subject(NamedTuple):
    """What an occasion is about: an order, and which attempt at it (0: nobody says)."""

    order_id: str
    attempt: int


def subjects_of_memo(memo: str) -> tuple[Subject, ...]:
    """The order and attempt that a memo names; nothing when it is not an engine's."""
    found = _MEMO.match(memo)
    return (Subject(found[1], int(found[2])),) if found else ()


def _nothing() -> Iterable[Subject]:
    return ()


@dataclass(frozen=True, slots=True)
class Occasion:
    """Something that may go wrong. `subjects` are looked up only when a fault asks for them."""

    call: str = ""
    venues: Sequence[str] = ()
    node: str = ""
    subjects: Callable[[], Iterable[Subject]] = _nothing


class Injected:
    """A fault in force, and what it did so far."""

    def __init__(self, fault_id: int, fault: pb.Fault, chance: Chance, now: float) -> None:
        self.fault_id = fault_id
        self.fault = fault
        self.effect = effect_of(fault)
        self.site = RULES[self.effect].site
        self.seen = 0
        self.hit_count = 0
        self._chance = chance
        self._calls = calls_of(fault)
        self._ends_at = (
            now + fault.lasts.ToNanoseconds() / 10**9 if fault.HasField("lasts") else None
        )

    def is_over(self, slot: int, now: float) -> bool:
        """Whether it hits no more."""
        fault = self.fault
        return bool(
            (fault.times and self.hit_count >= fault.times)
            or (fault.until_slot and slot > fault.until_slot)
            or (self._ends_at is not None and now >= self._ends_at)
        )

    def fits(self, occasion: Occasion) -> bool:
        """Whether the selectors mean this occasion."""
        fault = self.fault
        return (
            (not self._calls or occasion.call in self._calls)
            and (not fault.venue or fault.venue in occasion.venues)
            and (not fault.node or fault.node == occasion.node)
            and (not fault.except_node or occasion.node not in ("", fault.except_node))
            and (not (fault.order_id or fault.attempt) or self._is_about(occasion.subjects()))
        )

    @property
    def is_due(self) -> bool:
        """Whether it may strike the next occasion that fits, and does not wait for a later one."""
        return self.seen + 1 >= self.fault.nth

    def hits(self, occasion: Occasion) -> bool:
        """Whether it strikes now; an occasion that fits is counted, so ask once."""
        fault = self.fault
        if (fault.times and self.hit_count >= fault.times) or not self.fits(occasion):
            return False
        self.seen += 1
        if self.seen < fault.nth:
            return False
        if fault.percent:
            drawn = self._chance.draw("faults", str(self.fault_id), self.seen, PERCENT)
            if drawn >= fault.percent:
                return False
        self.hit_count += 1
        return True

    def report(self, slot: int, now: float) -> pb.FaultReport:
        """What it did so far."""
        times = self.fault.times
        return pb.FaultReport(
            fault_id=self.fault_id,
            fault=self.fault,
            seen=self.seen,
            hits=self.hit_count,
            remaining=times - self.hit_count if times else None,
            over=self.is_over(slot, now),
        )

    def _is_about(self, subjects: Iterable[Subject]) -> bool:
        order_id, attempt = self.fault.order_id, self.fault.attempt
        return any(
            order_id in ("", subject.order_id) and attempt in (0, subject.attempt)
            for subject in subjects
        )


class Faults:
    """All faults that are not cleared. False while none can hit: ask that first, it is cheap."""

    def __init__(self, chance: Chance, now: Callable[[], float] = time.monotonic) -> None:
        # The chain tells it, as some faults end by slot.
        self.slot = 0
        self._chance = chance
        self._now = now
        self._injected: dict[int, Injected] = {}
        self._in_force: defaultdict[Site, list[Injected]] = defaultdict(list)
        self._last_id = 0

    def __bool__(self) -> bool:
        return bool(self._in_force)

    def inject(self, fault: pb.Fault) -> pb.FaultReport:
        """Put a checked fault in force; InvalidRequest when there are too many."""
        if len(self._injected) >= MAX_FAULTS:
            raise InvalidRequest([Violation("fault", f"{MAX_FAULTS} are there; clear some")])
        self._last_id += 1
        injected = Injected(self._last_id, fault, self._chance, self._now())
        self._injected[self._last_id] = injected
        self._in_force[injected.site].append(injected)
        return injected.report(self.slot, self._now())

    def at(self, site: Site) -> Sequence[Injected]:
        """The faults in force at a site, in the order of their ids."""
        found = self._in_force.get(site)
        if not found:
            return ()
        now = self._now()
        remaining = [each for each in found if not each.is_over(self.slot, now)]
        if len(remaining) < len(found):
            self._keep(site, remaining)
        return remaining

    def hitting(self, site: Site, occasion: Occasion) -> list[pb.Fault]:
        """The faults that strike on this occasion; it is counted, so ask once."""
        return [each.fault for each in self.at(site) if each.hits(occasion)]

    def reports(self) -> list[pb.FaultReport]:
        """What each fault did, by id."""
        now = self._now()
        return [each.report(self.slot, now) for each in self._injected.values()]

    def clear(self, fault_ids: Iterable[int]) -> list[pb.FaultReport]:
        """Take away those of the faults that there are; what each did, by id."""
        chosen = sorted(set(fault_ids) & self._injected.keys())
        cleared = [self._injected.pop(fault_id) for fault_id in chosen]
        for each in cleared:
            still = [other for other in self._in_force[each.site] if other is not each]
            self._keep(each.site, still)
        now = self._now()
        return [each.report(self.slot, now) for each in cleared]

    def clear_all(self) -> list[pb.FaultReport]:
        """Take away all faults; what each did, by id."""
        return self.clear(list(self._injected))

    def _keep(self, site: Site, injected: list[Injected]) -> None:
        if injected:
            self._in_force[site] = injected
        else:
            self._in_force.pop(site, None)
