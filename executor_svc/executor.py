"""Builds, checks and signs the swap of a routed order, and sends it once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final
from uuid import UUID

import structlog
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from engine.attempt import Attempt
from engine.batch import Meeting
from engine.chain import Chain
from engine.errors import Overloaded, Refused, StaleOrder, Unanswered
from engine.failures import Failure
from engine.instructions.swap import KINDS_OF_VENUE
from engine.instructions.terms import Parties, SwapTerms
from engine.lifecycle import Status
from engine.order import Order, Transition
from engine.relay import Begun, Relay
from engine.route import Hints, Leg
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


class Executor:
    """Moves an order from a chosen route to a signature on record."""

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

    async def execute(self, order_id: UUID) -> None:
        """Take the order's next step towards a signature, if it has one.

        Safe to repeat and to race: whoever loses the order's version signs nothing that is
        ever sent. Raises StaleOrder for the loser.
        """
        order = await self._store.get(order_id)
        if order is None or order.status not in (Status.ROUTING, Status.BUILDING):
            return
        if order.past_expiry:
            await self._relay.commit(order.expire())
            return
        if self._switch.halted:
            return  # it waits, and is offered again when trading goes on
        if order.route is None:
            await self._relay.offer([order])
            return
        # Building changes nothing, so it need not wait for the commit that says we build.
        if order.status is Status.ROUTING:
            begun, attempt = await self._relay.during(order.start_building(), self._tried(order))
        else:
            begun, attempt = Begun(order, None), await self._tried(order)
        if not isinstance(attempt, Attempt):
            await self._relay.commit(begun.then(_failed(begun.order, attempt)))
            return
        # R1: on record before the first byte leaves. R2: whoever loses here has no attempt.
        try:
            signed = await self._relay.commit(begun.then(begun.order.sign(attempt)))
        except StaleOrder:
            why = await self._signing.why_halted()
            if why is not None:
                logger.warning("signing is halted; run oee reconcile --restored", why=why)
            raise
        if len(self.signed) < MAX_SIGNED:
            self.signed[attempt.signature] = signed
        await self.send(attempt)

    async def send(self, attempt: Attempt) -> None:
        """Send the recorded bytes, once more or for the first time (R3); never raises.

        Whatever the answer, only the status can tell what became of them.
        """
        try:
            await self._chain.send(attempt.transaction)
        except (Overloaded, Refused, Unanswered) as error:
            logger.debug("sending gave no acceptance", signature=attempt.signature, why=str(error))

    async def _tried(self, order: Order) -> Attempt | Refused | Unanswered:
        try:
            return await self._attempt(order)
        except (Refused, Unanswered) as error:
            return error

    async def _attempt(self, order: Order) -> Attempt:
        """A signed transaction for the order's route, not on record yet and not sent.

        Raises Refused or Unanswered; nothing is signed before everything was checked.
        """
        assert order.route is not None
        floor = _kept_floor(order)
        told = await self._told(order, order.route.legs)
        terms = [self._terms(leg, each) for leg, each in zip(order.route.legs, told, strict=True)]
        number = order.next_number
        blockhash = await self._blockhash.get()
        message = transaction.compose(
            terms,
            [each.instructions if isinstance(each, BuiltSwap) else None for each in told],
            transaction.memo_text(order, number),
            blockhash.blockhash,
        )
        try:
            await self._chain.simulate(transaction.unsigned(message))
        except Refused:
            self._blockhash.forget()
            raise
        signature, signed = transaction.sign(message, self._wallet)
        return Attempt(
            number=number,
            legs=order.route.agreed_legs,
            signature=signature,
            blockhash=blockhash.blockhash,
            last_valid_block_height=blockhash.last_valid_block_height,
            min_amount_out=floor,
            transaction=signed,
        )

    async def _told(self, order: Order, legs: Sequence[Leg]) -> Sequence[Hints | BuiltSwap]:
        """What each leg's swap is derived from.

        On the order's first try that is its hints, where the router gave it some. Every other leg
        is its venue's to build, all asked at once; the first refusal is everybody's.
        """
        for leg in legs:
            self._require_known(leg)
        is_first_try = not order.retries and not order.attempts
        hints = [leg.hints for leg in legs if is_first_try and leg.hints is not None]
        if len(hints) == len(legs):
            return hints
        order_id = str(order.order_id)
        async with self._building.away():
            if len(legs) == 1:
                return [await self._build(order_id, legs[0])]
            answers = await asyncio.gather(
                *(self._build(order_id, leg, hinted=is_first_try) for leg in legs),
                return_exceptions=True,
            )
        told: list[Hints | BuiltSwap] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            told.append(answer)
        return told

    async def _build(self, order_id: str, leg: Leg, *, hinted: bool = False) -> Hints | BuiltSwap:
        if hinted and leg.hints is not None:
            return leg.hints
        return await self._venues[leg.venue].build(
            venue_pb2.SwapOrder(
                order_id=order_id,
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


def _kept_floor(order: Order) -> int:
    """What the route's legs together yield at least; Refused unless they keep the order's terms.

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
    return floor


def _failed(order: Order, error: Refused | Unanswered) -> Transition:
    if isinstance(error, Unanswered):
        return order.retry_or_fail(Failure("CHAIN_UNAVAILABLE", str(error)))
    failure = Failure(error.reason, str(error))
    return order.fail(failure) if error.permanent else order.retry_or_fail(failure)
