"""Raydium AMM v4: x * y = k on vault balances net of the profit still to be taken.

Program 675kPX9MHTjS2zt1qfr1NYHuzeLXfQM9H24wFSUt1Mp8, as in raydium-amm
`program/src/{processor,math,state}.rs` without the order book. Amounts are u64, intermediates u128;
the fee rounds up, outputs down. The whole fee stays in the reserve: the protocol's part is taken
later, when liquidity changes, and is no matter of a swap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine.amm.fixed_point import ceil_div
from engine.amm.snapshot import Fields
from engine.amm.swap import Margin, Paid, Swap, no_liquidity, no_output, require_amount, require_u64


class Pool(msgspec.Struct, frozen=True):
    """AmmInfo's fees and need_take_pnl with the balances of its vaults."""

    vault_coin: int
    vault_pc: int
    swap_fee_numerator: int
    swap_fee_denominator: int
    need_take_pnl_coin: int = 0
    need_take_pnl_pc: int = 0

    def reserves(self, zero_for_one: bool) -> tuple[int, int]:
        """Of the token paid in, and of the one paid out; INSUFFICIENT_LIQUIDITY if one is empty."""
        coin = self.vault_coin - self.need_take_pnl_coin
        pc = self.vault_pc - self.need_take_pnl_pc
        if coin <= 0 or pc <= 0:
            no_liquidity()
        return (coin, pc) if zero_for_one else (pc, coin)


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of AmmInfo, with `vault_coin` and `vault_pc`.

    Instead of the vaults it may have reserve_in and reserve_out, for a swap of the coin.
    Raises InvalidSnapshot.
    """
    fields = Fields(data)
    fees = fields.inner("fees") if "fees" in fields else fields
    pnl = fields.inner("state_data") if "state_data" in fields else fields
    denominator = fees.between(1, 2**64 - 1, "swap_fee_denominator")
    return Pool(
        vault_coin=fields.unsigned(64, "vault_coin", "reserve_in"),
        vault_pc=fields.unsigned(64, "vault_pc", "reserve_out"),
        swap_fee_numerator=fees.between(0, denominator - 1, "swap_fee_numerator"),
        swap_fee_denominator=denominator,
        need_take_pnl_coin=pnl.unsigned(64, "need_take_pnl_coin", default=0),
        need_take_pnl_pc=pnl.unsigned(64, "need_take_pnl_pc", default=0),
    )


def quote_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int = 0) -> Swap[Pool]:
    """Pay exactly `amount_in` of the coin, or of pc. `now` does not matter to this program.

    net = amount_in - ceil(amount_in * fee), out = floor(net * R_out / (R_in + net)).
    Raises SwapFailed.
    """
    paid = pay_exact_in(pool, amount_in, zero_for_one)
    return _swap(pool, zero_for_one, amount_in, paid.net_in, paid.amount_out)


def pay_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int = 0) -> Paid:
    """quote_exact_in without the pool afterwards. Raises SwapFailed."""
    require_amount(amount_in)
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    net = amount_in - ceil_div(amount_in * pool.swap_fee_numerator, pool.swap_fee_denominator)
    amount_out = net * reserve_out // (reserve_in + net)
    if amount_out == 0:
        no_output()
    return Paid(amount_in, amount_out, net, amount_out, (reserve_out, reserve_in))


def quote_exact_out(pool: Pool, amount_out: int, zero_for_one: bool, now: int = 0) -> Swap[Pool]:
    """Receive exactly `amount_out`. Raises SwapFailed.

    net = ceil(R_in * out / (R_out - out)), amount_in = ceil(net / (1 - fee)).
    """
    require_amount(amount_out)
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    if amount_out >= reserve_out:
        no_liquidity()
    net = ceil_div(reserve_in * amount_out, reserve_out - amount_out)
    kept = pool.swap_fee_denominator - pool.swap_fee_numerator
    amount_in = require_u64("amount in", ceil_div(net * pool.swap_fee_denominator, kept))
    return _swap(pool, zero_for_one, amount_in, net, amount_out)


def exact_in_curve(pool: Pool, zero_for_one: bool, now: int = 0) -> Callable[[int], int]:
    """Amount out for any u64 amount in, 0 where the program refuses; made for many amounts."""
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    denominator = pool.swap_fee_denominator
    kept = denominator - pool.swap_fee_numerator

    def amount_out(amount_in: int) -> int:
        net = amount_in * kept // denominator
        return net * reserve_out // (reserve_in + net)

    return amount_out


def margin(pool: Pool, zero_for_one: bool, now: int = 0) -> Margin:
    """The prices that swaps start from. Raises SwapFailed."""
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    denominator = pool.swap_fee_denominator
    kept = denominator - pool.swap_fee_numerator
    return Margin((reserve_out, reserve_in), (reserve_out * kept, reserve_in * denominator))


def _swap(pool: Pool, zero_for_one: bool, amount_in: int, net: int, amount_out: int) -> Swap[Pool]:
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    paid_coin, paid_pc = (amount_in, -amount_out) if zero_for_one else (-amount_out, amount_in)
    after = Pool(
        require_u64("coin vault", pool.vault_coin + paid_coin),
        require_u64("pc vault", pool.vault_pc + paid_pc),
        pool.swap_fee_numerator,
        pool.swap_fee_denominator,
        pool.need_take_pnl_coin,
        pool.need_take_pnl_pc,
    )
    fee = amount_in - net
    return Swap(
        amount_in=amount_in,
        amount_out=amount_out,
        net_in=net,
        gross_out=amount_out,
        spot=(reserve_out, reserve_in),
        fee=fee,
        fee_on_input=True,
        protocol_fee=0,
        fund_fee=0,
        lp_fee=fee,
        creator_fee=0,
        pool=after,
    )
