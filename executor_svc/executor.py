"""Builds, checks and signs the swap of a routed order, and sends it once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

import structlog
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey

from engine.attempt import Attempt
from engine.batch import Meeting
from engine.chain import Blockhash, Chain, No
from engine.errors import Refused, StaleOrder, Unanswered
from engine.failures import Failure
from engine.instructions.swap import KINDS_OF_VENUE
from engine.instructions.terms import Parties, SwapTerms
from engine.lifecycle import Status
from engine.order import Order, Transition
from engine.relay import Begun, Relay
from engine.route import Hints, Leg, Route
from engine.signing import Signing
from engine.store import Store
from engine.trading import TradingSwitch
from engine.v1 import venue_pb2
from engine.venue import BuiltSwap, Venue
from executor_svc import transaction
from executor_svc.blockhash import RecentBlockhash

logger = structlog.get_logger()

MAX_SIGNED: Final = 20_000
# Swaps that venues build go one way afterwards: simulated, recorded and sent together, unless a
# venue takes longer than the others by this.
PATIENCE_SECONDS: Final = 0.005


class Draft(NamedTuple):
    """What is signed if the chain has nothing against it."""

    order: Order
    route: Route
    message: MessageV0
    blockhash: Blockhash


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
        self._venues = venues
        self._chain = chain
        self._blockhash = RecentBlockhash(chain)
        self._wallet = wallet
        self._building = Meeting(PATIENCE_SECONDS)
        # Derived anew each time it is asked for, and dear.
        self._address = wallet.pubkey()
        self.wallet = str(self._address)
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
                (hinted if _hints(order) else asking).append(order)
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
        told = [await self._told(order) for order in orders]
        try:
            blockhash = await self._blockhash.get()
        except Unanswered as error:
            return [each if isinstance(each, No) else error for each in told]
        drafts = [
            each if isinstance(each, No) else self._drafted(order, each, blockhash)
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

    async def _told(self, order: Order) -> Sequence[Hints | BuiltSwap] | No:
        """What each leg's swap is derived from, or why nothing may be.

        On the order's first try that is its hints, where the router gave it some. Every other leg
        is its venue's to build, all asked at once; the first refusal is everybody's.
        """
        assert order.route is not None
        legs = order.route.legs
        try:
            _require_kept_floor(order)
            for leg in legs:
                self._require_known(leg)
        except Refused as refused:
            return refused
        hints = _hints(order)
        if hints:
            return hints
        async with self._building.away():
            answers = await asyncio.gather(
                *[self._build(order, leg) for leg in legs], return_exceptions=True
            )
        told: list[Hints | BuiltSwap] = []
        for answer in answers:
            if isinstance(answer, No):
                return answer
            if isinstance(answer, BaseException):
                raise answer
            told.append(answer)
        return told

    def _drafted(
        self, order: Order, told: Sequence[Hints | BuiltSwap], blockhash: Blockhash
    ) -> Draft | Refused:
        assert order.route is not None
        try:
            message = transaction.compose(
                [self._terms(leg, each) for leg, each in zip(order.route.legs, told, strict=True)],
                [each.instructions if isinstance(each, BuiltSwap) else None for each in told],
                transaction.memo_text(order, order.next_number),
                blockhash.blockhash,
            )
        except Refused as refused:
            return refused
        return Draft(order, order.route, message, blockhash)

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

    async def _build(self, order: Order, leg: Leg) -> Hints | BuiltSwap:
        if leg.hints is not None and _is_first_try(order):
            return leg.hints
        return await self._venues[leg.venue].build(
            venue_pb2.SwapOrder(
                order_id=str(order.order_id),
                pool=leg.pool,
                mint_in=leg.mint_in,
                mint_out=leg.mint_out,
                amount_in=leg.amount_in,
                min_amount_out=leg.min_amount_out,
                wallet=self.wallet,
            )
        )

    def _require_known(self, leg: Leg) -> None:
        """Refuse a leg at a venue that is not ours to use, or in what is no pool of it."""
        kinds = KINDS_OF_VENUE.get(leg.venue)
        if kinds is None or leg.venue not in self._venues:
            raise Refused("VENUE_UNKNOWN", f"{leg.venue} is not configured here", permanent=True)
        if leg.kind not in kinds:
            raise Refused("VENUE_ANSWER_INVALID", f"{leg.venue} has no pools of kind {leg.kind!r}")

    def _terms(self, leg: Leg, told: Hints | BuiltSwap) -> SwapTerms:
        """What was agreed with the leg; of what was told only hints, see Parties."""
        hints = told.hints if isinstance(told, BuiltSwap) else told
        try:
            parties = Parties(
                kind=leg.kind,
                pool=_address(leg.pool),
                mint_in=_address(leg.mint_in),
                mint_out=_address(leg.mint_out),
                wallet=self._address,
                arrays=hints.arrays,
                market=None if hints.market is None else _address(hints.market),
                config=hints.config,
                zero_for_one=hints.zero_for_one,
            )
            return SwapTerms(parties, leg.amount_in, leg.min_amount_out)
        except ValueError as error:
            raise Refused("ROUTE_REFUSED", f"no swap in {leg.pool}: {error}") from None


@lru_cache(maxsize=1024)
def _address(text: str) -> Pubkey:
    return Pubkey.from_string(text)


def _is_first_try(order: Order) -> bool:
    return not order.retries and not order.attempts


def _hints(order: Order) -> list[Hints]:
    """The hints of all legs of the order's route, if this is its first try; else none."""
    assert order.route is not None
    legs = order.route.legs
    hints = [leg.hints for leg in legs if leg.hints is not None]
    return hints if len(hints) == len(legs) and _is_first_try(order) else []


def _begun(order: Order) -> Begun:
    """Building has begun: with a step to be told, unless that was told before."""
    if order.status is Status.BUILDING:
        return Begun(order, None)
    step = order.start_building()
    return Begun(step.order, step)


def _step(order: Order, attempt: Attempt | No) -> Transition:
    return order.sign(attempt) if isinstance(attempt, Attempt) else _failed(order, attempt)


def _require_kept_floor(order: Order) -> None:
    """Refuse a route whose legs together do not keep the order's terms.

    They swap at allowed venues alone, pay exactly what the order pays, need nothing of a third
    token, and yield its floor (R6).
    """
    assert order.route is not None
    assert order.min_amount_out is not None
    request, least = order.request, order.route.least_changes()
    foreign = {leg.venue for leg in order.route.legs}.difference(request.venues)
    if request.venues and foreign:
        raise Refused(
            "ROUTE_REFUSED",
            f"the route swaps at {', '.join(sorted(foreign))}, which the order does not allow",
        )
    paid, floor = -least.pop(request.token_in, 0), least.pop(request.token_out, 0)
    short = any(change < 0 for change in least.values())
    if paid != request.amount_in or floor < order.min_amount_out or short:
        raise Refused(
            "ROUTE_REFUSED",
            f"the route pays {paid} and yields {floor} at least, agreed were "
            f"{request.amount_in} and {order.min_amount_out}; what it may lack of other tokens: "
            f"{-sum(change for change in least.values() if change < 0)}",
        )


def _failed(order: Order, error: No) -> Transition:
    if isinstance(error, Unanswered):
        return order.retry_or_fail(Failure("CHAIN_UNAVAILABLE", str(error)))
    failure = Failure(error.reason, str(error))
    return order.fail(failure) if error.permanent else order.retry_or_fail(failure)
