"""What readings prove, case by case; the protocol as a whole is checked in test_attempt_model."""

from __future__ import annotations

import pytest

from engine.chain import Commitment, HeightReading, StatusReading
from executor_svc.evidence import Verdict, judge

LAST_VALID = 150
DEAD = HeightReading(block_height=151, context_slot=200)
ALIVE = HeightReading(block_height=150, context_slot=199)


def absent(context_slot: int) -> StatusReading:
    return StatusReading(context_slot, "node-1")


def landed(commitment: Commitment, slot: int = 180, error: str = "") -> StatusReading:
    return StatusReading(220, "node-1", commitment, slot, error)


CASES = {
    "absent while the blockhash lives: send again": (ALIVE, absent(300), None, Verdict.RESEND),
    "absent after the blockhash died: proven": (DEAD, absent(200), None, Verdict.EXPIRED),
    "absent on an older node than the height's": (DEAD, absent(199), None, Verdict.WAIT),
    "in a block, not voted for": (ALIVE, landed(Commitment.PROCESSED), None, Verdict.WAIT),
    "confirmed": (ALIVE, landed(Commitment.CONFIRMED), None, Verdict.CONFIRM),
    "first seen finalized: confirmed first": (
        DEAD,
        landed(Commitment.FINALIZED),
        None,
        Verdict.CONFIRM,
    ),
    "reported, not final yet": (ALIVE, landed(Commitment.CONFIRMED), 180, Verdict.WAIT),
    "reported and finalized": (DEAD, landed(Commitment.FINALIZED), 180, Verdict.FINALIZE),
    "reported, landed again elsewhere": (DEAD, landed(Commitment.FINALIZED), 179, Verdict.REORG),
    "reported, now absent": (ALIVE, absent(180), 180, Verdict.REORG),
    "reported, absent on a node that is not there yet": (DEAD, absent(179), 180, Verdict.WAIT),
    "reported, now an error": (
        ALIVE,
        landed(Commitment.CONFIRMED, error="SLIPPAGE_EXCEEDED"),
        180,
        Verdict.REORG,
    ),
    "an error that a fork may still flip": (
        DEAD,
        landed(Commitment.CONFIRMED, error="SLIPPAGE_EXCEEDED"),
        None,
        Verdict.WAIT,
    ),
    "an error, finalized": (
        ALIVE,
        landed(Commitment.FINALIZED, error="SLIPPAGE_EXCEEDED"),
        None,
        Verdict.REVERTED,
    ),
}


@pytest.mark.parametrize(
    ("height", "status", "confirmed_slot", "verdict"), CASES.values(), ids=CASES.keys()
)
def test_a_reading_proves_what_it_proves_and_no_more(
    height: HeightReading, status: StatusReading, confirmed_slot: int | None, verdict: Verdict
) -> None:
    assert judge(LAST_VALID, confirmed_slot, height, status) is verdict


def test_a_swap_counts_only_at_the_wanted_commitment() -> None:
    seen = landed(Commitment.CONFIRMED)

    assert judge(LAST_VALID, None, ALIVE, seen, Commitment.FINALIZED) is Verdict.WAIT
