"""Which faults make sense."""

from __future__ import annotations

from typing import Any

import pytest

from dex_sim.effects import RULES, check
from engine.errors import InvalidRequest
from engine.v1 import sim_pb2 as pb

NODES = ["node-1", "node-2", "node-3"]


def test_every_effect_has_its_rule() -> None:
    effects = pb.Fault.DESCRIPTOR.oneofs_by_name["effect"].fields

    assert [field.name for field in effects] == list(RULES)


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        ({}, ["effect"]),
        ({"fail": {}}, ["fail.code"]),
        ({"fail": {"code": "OK"}}, ["fail.code"]),
        ({"call": "Qoute", "venue": "orca", "fail": {"code": "INTERNAL"}}, ["call", "venue"]),
        ({"node": "node-4", "fail": {"code": "INTERNAL"}}, ["node"]),
        ({"call": "Quote", "node": "node-1", "drop": {}}, ["call", "node"]),
        ({"times": 1, "lag": {"slots": 5}}, ["times"]),
        ({"lag": {}}, ["lag.slots"]),
        ({"lag": {"slots": 5, "frozen": True}}, ["lag.slots"]),
        ({"slow": {"delay": {"seconds": 601}}}, ["slow.delay"]),
        ({"percent": 101, "slip": {}}, ["percent"]),
        ({"refuse": {"reason": "BORED"}}, ["refuse.reason"]),
        ({"call": "Quote", "refuse": {"reason": "BLOCKHASH_NOT_FOUND"}}, ["call"]),
        ({"misquote": {}}, ["misquote.kind"]),
        ({"fork": {"after_slots": 31}}, ["fork.result", "fork.after_slots"]),
        ({"choose_node": {}}, ["choose_node.node"]),
        ({"miscount": {}}, ["miscount.by"]),
    ],
)
def test_a_fault_that_could_never_strike_is_refused_with_all_that_is_wrong(
    fault: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(pb.Fault(**fault), nodes=NODES, finalized_after_slots=31)

    assert [violation.field for violation in refused.value.violations] == fields
