"""What is to be signed for an order: composed from its route, and of nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from solders.message import MessageV0
from solders.pubkey import Pubkey

from engine.batch import Meeting
from engine.chain import Blockhash, No
from engine.errors import Refused
from engine.instructions.swap import KINDS_OF_VENUE
from engine.instructions.terms import Parties, SwapTerms
from engine.order import Order
from engine.route import Hints, Leg, Route
from engine.v1 import venue_pb2
from engine.venue import BuiltSwap, Venue
from executor_svc import transaction

# Swaps that venues build go one way afterwards: simulated, recorded and sent together, unless a
# venue takes longer than the others by this.
PATIENCE_SECONDS: Final = 0.005


class Draft(NamedTuple):
    """What is signed if the chain has nothing against it."""

    order: Order
    route: Route
    message: MessageV0
    blockhash: Blockhash


class Drafts:
    """Makes drafts for one wallet, of swaps at these venues."""

    def __init__(self, venues: Mapping[str, Venue], wallet: Pubkey) -> None:
        self._venues = venues
        self._wallet = wallet
        self._building = Meeting(PATIENCE_SECONDS)

    async def told(self, order: Order) -> Sequence[Hints | BuiltSwap] | No:
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
        hints = hints_of(order)
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

    def drafted(
        self, order: Order, told: Sequence[Hints | BuiltSwap], blockhash: Blockhash
    ) -> Draft | Refused:
        """The draft of an order's next attempt, or why there is none."""
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
                wallet=str(self._wallet),
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
                wallet=self._wallet,
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


def hints_of(order: Order) -> list[Hints]:
    """The hints of all legs of the order's route, if this is its first try; else none."""
    assert order.route is not None
    legs = order.route.legs
    hints = [leg.hints for leg in legs if leg.hints is not None]
    return hints if len(hints) == len(legs) and _is_first_try(order) else []


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
