"""What can go wrong: each effect, the occasions it has, and the selectors that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import grpc

from engine.errors import InvalidRequest, Violation
from engine.instructions.swap import KINDS_OF_VENUE
from engine.v1 import chain_pb2, venue_pb2
from engine.v1 import sim_pb2 as pb

CHAIN: Final = "chain"
VENUES: Final = (*KINDS_OF_VENUE, CHAIN)

MAX_DELAY_SECONDS: Final = 600
MAX_LAG_SLOTS: Final = 10_000
FAILING_CODES: Final = frozenset(code.name for code in grpc.StatusCode) - {"OK"}


class Site(Enum):
    """Where the simulator asks what goes wrong."""

    CALL = auto()
    CHOICE = auto()
    ITEM = auto()
    NODE = auto()
    LANDING = auto()
    RESULT = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """Where an effect strikes: the site, its calls, and the selectors that mean something there."""

    site: Site
    calls: frozenset[str] = frozenset()
    selectors: frozenset[str] = frozenset()


VENUE_CALLS: Final = frozenset(
    venue_pb2.DESCRIPTOR.services_by_name["VenueService"].methods_by_name
)
CHAIN_CALLS: Final = frozenset(
    chain_pb2.DESCRIPTOR.services_by_name["ChainService"].methods_by_name
)

_ORDER: Final = frozenset({"venue", "order_id", "attempt"})
_COUNTED: Final = frozenset({"nth", "times", "percent"})
_NODE: Final = frozenset({"node", "except_node"})
_CALL: Final = _ORDER | _COUNTED | {"call"}
_QUOTE: Final = frozenset({"Quote"})
_BUILD: Final = frozenset({"BuildSwap"})
_SEND: Final = frozenset({"SendTransactions", "SimulateTransactions"})
_LOOK_UP: Final = frozenset({"GetSignatureStatuses", "GetTransactions"})

_TRANSACTION: Final = Rule(Site.LANDING, selectors=_ORDER | _COUNTED)

RULES: Final[Mapping[str, Rule]] = {
    "fail": Rule(Site.CALL, VENUE_CALLS | CHAIN_CALLS, _CALL | _NODE),
    "slow": Rule(Site.CALL, VENUE_CALLS | CHAIN_CALLS, _CALL | _NODE),
    "miscount": Rule(Site.CALL, _QUOTE | _BUILD | _SEND | _LOOK_UP, _CALL | _NODE),
    "choose_node": Rule(Site.CHOICE, CHAIN_CALLS - {"WatchSignatures"}, _CALL),
    "refuse": Rule(Site.ITEM, _QUOTE | _BUILD | _SEND, _CALL),
    # Before there is a transaction, nobody tells the attempt.
    "misquote": Rule(Site.ITEM, _QUOTE, _CALL - {"attempt"}),
    "misbuild": Rule(Site.ITEM, _BUILD, _CALL - {"attempt"}),
    "lag": Rule(Site.NODE, selectors=_NODE),
    "drop": _TRANSACTION,
    "hold": _TRANSACTION,
    "repeat": _TRANSACTION,
    "slip": _TRANSACTION,
    "fork": Rule(Site.RESULT, selectors=_ORDER | _COUNTED),
}
SELECTORS: Final = _CALL | _NODE

REFUSALS: Final = {
    name.removeprefix("REFUSAL_REASON_"): number
    for name, number in venue_pb2.RefusalReason.items()
    if number
}
TRANSACTION_ERRORS: Final = {
    name.removeprefix("TRANSACTION_ERROR_REASON_"): number
    for name, number in chain_pb2.TransactionErrorReason.items()
    if number
}


def effect_of(fault: pb.Fault) -> str:
    """The name of its effect; empty when it has none."""
    return fault.WhichOneof("effect") or ""


def calls_of(fault: pb.Fault) -> frozenset[str]:
    """The calls that it may hit; none when it is not about calls."""
    calls = RULES[effect_of(fault)].calls
    if fault.HasField("refuse"):
        calls &= _SEND if fault.refuse.reason in TRANSACTION_ERRORS else _QUOTE | _BUILD
    return calls & {fault.call} if fault.call else calls


def check(fault: pb.Fault, *, nodes: Sequence[str], finalized_after_slots: int) -> None:
    """InvalidRequest, with all that is wrong, unless the fault can strike on such a chain."""
    effect = effect_of(fault)
    if not effect:
        raise InvalidRequest([Violation("effect", f"must be one of {', '.join(RULES)}")])
    rule = RULES[effect]
    wrong = [
        Violation(name, f"does not go with {effect}")
        for name in sorted(SELECTORS - rule.selectors)
        if getattr(fault, name)
    ]
    if fault.call and rule.calls and not calls_of(fault):
        meant = ", ".join(sorted(rule.calls))
        wrong.append(Violation("call", f"is no call that {effect} goes with; those are {meant}"))
    if fault.venue and fault.venue not in VENUES:
        wrong.append(Violation("venue", f"must be one of {', '.join(VENUES)}"))
    if fault.percent > 100:
        wrong.append(Violation("percent", "must be 1 to 100, or 0 for always"))
    named = {"node": fault.node, "except_node": fault.except_node}
    if fault.HasField("choose_node"):
        named["choose_node.node"] = fault.choose_node.node
    wrong += [
        Violation(field, f"must be one of {', '.join(nodes)}")
        for field, node in named.items()
        if (node or field == "choose_node.node") and node not in nodes
    ]
    wrong += _check_parameters(fault, finalized_after_slots)
    if wrong:
        raise InvalidRequest(wrong)


def _check_parameters(fault: pb.Fault, finalized_after_slots: int) -> list[Violation]:
    fork, lag = fault.fork, fault.lag
    requirements = {
        "fail": ("code", fault.fail.code in FAILING_CODES, "must be the name of a gRPC code"),
        "slow": (
            "delay",
            0 < fault.slow.delay.ToNanoseconds() <= MAX_DELAY_SECONDS * 10**9,
            f"must be more than 0 s, at most {MAX_DELAY_SECONDS} s",
        ),
        "miscount": ("by", fault.miscount.by != 0, "must not be 0"),
        "refuse": (
            "reason",
            fault.refuse.reason in REFUSALS.keys() | TRANSACTION_ERRORS.keys(),
            f"must be one of {', '.join((*REFUSALS, *TRANSACTION_ERRORS))}",
        ),
        "misquote": (
            "kind",
            fault.misquote.kind in pb.MisquoteKind.values() and bool(fault.misquote.kind),
            "must be set",
        ),
        "misbuild": (
            "kind",
            fault.misbuild.kind in pb.MisbuildKind.values() and bool(fault.misbuild.kind),
            "must be set",
        ),
        "lag": (
            "slots",
            lag.frozen != (0 < lag.slots <= MAX_LAG_SLOTS) and lag.slots <= MAX_LAG_SLOTS,
            f"must be 1 to {MAX_LAG_SLOTS}, or frozen true instead",
        ),
        "fork": (
            "result",
            fork.result in pb.ForkResult.values() and bool(fork.result),
            "must be set",
        ),
    }
    effect = effect_of(fault)
    field, met, requirement = requirements.get(effect, ("", True, ""))
    wrong = [] if met else [Violation(f"{effect}.{field}", requirement)]
    if fork.after_slots >= finalized_after_slots and effect == "fork":
        wrong.append(
            Violation(
                "fork.after_slots",
                f"must be below {finalized_after_slots}, where results are finalized",
            )
        )
    return wrong
