"""Fork switches: what a result that is not finalized would be on the other fork."""

from __future__ import annotations

from typing import Final

from dex_sim.execution import LAMPORTS, Accounts, Outcome, land, take_back
from dex_sim.transaction import Failure, Reason, Refused, Swap, Transaction
from engine.v1 import sim_pb2 as pb

FAILED_THERE: Final = Failure(Reason.PROGRAM_FAILED, "it failed on the fork that won")


def switched(
    transaction: Transaction, outcome: Outcome, accounts: Accounts, now: int, how: pb.SwitchFork
) -> tuple[Outcome | None, Accounts] | None:
    """The outcome on the other fork (None: it is not in it), with a draft of what is then.

    None when there cannot be such a fork.
    """
    draft = accounts.draft()
    if not take_back(outcome, draft):
        return None
    if how.result != pb.FORK_RESULT_FLIPPED:
        return None, draft
    if outcome.failure is None:
        draft.add(transaction.message.wallet, LAMPORTS, -outcome.fee_lamports)
        return _failed(outcome), draft
    try:
        good = land(transaction, draft, now, _at_least_the_floor)
    except Refused:
        return None
    return None if good.failure else (good, draft)


def sends_again(how: pb.SwitchFork) -> bool:
    """Whether the network itself brings back what the switch dropped."""
    return how.result == pb.FORK_RESULT_RESTORED


def _failed(outcome: Outcome) -> Outcome:
    return Outcome(
        signature=outcome.signature,
        wallet=outcome.wallet,
        failure=FAILED_THERE,
        fee_lamports=outcome.fee_lamports,
        memo=outcome.memo,
        changes=(),
        fills=(),
    )


def _at_least_the_floor(swap: Swap, quoted: int) -> int:
    return max(quoted, swap.min_amount_out)
