"""Builds, checks and signs the swap of a routed order, and sends it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
from solders.keypair import Keypair

from engine.attempt import Attempt
from engine.chain import Chain, No
from engine.errors import Refused, StaleOrder, Unanswered
from engine.failures import Failure
from engine.lifecycle import Status
from engine.order import Order, Transition
from engine.relay import Begun, Relay
from engine.signing import Signing
from engine.store import Store
from engine.trading import TradingSwitch
from engine.venue import Venue
from executor_svc import transaction
from executor_svc.blockhash import RecentBlockhash
from executor_svc.drafts import Draft, Drafts, hints_of

logger = structlog.get_logger()

MAX_SIGNED: Final = 20_000


class Executor:
    """Moves orders from a chosen route to a signature on record."""

    def __init__(
        self,
        store: Store,
        relay: Relay,
        venues: Mapping[str, Venue],
        chain: Chain,
        wallet: Keypair,
        switch: TradingSwitch,
    ) -> None:
        self._store = store
        self._switch = switch
        self._signing = Signing(store)
        self._relay = relay
        self._chain = chain
        self._blockhash = RecentBlockhash(chain)
        self._wallet = wallet
        # Derived anew each time it is asked for, and dear.
        address = wallet.pubkey()
        self._drafts = Drafts(venues, address)
        self.wallet = str(address)
        # Orders signed here, by signature, until they are settled: the chain's hints name
        # signatures. Losing one costs a moment, the settlement finds every order by itself.
        self.signed: dict[str, Order] = {}

    async def execute(self, order_ids: Sequence[UUID]) -> list[UUID]:
        """Take these orders' next step towards a signature, if they have one.

        Safe to repeat and to race: whoever loses an order's version signs nothing that is ever
        sent. Of several, those whose venues have to be asked are left, and returned.
        """
        expired: list[Transition] = []
        hinted: list[Order] = []
        asking: list[Order] = []
        unrouted: list[Order] = []
        for order in await self._store.get_each(order_ids):
            if order.status not in (Status.ROUTING, Status.BUILDING):
                continue
            if order.past_expiry:
                expired.append(order.expire())
            elif self._switch.halted:
                continue  # it waits, and is offered again when trading goes on
            elif order.route is None:
                unrouted.append(order)
            else:
                (hinted if hints_of(order) else asking).append(order)
        if hinted:
            await self._sign(hinted)
        if expired:
            await self._relay.commit_all(expired)
        if unrouted:
            await self._relay.offer(unrouted)
        if len(order_ids) > 1:
            return [order.order_id for order in asking]
        if asking:
            await self._sign(asking)
        return []

    async def send(self, attempts: Sequence[Attempt]) -> None:
        """Send the recorded bytes, once more or for the first time (R3).

        Whatever the answer, only the status can tell what became of them.
        """
        answers = await self._chain.send([attempt.transaction for attempt in attempts])
        for attempt, no in zip(attempts, answers, strict=True):
            if no is not None:
                logger.debug("sending gave no acceptance", signature=attempt.signature, why=str(no))

    async def _sign(self, orders: Sequence[Order]) -> None:
        """Build, sign, record and send the swaps of routed orders, all together."""
        # Building changes nothing, so it need not wait for the commit that says we build.
        begun, tried = await self._relay.during([*map(_begun, orders)], self._tried(orders))
        steps = [
            (each.then(_step(each.order, attempt)), attempt)
            for each, attempt in zip(begun, tried, strict=True)
            if each is not None
        ]
        # R1: on record before the first byte leaves. R2: whoever loses here has no attempt.
        results = await self._relay.commit_each([step for step, _ in steps])
        recorded: list[Attempt] = []
        for (_, attempt), order in zip(steps, results, strict=True):
            if isinstance(order, Order) and isinstance(attempt, Attempt):
                recorded.append(attempt)
                self.signed[attempt.signature] = order
        while len(self.signed) > MAX_SIGNED:
            # The oldest was most likely settled by another executor.
            del self.signed[next(iter(self.signed))]
        if recorded:
            await self.send(recorded)
        failures = [result for result in results if isinstance(result, Exception)]
        if any(isinstance(failure, StaleOrder) for failure in failures):
            why = await self._signing.why_halted()
            if why is not None:
                logger.warning("signing is halted; run oee reconcile --restored", why=why)
        for failure in failures:
            if not isinstance(failure, StaleOrder):
                raise failure

    async def _tried(self, orders: Sequence[Order]) -> list[Attempt | No]:
        """A signed transaction for each order's route, not on record yet and not sent.

        Nothing is signed before everything was checked; what speaks against it stands instead.
        """
        told = [await self._drafts.told(order) for order in orders]
        try:
            blockhash = await self._blockhash.get()
        except Unanswered as error:
            return [each if isinstance(each, No) else error for each in told]
        drafts = [
            each if isinstance(each, No) else self._drafts.drafted(order, each, blockhash)
            for order, each in zip(orders, told, strict=True)
        ]
        simulated = await self._chain.simulate(
            [transaction.unsigned(each.message) for each in drafts if isinstance(each, Draft)]
        )
        if any(isinstance(no, Refused) for no in simulated):
            self._blockhash.forget()
        answers = iter(simulated)
        return [
            each if isinstance(each, No) else next(answers) or self._signed(each) for each in drafts
        ]

    def _signed(self, draft: Draft) -> Attempt:
        signature, signed = transaction.sign(draft.message, self._wallet)
        return Attempt(
            number=draft.order.next_number,
            legs=draft.route.agreed_legs,
            signature=signature,
            blockhash=draft.blockhash.blockhash,
            last_valid_block_height=draft.blockhash.last_valid_block_height,
            min_amount_out=draft.route.least_changes()[draft.order.request.token_out],
            transaction=signed,
        )


def _begun(order: Order) -> Begun:
    """Building has begun: with a step to be told, unless that was told before."""
    if order.status is Status.BUILDING:
        return Begun(order, None)
    step = order.start_building()
    return Begun(step.order, step)


def _step(order: Order, attempt: Attempt | No) -> Transition:
    return order.sign(attempt) if isinstance(attempt, Attempt) else _failed(order, attempt)


def _failed(order: Order, error: No) -> Transition:
    if isinstance(error, Unanswered):
        return order.retry_or_fail(Failure("CHAIN_UNAVAILABLE", str(error)))
    failure = Failure(error.reason, str(error))
    return order.fail(failure) if error.permanent else order.retry_or_fail(failure)
