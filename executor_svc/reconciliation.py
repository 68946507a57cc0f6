"""Brings a restored record up to what its wallet did on the chain, while nothing is signed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import structlog

from engine.adoption import Landing, Swapped, adopt, first_difference
from engine.attempt import Attempt
from engine.chain import (
    BATCH_LIMIT,
    Chain,
    Commitment,
    HeightReading,
    HistoryPage,
    SignatureReading,
    TransactionReading,
)
from engine.errors import StaleOrder, Unanswered
from engine.order import Order, Transition
from engine.signing import Signing
from engine.store import Store
from executor_svc.evidence import Verdict, judge
from executor_svc.settlement import death
from executor_svc.transaction import read_memo

logger = structlog.get_logger()

Answer = TypeVar("Answer")

POLL_SECONDS: Final = 0.5
# How long the chain may give no answer, or no progress, before the operator has to look at it.
PATIENCE_SECONDS: Final = 120.0
# Any node may answer, and nodes lag: the newest of several readings counts, and it may still be
# the whole life of a blockhash behind.
READINGS: Final = 5
MARGIN_BLOCKS: Final = 150
# A service that still runs may move an order meanwhile, but an order has only so many steps.
TRIES: Final = 20


@dataclass
class Report:
    """What was found, by signature or order, and what became of it."""

    # Beyond this height nothing that was signed before the halt can land.
    horizon: int = 0
    finalized_block_height: int = 0
    # Transactions of this engine in the wallet's history.
    read: int = 0
    # Orders that were led to CONFIRMED.
    confirmed: list[str] = field(default_factory=list)
    # Orders that a failed transaction was put on record for.
    failed: list[str] = field(default_factory=list)
    # Orders that the record has lost; their swaps are kept for the client's resubmission.
    kept: list[str] = field(default_factory=list)
    # Swaps that the record contradicts, each in a sentence: somebody has to look at them.
    contradictions: list[str] = field(default_factory=list)
    signing: str = "halted"


class Reconciliation:
    """One run. Safe to kill and to repeat at every point: signing is halted until it is done."""

    def __init__(self, store: Store, chain: Chain, wallet: str) -> None:
        self._store = store
        self._signing = Signing(store)
        self._chain = chain
        self._wallet = wallet
        self._report = Report()

    async def run(self) -> Report:
        """Halt signing, wait, adopt, and lift the halt.

        The halt stays when an order that may still swap contradicts the chain. Raises Unanswered
        or StoreUnavailable, with signing halted, when the chain or the database is away too long.
        """
        report = self._report
        await self._signing.halt()
        logger.info("signing is halted")
        final = await self._until_all_is_final()
        landings = await self._not_on_record(final)
        swaps = [landing for landing in landings if landing.swaps]
        await self._signing.record(swaps)
        same_key = await self._signing.orders_by_key([swap.key_hash for swap in swaps])
        is_clear = True
        for landing in landings:
            order = await self._store.get(landing.order_id)
            if order is None and landing.key_hash in same_key:
                # Its client has submitted it again since the restore.
                order = await self._store.get(same_key[landing.key_hash])
            if order is not None:
                is_clear &= await self._lead(order, landing)
            elif landing.swaps:
                report.kept.append(str(landing.order_id))
        if is_clear:
            await self._signing.lift()
            report.signing = "allowed"
            logger.info("signing goes on")
        return report

    async def _until_all_is_final(self) -> HeightReading:
        """A height at which all that was signed before the halt has landed, or never will."""
        readings = [await _answered(self._chain.latest_blockhash) for _ in range(READINGS)]
        horizon = max(r.last_valid_block_height for r in readings) + MARGIN_BLOCKS
        self._report.horizon = horizon
        waited = 0.0
        highest = 0
        while waited < PATIENCE_SECONDS:
            height = await _answered(self._chain.finalized_height)
            if height.block_height > horizon:
                self._report.finalized_block_height = height.block_height
                return height
            if height.block_height > highest:
                highest, waited = height.block_height, 0.0
                logger.info("waiting for blockhashes to expire", height=highest, horizon=horizon)
            await asyncio.sleep(POLL_SECONDS)
            waited += POLL_SECONDS
        raise Unanswered(f"the chain's finalized height stands still at {highest}")

    async def _not_on_record(self, final: HeightReading) -> list[Landing]:
        """What this engine did with the wallet and the record does not know, oldest first."""
        found: list[Landing] = []
        before = ""
        while True:
            page = await _answered(partial(self._page, before, final))
            signatures = page.signatures
            if not signatures:
                return found[::-1]
            before = signatures[-1].signature
            ours = {s.signature: s for s in signatures if read_memo(s.memo) is not None}
            unknown = await self._signing.not_on_record(list(ours))
            landings = await self._landings(
                [ours[s] for s in ours if s in unknown], page.context_slot
            )
            self._report.read += len(ours) - len(unknown) + len(landings)
            found += landings

    async def _page(self, before: str, final: HeightReading) -> HistoryPage:
        page = await self._chain.history(self._wallet, before)
        if page.context_slot < final.context_slot:
            raise Unanswered("the nodes that have the wallet's history lag behind")
        return page

    async def _landings(
        self, signatures: Sequence[SignatureReading], context_slot: int
    ) -> list[Landing]:
        landings = []
        for first in range(0, len(signatures), BATCH_LIMIT):
            batch = signatures[first : first + BATCH_LIMIT]
            records = await _answered(partial(self._records, batch))
            for signature, record in zip(batch, records, strict=True):
                if not _is_signed_by(self._wallet, record):
                    # Anybody can send our wallet something with a memo like ours.
                    logger.warning("foreign transaction", signature=signature.signature)
                    continue
                memo = read_memo(signature.memo)
                assert memo is not None
                swaps = () if record.error else _swaps(record, self._wallet)
                landing = Landing(
                    *memo, signature.signature, record.slot, context_slot, record.error, swaps
                )
                landings.append(landing)
        return landings

    async def _records(self, batch: Sequence[SignatureReading]) -> list[TransactionReading]:
        records = await self._chain.transactions([signature.signature for signature in batch])
        known = [record for record in records if record is not None]
        if len(known) < len(batch):
            raise Unanswered("the nodes that know the transactions lag behind")
        return known

    async def _lead(self, order: Order | None, landing: Landing) -> bool:
        """Give the order this attempt; False when it contradicts the chain and may still swap."""
        for _ in range(TRIES):
            assert order is not None  # orders are never deleted
            try:
                return await self._adopt(order, landing)
            except StaleOrder:
                order = await self._store.get(order.order_id)
        raise Unanswered(f"services keep moving order {landing.order_id}; stop them first")

    async def _adopt(self, order: Order, landing: Landing) -> bool:
        order_id, swapped = str(order.order_id), landing.swapped_for(order.request)
        if landing.signature in {attempt.signature for attempt in order.attempts}:
            return True
        if swapped is None and landing.number < order.next_number:
            return True  # a failed transaction matters only as the order's newest attempt
        if order.live_attempt is not None:
            order = await self._without_live_attempt(order)
        if order.live_attempt is not None or order.settled:
            if swapped is not None:
                self._contradiction(order, landing, f"it is {order.status.name} on record")
            return True
        if swapped is not None:
            difference = first_difference(order.request, swapped)
            if difference is None and swapped.amount_out < (order.min_amount_out or 1):
                difference = "min_amount_out"
            if difference is not None:
                self._contradiction(order, landing, f"its {difference} is another on record")
                return False
        await self._store.adopt(adopt(order, landing))
        (self._report.failed if swapped is None else self._report.confirmed).append(order_id)
        return True

    async def _without_live_attempt(self, order: Order) -> Order:
        """The order once its live attempt is proven dead; unchanged when that one swapped."""
        while order.live_attempt is not None:
            step = await _answered(partial(self._step, order, order.live_attempt))
            if step is None:
                return order
            await self._store.adopt([step])
            order = step.order
        return order

    async def _step(self, order: Order, live: Attempt) -> Transition | None:
        """What became of the live attempt; None when it swapped. Raises Unanswered until known."""
        # R4: first the height, then the status.
        height = await self._chain.finalized_height()
        [status] = await self._chain.statuses([live.signature])
        slot = order.fill.slot if order.fill else None
        verdict = judge(live.last_valid_block_height, slot, height, status, Commitment.FINALIZED)
        match verdict:
            case Verdict.REVERTED | Verdict.EXPIRED:
                return order.supersede(*death(live, verdict, height, status))
            case Verdict.REORG:
                return order.reorg()
            case Verdict.CONFIRM | Verdict.FINALIZE:
                return None
            case _:
                raise Unanswered("the nodes that answer lag behind")

    def _contradiction(self, order: Order, landing: Landing, why: str) -> None:
        sentence = f"order {order.order_id}: {landing.signature} swapped for it, but {why}"
        logger.error("contradiction", sentence=sentence)
        self._report.contradictions.append(sentence)


async def _answered(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Its answer; asked again as long as an operator may be expected to wait."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except Unanswered as error:
            if clock() > deadline:
                raise
            logger.debug("asking again", error=str(error))
        await asyncio.sleep(POLL_SECONDS)


def _is_signed_by(wallet: str, record: TransactionReading) -> bool:
    """Where the chain does not tell: what took tokens from the wallet is, what failed may be."""
    if record.signers:
        return wallet in record.signers
    return bool(record.error) or any(
        owner == wallet and change < 0 for (owner, _), change in record.changes.items()
    )


def _swaps(record: TransactionReading, wallet: str) -> tuple[Swapped, ...]:
    """What the wallet paid, and received of each token.

    Raises Unanswered when it did not pay with one token for others, as all of ours do.
    """
    changes = {mint: change for (owner, mint), change in record.changes.items() if owner == wallet}
    paid = [mint for mint, change in changes.items() if change < 0]
    received = {mint: change for mint, change in changes.items() if change > 0}
    if len(paid) != 1 or not received:
        raise Unanswered("a transaction with our memo does not pay with one token for others")
    [token_in] = paid
    return tuple(
        [
            Swapped(token_in, token_out, -changes[token_in], amount_out, record.fee_lamports)
            for token_out, amount_out in received.items()
        ]
    )
