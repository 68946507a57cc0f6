"""No interleaving within the bounds swaps twice; break any one rule, and one does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.chain import Commitment, HeightReading, StatusReading
from executor_svc.evidence import Verdict, judge
from tests.executor_svc.attempt_model import Bounds, Protocol, cached_judge, explore

SMALL = Bounds(height=3, validity=1, finality=1, node_lag=1, attempts=2)
# A fork may still replace blocks in which the attempt could land.
FORKING = Bounds(height=4, validity=1, finality=2, node_lag=1, attempts=2)
# A node may be so far behind that it lacks finalized blocks.
LAGGING = Bounds(height=4, validity=1, finality=1, node_lag=3, attempts=2)


def without_context_check(
    last_valid: int, confirmed: int | None, height: HeightReading, status: StatusReading
) -> Verdict:
    """A node older than the height's is believed."""
    recent = max(status.context_slot, height.context_slot)
    return judge(last_valid, confirmed, height, replace(status, context_slot=recent))


def expiry_at_the_newest_height(
    last_valid: int, confirmed: int | None, height: HeightReading, status: StatusReading
) -> Verdict:
    """The height is not the finalized one."""
    return judge(last_valid, confirmed, replace(height, block_height=height.context_slot), status)


def errors_count_at_once(
    last_valid: int, confirmed: int | None, height: HeightReading, status: StatusReading
) -> Verdict:
    """An error is acted on before it is finalized."""
    if status.error:
        status = replace(status, commitment=Commitment.FINALIZED)
    return judge(last_valid, confirmed, height, status)


def test_the_protocol_holds_in_every_interleaving() -> None:
    result = explore(Protocol(decide=cached_judge), SMALL)

    assert result.violation is None
    # Not vacuous: every end was reached.
    assert result.orders_seen == {"ACTIVE", "CONFIRMED", "SETTLED", "FAILED"}


MUTANTS = {
    "sent before it is on record": (Protocol(sends_before_persisting=True), SMALL, "DOUBLE_SWAP"),
    "status read before the height": (Protocol(status_before_height=True), SMALL, "DOUBLE_SWAP"),
    "no answer taken for absence": (
        Protocol(unanswered_means_absent=True),
        SMALL,
        "DOUBLE_SWAP",
    ),
    "status from a node older than the height's": (
        Protocol(decide=without_context_check),
        LAGGING,
        "DOUBLE_SWAP",
    ),
    "expiry judged at a height that is not final": (
        Protocol(decide=expiry_at_the_newest_height),
        FORKING,
        "DOUBLE_SWAP",
    ),
    "an error acted on before it is final": (
        Protocol(decide=errors_count_at_once),
        SMALL,
        "DOUBLE_SWAP",
    ),
    "two live attempts": (Protocol(many_live_attempts=True), SMALL, "DOUBLE_SWAP"),
    "failed by a timeout": (Protocol(fails_by_timeout=True), SMALL, "FAILED_BUT_SWAPPED"),
}


@pytest.mark.parametrize(("mutant", "bounds", "violation"), MUTANTS.values(), ids=MUTANTS.keys())
def test_each_rule_is_needed(mutant: Protocol, bounds: Bounds, violation: str) -> None:
    assert explore(mutant, bounds).violation == violation


def test_an_older_node_is_harmless_while_it_has_all_that_is_final() -> None:
    """The context check matters only when nodes lag more than finality does."""
    assert explore(Protocol(decide=without_context_check), SMALL).violation is None
