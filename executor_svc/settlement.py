"""Follows all live attempts together, from the database, until each is resolved."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from engine.attempt import Attempt, Evidence, Fill, Leftover, Resolution
from engine.chain import Chain, Commitment, HeightReading, StatusReading, TransactionReading
from engine.errors import StoreUnavailable, Unanswered
from engine.failures import Failure
from engine.order import Order, Transition
from engine.relay import Relay
from engine.store import Store
from executor_svc.evidence import Verdict, judge
from executor_svc.executor import Executor

logger = structlog.get_logger()

# A sent attempt is due no sooner, and what the chain hints at does not wait for it.
TICK_SECONDS: Final = 0.2
CLAIM_LIMIT: Final = 500
LISTEN_AGAIN_SECONDS: Final = 0.5
# Nothing has expired as far as anybody looked.
NOT_ASKED: Final = HeightReading(0, 0)

Reading = tuple[Order, Attempt, HeightReading, StatusReading, TransactionReading | None]


class Settlement:
    """One loop for every order that has a signature on record.

    It holds no orders between rounds: what is due is claimed from the database, so any number
    of these may run, and a new one goes on where a killed one stopped.
    """

    def __init__(
        self,
        store: Store,
        relay: Relay,
        chain: Chain,
        executor: Executor,
        confirm_at: Commitment = Commitment.CONFIRMED,
    ) -> None:
        self._store = store
        self._relay = relay
        self._chain = chain
        self._executor = executor
        self._confirm_at = confirm_at
        # By signature, with what was told of it; only what was signed here.
        self._hinted: dict[str, TransactionReading | None] = {}
        self._hint = asyncio.Event()

    async def follow(self) -> None:
        """Settle whatever is due, until cancelled. No outage ends an order here (R5)."""
        while True:
            try:
                due = await self._store.claim_to_settle(CLAIM_LIMIT)
                await self.settle(due)
            except (StoreUnavailable, Unanswered) as error:
                logger.debug("settlement waits", error=str(error))
                due = []
            if len(due) < CLAIM_LIMIT:
                await asyncio.sleep(TICK_SECONDS * random.uniform(0.8, 1.2))

    async def listen(self) -> None:
        """Note what the chain hints at of the orders signed here, until cancelled."""
        signed = self._executor.signed
        while True:
            try:
                async for changed in self._chain.changes(self._executor.wallet, signed):
                    for signature, told in changed.items():
                        # Another node may be behind the one that spoke before.
                        if _settles(told) >= _settles(self._hinted.get(signature)):
                            self._hinted[signature] = told
                    self._hint.set()
            except Unanswered as error:
                logger.debug("no hints from the chain", error=str(error))
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def settle_hinted(self) -> None:
        """Settle what was hinted at, all that came meanwhile together, until cancelled."""
        signed = self._executor.signed
        while True:
            await self._hint.wait()
            self._hint.clear()
            hinted, self._hinted = self._hinted, {}
            try:
                await self.settle_landed([signed[s] for s in hinted if s in signed], hinted)
            except (StoreUnavailable, Unanswered) as error:
                logger.debug("hints are left to the next look", error=str(error))

    async def settle(self, orders: Sequence[Order]) -> None:
        """Read the chain once for all these orders, and act on what it proves of each.

        Raises Unanswered when the chain does not answer: then nothing was concluded.
        """
        followed = [(o, a) for o in orders if (a := o.live_attempt) is not None]
        if not followed:
            return
        # R4: first the height, then the statuses.
        height = await self._chain.finalized_height()
        statuses = await self._chain.statuses([attempt.signature for _, attempt in followed])
        landed = [
            attempt.signature
            for (order, attempt), status in zip(followed, statuses, strict=True)
            if self._judge(order, attempt, height, status) in (Verdict.CONFIRM, Verdict.FINALIZE)
        ]
        records = dict(
            zip(landed, await self._chain.transactions(landed) if landed else (), strict=True)
        )
        await self._act(
            [
                (order, attempt, height, status, records.get(attempt.signature))
                for (order, attempt), status in zip(followed, statuses, strict=True)
            ]
        )

    async def settle_landed(
        self, orders: Sequence[Order], told: Mapping[str, TransactionReading | None]
    ) -> None:
        """As `settle`, but only of those whose transactions a node shows: in one reading, but for
        those of which enough was `told`, by signature.

        An absence says nothing here, so no height is asked for.
        """
        sure: list[Reading] = []
        unsure: list[tuple[Order, Attempt]] = []
        for order in orders:
            attempt = order.live_attempt
            if attempt is None:
                continue
            record = told.get(attempt.signature)
            if record is not None and self._counts(order, attempt, record):
                sure.append((order, attempt, NOT_ASKED, record.status, record))
            else:
                unsure.append((order, attempt))
        if sure:
            await self._act(sure)
        if not unsure:
            return
        records = await self._chain.transactions([attempt.signature for _, attempt in unsure])
        await self._act(
            [
                (order, attempt, NOT_ASKED, record.status, record)
                for (order, attempt), record in zip(unsure, records, strict=True)
                if record is not None
            ]
        )

    def _counts(self, order: Order, attempt: Attempt, told: TransactionReading) -> bool:
        """Whether a told record counts as if it were read: it shows the swap, at the wanted
        commitment, and no other than was confirmed. Anything else is read before it counts."""
        if told.error or told.commitment < self._confirm_at:
            return False
        if order.fill is None:
            return True
        fill = _fill(order, attempt, self._executor.wallet, told.status, told)
        return fill is not None and fill.on_order == order.fill

    def _judge(
        self, order: Order, attempt: Attempt, height: HeightReading, status: StatusReading
    ) -> Verdict:
        return judge(
            attempt.last_valid_block_height,
            order.fill.slot if order.fill else None,
            height,
            status,
            self._confirm_at,
        )

    async def _act(self, read: Sequence[Reading]) -> None:
        """Do what the readings prove: all together, each on its own."""
        sending: list[Attempt] = []
        concluded: list[tuple[Attempt, Transition]] = []
        for order, attempt, height, status, record in read:
            verdict = self._judge(order, attempt, height, status)
            # After a cancel the bytes are not pushed any more; they may land all the same.
            if verdict is Verdict.RESEND and not order.cancel_requested:
                sending.append(attempt)
            transition = self._conclude(order, attempt, verdict, height, status, record)
            if transition is not None:
                concluded.append((attempt, transition))
        if sending:
            await self._executor.send(sending)
        signed = self._executor.signed
        results = await self._relay.commit_each([transition for _, transition in concluded])
        for (attempt, _), result in zip(concluded, results, strict=True):
            if isinstance(result, Exception):
                # Another settled it first, or its row was refused: it is looked at again when due.
                logger.debug("not settled", signature=attempt.signature, why=str(result))
            elif result.live_attempt is not None:
                if attempt.signature in signed:
                    signed[attempt.signature] = result
                continue
            signed.pop(attempt.signature, None)

    def _conclude(
        self,
        order: Order,
        attempt: Attempt,
        verdict: Verdict,
        height: HeightReading,
        status: StatusReading,
        record: TransactionReading | None,
    ) -> Transition | None:
        match verdict:
            case Verdict.CONFIRM:
                fill = _fill(order, attempt, self._executor.wallet, status, record)
                if fill is None:
                    return None
                confirmed = order.confirm(fill)
                # What is final at first sight is settled with the same commit.
                verdict = self._judge(confirmed.order, attempt, height, status)
                if verdict is not Verdict.FINALIZE:
                    return confirmed
                final = self._conclude(confirmed.order, attempt, verdict, height, status, record)
                return confirmed if final is None else confirmed.then(final)
            case Verdict.FINALIZE:
                if record is None or record.commitment is not Commitment.FINALIZED:
                    return None
                # A fork may have run the same bytes again in the same slot, with another result
                # than the one reported: what is final counts, and is reported anew.
                fill = _fill(order, attempt, self._executor.wallet, status, record)
                if fill is None or fill.on_order != order.fill:
                    return order.reorg()
                return order.finalize(Evidence(status.context_slot, status.node, slot=status.slot))
            case Verdict.REORG:
                return order.reorg()
            case Verdict.REVERTED | Verdict.EXPIRED:
                return order.resolve(*death(attempt, verdict, height, status))
            case _:
                return None


def _settles(told: TransactionReading | None) -> int:
    """How settled what was told is; 0: nothing was."""
    return 0 if told is None else told.commitment


def death(
    attempt: Attempt, verdict: Verdict, height: HeightReading, status: StatusReading
) -> tuple[Resolution, Evidence, Failure]:
    """How an attempt that is REVERTED or EXPIRED ended, on which evidence, and in words."""
    if verdict is Verdict.REVERTED:
        reason, _, words = status.error.partition(": ")
        return (
            Resolution.LANDED_WITH_ERROR,
            Evidence(status.context_slot, status.node, slot=status.slot, error=status.error),
            Failure(reason, words or "the transaction failed on chain; nothing was swapped"),
        )
    return (
        Resolution.EXPIRED_UNLANDED,
        Evidence(
            status.context_slot,
            status.node,
            finalized_block_height=height.block_height,
            height_context_slot=height.context_slot,
        ),
        Failure(
            "NOT_LANDED",
            f"the transaction had not landed when its blockhash expired at block "
            f"height {attempt.last_valid_block_height}",
        ),
    )


def _fill(
    order: Order,
    attempt: Attempt,
    wallet: str,
    status: StatusReading,
    record: TransactionReading | None,
) -> Fill | None:
    """What was really paid and received; None while no node tells for this very slot."""
    if record is None or record.error or record.slot != status.slot:
        return None
    changes = {mint: change for (owner, mint), change in record.changes.items() if owner == wallet}
    return Fill(
        amount_in=-changes.pop(order.request.token_in, 0),
        amount_out=changes.pop(order.request.token_out, 0),
        slot=record.slot,
        signature=attempt.signature,
        network_fee_lamports=record.fee_lamports,
        # A leg pays what the one before yields at least; what that yielded more stays.
        leftovers=tuple(
            [
                Leftover(mint, changes[mint])
                for mint in dict.fromkeys([leg.mint_out for leg in attempt.legs])
                if changes.get(mint, 0) > 0
            ]
        ),
    )
