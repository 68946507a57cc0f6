"""What a storm does and when: drawn from a seed, so that the seed repeats it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from google.protobuf import text_format
from google.protobuf.duration_pb2 import Duration

from engine.v1 import sim_pb2 as pb

FIRST_SECONDS: Final = 1.0
BETWEEN_BLOWS_SECONDS: Final = (0.8, 3.6)
BETWEEN_FAULTS_SECONDS: Final = (0.5, 2.7)

# Longer than a blockhash lives on the storm's chain.
UNTIL_EXPIRED_SECONDS: Final = (7.0, 9.0)
# Deep enough that a swap has been reported CONFIRMED, and not finalized yet.
DEEP_SLOTS: Final = 14

PAIRS: Final = (("gateway", "gateway-2"), ("router", "router-2"), ("executor", "executor-2"))
SERVICES: Final = (*(name for pair in PAIRS for name in pair), "dex_sim")


class Verb(StrEnum):
    """What is done to the target."""

    KILL = "kill -9"
    PAUSE = "pause"
    RESTART = "restart"
    WIPE = "wipe"
    INJECT = "inject"


@dataclass(frozen=True, slots=True)
class Action:
    """One disturbance. `lasts_seconds`: how long a pause, an outage or faults go on."""

    at_seconds: float
    verb: Verb
    target: str
    lasts_seconds: float
    faults: Sequence[pb.Fault] = ()

    def __str__(self) -> str:
        words = f"{self.at_seconds:6.1f} s  {self.verb} {self.target}"
        if self.lasts_seconds:
            words += f" for {self.lasts_seconds:.1f} s"
        faults = [text_format.MessageToString(fault, as_one_line=True) for fault in self.faults]
        return ": ".join([words, *faults])


@dataclass(frozen=True, slots=True)
class Card:
    """A disturbance that may be dealt; nothing else is done to `touches` while it lasts."""

    verb: Verb
    target: str
    touches: Sequence[str]
    lasts_seconds: tuple[float, float]
    faults: Sequence[pb.Fault] = ()


def _faults(*faults: pb.Fault, lasts_seconds: tuple[float, float] = (1.5, 5.0)) -> Card:
    return Card(Verb.INJECT, "dex_sim", (), lasts_seconds, faults)


def _fault(**fields: object) -> Card:
    return _faults(pb.Fault(**fields))  # type: ignore[arg-type]


def _seconds(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


FAULTS: Final = (
    _fault(fail=pb.FailCall(code="UNAVAILABLE"), venue="raydium"),
    _fault(fail=pb.FailCall(code="RESOURCE_EXHAUSTED"), venue="meteora", percent=60),
    _fault(fail=pb.FailCall(code="UNAVAILABLE"), venue="chain"),
    _fault(fail=pb.FailCall(code="INTERNAL"), venue="chain", percent=30),
    _fault(fail=pb.FailCall(code="UNAVAILABLE"), call="SendTransactions", percent=60),
    _fault(
        fail=pb.FailCall(code="DEADLINE_EXCEEDED", after_acting=True),
        call="SendTransactions",
        percent=60,
    ),
    _fault(fail=pb.FailCall(code="UNAVAILABLE"), call="GetSignatureStatuses", percent=50),
    _fault(slow=pb.SlowCall(delay=_seconds(2.5)), call="Quote", percent=20),
    _fault(slow=pb.SlowCall(delay=_seconds(1)), call="BuildSwap", percent=30),
    _fault(
        slow=pb.SlowCall(delay=_seconds(2.5), after_acting=True),
        call="SendTransactions",
        percent=30,
    ),
    _fault(slow=pb.SlowCall(delay=_seconds(1.5)), call="GetSignatureStatuses", percent=30),
    _fault(slow=pb.SlowCall(delay=_seconds(1.5)), call="GetBlockHeight", percent=30),
    _fault(miscount=pb.MiscountItems(by=-1), call="GetSignatureStatuses", percent=30),
    _fault(miscount=pb.MiscountItems(by=1), call="SendTransactions", percent=30),
    _fault(miscount=pb.MiscountItems(by=-1), call="Quote", percent=20),
    _fault(refuse=pb.RefuseItem(reason="RATE_LIMITED"), call="Quote", percent=30),
    _fault(refuse=pb.RefuseItem(reason="BLOCKHASH_NOT_FOUND"), percent=40),
    _fault(refuse=pb.RefuseItem(reason="NODE_UNAVAILABLE"), percent=40),
    _fault(misquote=pb.Misquote(kind=pb.MISQUOTE_KIND_WRONG_TOKEN), percent=20),
    _fault(misquote=pb.Misquote(kind=pb.MISQUOTE_KIND_ABSURD_AMOUNT, factor=3), percent=10),
    _fault(misquote=pb.Misquote(kind=pb.MISQUOTE_KIND_WRONG_AMOUNT_IN), percent=20),
    _fault(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_DRAIN), percent=15),
    _fault(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_LOWER_FLOOR), percent=15),
    _fault(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_MORE_IN), percent=15),
    _fault(misbuild=pb.Misbuild(kind=pb.MISBUILD_KIND_OTHER_RECIPIENT), percent=15),
    _fault(lag=pb.LagNode(slots=20), except_node="node-1"),
    _fault(lag=pb.LagNode(frozen=True), node="node-2"),
    _fault(choose_node=pb.ChooseNode(node="node-2"), call="GetSignatureStatuses", percent=80),
    _fault(drop=pb.DropTransaction(), percent=50),
    _faults(pb.Fault(drop=pb.DropTransaction(), percent=97), lasts_seconds=UNTIL_EXPIRED_SECONDS),
    _fault(hold=pb.HoldTransaction(blocks=20), percent=40),
    _fault(hold=pb.HoldTransaction(), percent=15),
    _fault(repeat=pb.RepeatTransaction(), percent=50),
    _fault(slip=pb.SlipSwap(), percent=30),
    *(
        _fault(
            fork=pb.SwitchFork(result=result, after_slots=depth, restored_after_slots=later),
            percent=30,
        )
        for result, depth, later in (
            (pb.FORK_RESULT_DROPPED, 1, 0),
            (pb.FORK_RESULT_DROPPED, DEEP_SLOTS, 0),
            (pb.FORK_RESULT_RESTORED, DEEP_SLOTS, 8),
            (pb.FORK_RESULT_FLIPPED, DEEP_SLOTS, 0),
        )
    ),
    # Failures that are taken back: who believed them swaps twice.
    _faults(
        pb.Fault(slip=pb.SlipSwap(), percent=60),
        pb.Fault(
            fork=pb.SwitchFork(result=pb.FORK_RESULT_FLIPPED, after_slots=DEEP_SLOTS), percent=60
        ),
    ),
    # Swaps that land at the last moment, out of sight of most nodes: the same.
    _faults(
        pb.Fault(hold=pb.HoldTransaction(), percent=50),
        pb.Fault(lag=pb.LagNode(slots=60), except_node="node-1"),
        lasts_seconds=UNTIL_EXPIRED_SECONDS,
    ),
    # Swaps that were believed finalized by a height that was not.
    _faults(
        pb.Fault(hold=pb.HoldTransaction(), percent=50),
        pb.Fault(
            fork=pb.SwitchFork(
                result=pb.FORK_RESULT_RESTORED, after_slots=1, restored_after_slots=8
            ),
            percent=50,
        ),
        lasts_seconds=UNTIL_EXPIRED_SECONDS,
    ),
)

BLOWS: Final = (
    *(Card(Verb.KILL, name, (name,), (0, 0)) for name in SERVICES),
    # Long enough that the other one takes the work over before the sleeper wakes.
    *(Card(Verb.PAUSE, name, pair, (4, 8)) for pair in PAIRS for name in pair),
    Card(Verb.PAUSE, "dex_sim", ("dex_sim",), (1, 4)),
    Card(Verb.RESTART, "nats", ("nats",), (0, 2)),
    Card(Verb.WIPE, "nats", ("nats",), (0, 2)),
    Card(Verb.RESTART, "postgres", ("postgres",), (0, 0)),
)


def plan(seed: int, duration_seconds: float) -> list[Action]:
    """The storm of this seed: blows to processes, and faults of venues and chain beside them.

    A longer one begins like a shorter one.
    """
    blows = _deal(random.Random(f"{seed}/blows"), BLOWS, BETWEEN_BLOWS_SECONDS, duration_seconds)
    faults = _deal(
        random.Random(f"{seed}/faults"), FAULTS, BETWEEN_FAULTS_SECONDS, duration_seconds
    )
    return sorted([*blows, *faults], key=lambda action: action.at_seconds)


def _deal(
    chance: random.Random,
    cards: Sequence[Card],
    between_seconds: tuple[float, float],
    duration_seconds: float,
) -> Iterator[Action]:
    """One card after the other; all are dealt before they are shuffled again, so that a minute
    has about everything."""
    deck: list[Card] = []
    free_at: dict[str, float] = {}
    at = FIRST_SECONDS
    while at < duration_seconds:
        if not deck:
            deck = chance.sample(cards, len(cards))
        card = next((c for c in deck if all(free_at.get(t, 0) <= at for t in c.touches)), None)
        if card is not None:
            deck.remove(card)
            lasts = round(chance.uniform(*card.lasts_seconds), 1)
            free_at |= dict.fromkeys(card.touches, at + lasts)
            yield Action(round(at, 1), card.verb, card.target, lasts, card.faults)
        at += chance.uniform(*between_seconds)


def lasting(action: Action) -> list[pb.Fault]:
    """The action's faults, with their end."""
    lasts = _seconds(action.lasts_seconds)
    faults = [pb.Fault.FromString(fault.SerializeToString()) for fault in action.faults]
    for fault in faults:
        fault.lasts.CopyFrom(lasts)
    return faults
