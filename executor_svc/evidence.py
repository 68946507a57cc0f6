"""What readings of the chain prove about a live attempt (rules R3, R4 and R5). Pure.

The height is always read first and the status second. Then "absent" from a node at least as
recent as the height says that the attempt can never land: its blockhash is dead at finalized
height, and a node that has seen all of that has no record of it. A missing answer, an older
node, a result that is not finalized prove nothing, and no clock or counter is asked.
"""

from __future__ import annotations

from enum import Enum, auto

from engine.chain import Commitment, HeightReading, StatusReading


class Verdict(Enum):
    """What to do about a live attempt."""

    WAIT = auto()  # nothing is proven, and nothing helps but time
    RESEND = auto()  # no record yet: the same bytes may be sent again (R3)
    CONFIRM = auto()  # it swapped, at the wanted commitment
    FINALIZE = auto()  # it swapped, irrevocably: resolved as LANDED
    REORG = auto()  # the swap that was reported is no longer there, or no longer the same
    REVERTED = auto()  # it failed on chain, irrevocably: resolved as LANDED_WITH_ERROR
    EXPIRED = auto()  # it never landed and never will: resolved as EXPIRED_UNLANDED


def judge(
    last_valid_block_height: int,
    confirmed_slot: int | None,
    height: HeightReading,
    status: StatusReading,
    confirm_at: Commitment = Commitment.CONFIRMED,
) -> Verdict:
    """The verdict on one live attempt.

    `confirmed_slot` is where the order was already reported to have swapped, if it was.
    `height` must have been read before `status`.
    """
    if status.commitment is None:
        return _absent(last_valid_block_height, confirmed_slot, height, status)
    if status.error:
        if status.commitment is Commitment.FINALIZED and confirmed_slot is None:
            return Verdict.REVERTED
        if status.commitment >= confirm_at and confirmed_slot is not None:
            return Verdict.REORG
        return Verdict.WAIT
    if status.commitment < confirm_at:
        return Verdict.WAIT
    if confirmed_slot is None:
        return Verdict.CONFIRM
    if status.slot != confirmed_slot:
        return Verdict.REORG  # it landed again elsewhere: what it paid may differ
    return Verdict.FINALIZE if status.commitment is Commitment.FINALIZED else Verdict.WAIT


def _absent(
    last_valid_block_height: int,
    confirmed_slot: int | None,
    height: HeightReading,
    status: StatusReading,
) -> Verdict:
    if confirmed_slot is not None:
        return Verdict.REORG if status.context_slot >= confirmed_slot else Verdict.WAIT
    if height.block_height <= last_valid_block_height:
        return Verdict.RESEND
    return Verdict.EXPIRED if status.context_slot >= height.context_slot else Verdict.WAIT
