"""What every kind of pool promises, whatever its curve and its fees."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins

from engine.amm.kinds import KINDS
from engine.amm.swap import Swap, SwapFailed
from tests.engine.amm.pools import (
    NOW,
    amm_v4_pools,
    amounts,
    any_pool,
    clmm_pools,
    cpmm_pools,
    damm_v2_pools,
    directions,
    dlmm_pools,
    outcome,
)

POOLS: dict[str, st.SearchStrategy[Any]] = {
    "raydium_cpmm": cpmm_pools(),
    "raydium_amm_v4": amm_v4_pools(),
    "raydium_clmm": clmm_pools(),
    "meteora_dlmm": dlmm_pools(),
    "meteora_damm_v2": damm_v2_pools(),
}
each_kind = pytest.mark.parametrize("kind", POOLS)
examples = settings(max_examples=40, deadline=None)


def test_there_are_pools_of_every_kind() -> None:
    assert POOLS.keys() == KINDS.keys()


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions, exact_in=st.booleans())
def test_the_fee_split_sums_up(
    kind: str, data: st.DataObject, amount: int, forward: bool, exact_in: bool
) -> None:
    quote = KINDS[kind].quote_exact_in if exact_in else KINDS[kind].quote_exact_out
    swap = outcome(quote, data.draw(POOLS[kind]), amount, forward, NOW)
    assume(isinstance(swap, Swap))

    taken = swap.amount_in - swap.net_in, swap.gross_out - swap.amount_out
    assert swap.fee == swap.protocol_fee + swap.fund_fee + swap.lp_fee
    assert min(swap.protocol_fee, swap.fund_fee, swap.creator_fee, *taken) >= 0
    assert sum(taken) == swap.fee + swap.creator_fee
    assert taken[0 if swap.fee_on_input else 1] >= swap.fee


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_what_is_paid_is_what_the_quote_says(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])

    swap = outcome(KINDS[kind].quote_exact_in, pool, amount, forward, NOW)
    paid = outcome(KINDS[kind].pay_exact_in, pool, amount, forward, NOW)

    if isinstance(swap, Swap):
        assert paid == (swap.amount_in, swap.amount_out, swap.net_in, swap.gross_out, swap.spot)
        assert paid.price_impact_ppm == swap.price_impact_ppm
    elif swap != "MATH_OVERFLOW":
        assert paid == swap


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_the_prepared_curve_answers_as_the_quote(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])
    curve = KINDS[kind].exact_in_curve(pool, forward, NOW)

    # Twice, and out of order: what it keeps between quotes must not matter.
    for asked in (amount, amount * 7 // 3 + 1, amount):
        swap = outcome(KINDS[kind].quote_exact_in, pool, asked, forward, NOW)
        assert curve(asked) == (swap.amount_out if isinstance(swap, Swap) else 0)


@each_kind
@examples
@given(data=st.data(), amount=amounts, more=st.integers(1, 10**9), forward=directions)
def test_who_pays_more_receives_no_less(
    kind: str, data: st.DataObject, amount: int, more: int, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])
    less = outcome(KINDS[kind].quote_exact_in, pool, amount, forward, NOW)
    most = outcome(KINDS[kind].quote_exact_in, pool, amount + more, forward, NOW)
    assume(isinstance(less, Swap) and isinstance(most, Swap))

    assert most.amount_out >= less.amount_out


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_a_round_trip_never_profits(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    there = outcome(KINDS[kind].quote_exact_in, data.draw(POOLS[kind]), amount, forward, NOW)
    assume(isinstance(there, Swap) and there.amount_out)
    back = outcome(KINDS[kind].quote_exact_in, there.pool, there.amount_out, not forward, NOW)
    assume(isinstance(back, Swap))

    assert back.amount_out <= amount


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_the_price_never_beats_the_spot(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    swap = outcome(KINDS[kind].quote_exact_in, data.draw(POOLS[kind]), amount, forward, NOW)
    assume(isinstance(swap, Swap) and swap.net_in)

    assert swap.price_impact_curve is not None
    assert swap.price_impact_total is not None
    assert 0 <= swap.price_impact_curve <= swap.price_impact_total <= 1


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_no_amount_is_paid_better_than_the_margin_promises(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])
    swap = outcome(KINDS[kind].quote_exact_in, pool, amount, forward, NOW)
    assume(isinstance(swap, Swap))

    spot, (numerator, denominator) = KINDS[kind].margin(pool, forward, NOW)
    assert spot == swap.spot
    assert swap.amount_out * denominator <= amount * numerator


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_exact_out_pays_exactly_and_inverts_exact_in(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])
    paid = outcome(KINDS[kind].quote_exact_in, pool, amount, forward, NOW)
    assume(isinstance(paid, Swap) and paid.amount_out)

    bought = outcome(KINDS[kind].quote_exact_out, pool, paid.amount_out, forward, NOW)

    assert isinstance(bought, Swap)
    assert bought.amount_out == paid.amount_out
    assert bought.amount_in <= amount + 1
    again = outcome(KINDS[kind].quote_exact_in, pool, bought.amount_in + 1, forward, NOW)
    assert again.amount_out >= paid.amount_out


@each_kind
@examples
@given(data=st.data(), amount=amounts, forward=directions)
def test_a_quote_leaves_its_pool_alone(
    kind: str, data: st.DataObject, amount: int, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])
    before = to_builtins(pool)

    first = outcome(KINDS[kind].quote_exact_in, pool, amount, forward, NOW)
    second = outcome(KINDS[kind].quote_exact_in, pool, amount, forward, NOW)

    assert to_builtins(pool) == before
    assert first == second


@examples
@given(any_pool)
def test_a_pool_is_read_back_from_its_own_fields(kind_and_pool: tuple[str, Any]) -> None:
    kind, pool = kind_and_pool

    assert KINDS[kind].load(_as_json(to_builtins(pool))) == pool


@each_kind
@examples
@given(data=st.data(), forward=directions)
def test_amounts_that_no_program_takes_are_refused(
    kind: str, data: st.DataObject, forward: bool
) -> None:
    pool = data.draw(POOLS[kind])

    for quote in (KINDS[kind].quote_exact_in, KINDS[kind].quote_exact_out):
        with pytest.raises(SwapFailed) as nothing:
            quote(pool, 0, forward, NOW)
        with pytest.raises(SwapFailed) as beyond:
            quote(pool, 2**64, forward, NOW)
        assert (nothing.value.reason, beyond.value.reason) == ("ZERO_AMOUNT", "MATH_OVERFLOW")


def _as_json(value: Any) -> Any:
    match value:
        case bool() | None:
            return value
        case int():
            return str(value)
        case dict():
            return {name: _as_json(inner) for name, inner in value.items()}
        case _:
            return [_as_json(inner) for inner in value]
