"""Scores of venues, from a real record of what their attempts came to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.attempt import Resolution
from engine.lifecycle import Status
from engine.order import Order, Transition
from engine.route import MAX_SCORE_PPM, Route, RouteDecision
from engine.store import Store
from engine.venue_scores import ENOUGH_ATTEMPTS, VenueScores, weigh
from tests import builders
from tests.engine.test_store import execute

QUOTED = 225_000_000


async def settled(store: Store, venue: str, received: int | None) -> Order:
    """An order whose one attempt at `venue` received so much, or never landed."""
    order = (await store.add(builders.new_order(slippage_bps=5000))).order

    async def take(transition: Transition) -> Order:
        return (await store.save(transition)).order

    order = await take(order.start_routing())
    legs = [
        replace(builders.leg(QUOTED // 2, 1), venue=name, amount_in=750_000_000)
        for name in venue.split("+")
    ]
    route = Route(tuple(legs), QUOTED)
    order = await take(order.choose_route(RouteDecision((), "for the test", route, QUOTED // 2)))
    order = await take(order.start_building())
    order = await take(order.sign(builders.attempt(order)))
    if received is None:
        ended = order.resolve(Resolution.EXPIRED_UNLANDED, builders.EVIDENCE, builders.FAILURE)
        return await take(ended)
    order = await take(order.confirm(replace(builders.fill(order), amount_out=received)))
    return await take(order.finalize(builders.EVIDENCE))


@pytest.fixture
async def scores(store: Store) -> VenueScores:
    return VenueScores(store)


async def test_a_venue_is_scored_by_what_was_received_against_what_was_quoted(
    store: Store, scores: VenueScores
) -> None:
    for _ in range(ENOUGH_ATTEMPTS):
        await settled(store, "meteora", QUOTED - QUOTED // 2_500)
        await settled(store, "raydium", QUOTED + QUOTED // 5_000)

    await scores.look()

    meteora, raydium = scores.scores["meteora"], scores.scores["raydium"]
    assert (meteora.attempts, meteora.realised_ppm, meteora.failed_ppm) == (
        ENOUGH_ATTEMPTS,
        -400,
        0,
    )
    assert raydium.realised_ppm == 200
    assert meteora.score_ppm < raydium.score_ppm


async def test_attempts_that_swapped_nothing_count_against_their_venue(
    store: Store, scores: VenueScores
) -> None:
    for _ in range(ENOUGH_ATTEMPTS // 2):
        await settled(store, "meteora", QUOTED)
        await settled(store, "meteora", None)

    await scores.look()

    assert scores.scores["meteora"].failed_ppm == 500_000
    assert scores.scores["meteora"].realised_ppm == 0
    assert scores.scores["meteora"].score_ppm == -MAX_SCORE_PPM


async def test_of_a_route_over_several_venues_only_the_failures_are_anybodys(
    store: Store, scores: VenueScores
) -> None:
    await settled(store, "meteora+raydium", QUOTED // 2)
    await settled(store, "meteora+raydium", None)

    await scores.look()

    assert {
        name: (s.attempts, s.failed_ppm, s.realised_ppm) for name, s in scores.scores.items()
    } == {
        "meteora": (2, 500_000, 0),
        "raydium": (2, 500_000, 0),
    }


async def test_too_short_a_past_weighs_nothing(store: Store, scores: VenueScores) -> None:
    for _ in range(ENOUGH_ATTEMPTS - 1):
        await settled(store, "meteora", QUOTED // 2)

    await scores.look()

    assert scores.scores["meteora"].realised_ppm == -500_000
    assert scores.scores["meteora"].score_ppm == 0


async def test_a_live_attempt_is_no_past_yet(store: Store, scores: VenueScores) -> None:
    order = (await store.add(builders.new_order())).order
    for step in builders.steps(order, Status.SUBMITTED):
        await store.save(step)

    await scores.look()

    assert scores.scores == {}


@pytest.mark.parametrize(
    ("realised", "failed", "latency"),
    [(10**9, 0, 0), (-(10**9), 10**6, 10**9), (0, 10**6, 0), (0, 0, 10**12)],
)
def test_no_past_weighs_more_than_the_bound(realised: int, failed: int, latency: int) -> None:
    assert abs(weigh(realised, failed, latency)) == MAX_SCORE_PPM


def test_worse_pasts_weigh_less() -> None:
    assert weigh(0, 0, 0) == 0
    assert weigh(50, 0, 0) > weigh(40, 0, 0) > weigh(40, 20_000, 0)
    assert weigh(0, 0, 200_000) > weigh(0, 0, 400_000)


async def test_however_much_more_than_quoted_was_received_it_is_a_score(
    store: Store, scores: VenueScores
) -> None:
    order = await settled(store, "meteora", QUOTED)
    absurd = f"quoted_amount_out = 1, amount_out = {2**64 - 1}"
    await execute(store, f"UPDATE orders SET {absurd} WHERE order_id = '{order.order_id}'")

    await scores.look()

    assert scores.scores["meteora"].realised_ppm == 1_000_000
