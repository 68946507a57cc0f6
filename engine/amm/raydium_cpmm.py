"""Raydium CPMM: x * y = k on vault balances net of the fees accrued in them.

Program CPMMoo8L3F4NbTegBCKVNunggL7H1ZpdTHKxQB5qKP1C, as in raydium-cp-swap
`curve/{fees,constant_product,calculator}.rs` and `instructions/swap_base_{input,output}.rs`.
Amounts are u64, intermediates u128, rates parts per million. Fees round up, outputs down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from engine.amm.fixed_point import ceil_div
from engine.amm.snapshot import Fields
from engine.amm.swap import (
    Margin,
    Paid,
    Swap,
    SwapFailed,
    no_liquidity,
    no_output,
    overflow,
    require_amount,
    require_u64,
)

RATE: Final = 1_000_000
# creator_fee_on: whichever token is paid in, or always the same one.
ON_INPUT: Final = 0
ON_TOKEN_0: Final = 1
ON_TOKEN_1: Final = 2


class Pool(msgspec.Struct, frozen=True):
    """PoolState with its AmmConfig's rates and the balances of its vaults."""

    vault_0: int
    vault_1: int
    trade_fee_rate: int
    protocol_fee_rate: int  # of the trade fee
    fund_fee_rate: int  # of the trade fee
    creator_fee_rate: int = 0
    enable_creator_fee: bool = False
    creator_fee_on: int = ON_INPUT
    protocol_fees_token_0: int = 0
    protocol_fees_token_1: int = 0
    fund_fees_token_0: int = 0
    fund_fees_token_1: int = 0
    creator_fees_token_0: int = 0
    creator_fees_token_1: int = 0

    @property
    def reserve_0(self) -> int:
        """What of vault 0 belongs to the curve."""
        return (
            self.vault_0
            - self.protocol_fees_token_0
            - self.fund_fees_token_0
            - self.creator_fees_token_0
        )

    @property
    def reserve_1(self) -> int:
        """What of vault 1 belongs to the curve."""
        return (
            self.vault_1
            - self.protocol_fees_token_1
            - self.fund_fees_token_1
            - self.creator_fees_token_1
        )

    def reserves(self, zero_for_one: bool) -> tuple[int, int]:
        """Of the token paid in, and of the one paid out; INSUFFICIENT_LIQUIDITY if one is empty."""
        first, second = self.reserve_0, self.reserve_1
        if first <= 0 or second <= 0:
            no_liquidity()
        return (first, second) if zero_for_one else (second, first)

    def creator_rate(self) -> int:
        """What the creator takes: nothing unless the pool was created with it."""
        return self.creator_fee_rate if self.enable_creator_fee else 0

    def creator_on_input(self, zero_for_one: bool) -> bool:
        """Whether the creator's fee is in the token paid in."""
        return (
            self.creator_fee_on == ON_INPUT or (self.creator_fee_on == ON_TOKEN_0) is zero_for_one
        )


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of PoolState and AmmConfig, with `vault_0` and `vault_1`.

    Instead of the vaults it may have what the curve works on: reserve_0 and reserve_1, or
    reserve_in and reserve_out for a swap of token 0. Raises InvalidSnapshot.
    """
    fields = Fields(data)
    accrued = {
        f"{whose}_fees_token_{side}": fields.unsigned(
            64, f"{whose}_fees_token_{side}", f"accrued_{whose}_{side}", default=0
        )
        for whose in ("protocol", "fund", "creator")
        for side in (0, 1)
    }

    def vault(side: int, role: str) -> int:
        if f"vault_{side}" in fields:
            return fields.unsigned(64, f"vault_{side}")
        owed = sum(amount for name, amount in accrued.items() if name.endswith(str(side)))
        return owed + fields.unsigned(64, f"reserve_{side}", f"reserve_{role}")

    on_input = fields.flag("creator_fee_on_input", default=True)
    creator_fee_rate = fields.between(0, RATE - 1, "creator_fee_rate", default=0)
    return Pool(
        vault_0=vault(0, "in"),
        vault_1=vault(1, "out"),
        trade_fee_rate=fields.between(0, RATE - 1, "trade_fee_rate"),
        protocol_fee_rate=fields.between(0, RATE, "protocol_fee_rate"),
        fund_fee_rate=fields.between(0, RATE, "fund_fee_rate"),
        creator_fee_rate=creator_fee_rate,
        enable_creator_fee=fields.flag("enable_creator_fee", default=creator_fee_rate > 0),
        creator_fee_on=fields.between(
            ON_INPUT, ON_TOKEN_1, "creator_fee_on", default=ON_INPUT if on_input else ON_TOKEN_1
        ),
        **accrued,
    )


def quote_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int = 0) -> Swap[Pool]:
    """Pay exactly `amount_in`. `now` does not matter to this program.

    The fees on the input are rounded up once, together, and then split; net = amount_in - fees,
    gross = floor(net * R_out / (R_in + net)). Raises SwapFailed.
    """
    paid, trade_fee, creator_fee = _pay(pool, amount_in, zero_for_one)
    _, amount_out, net, gross, _ = paid
    return _swap(pool, zero_for_one, amount_in, net, gross, amount_out, trade_fee, creator_fee)


def pay_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int = 0) -> Paid:
    """quote_exact_in without the pool afterwards. Raises SwapFailed."""
    return _pay(pool, amount_in, zero_for_one)[0]


def _pay(pool: Pool, amount_in: int, zero_for_one: bool) -> tuple[Paid, int, int]:
    """With the trade fee and the creator's."""
    require_amount(amount_in)
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    trade, creator = pool.trade_fee_rate, pool.creator_rate()
    if pool.creator_on_input(zero_for_one):
        fees = ceil_div(amount_in * (trade + creator), RATE)
        creator_fee = _creator_part(fees, trade, creator)
        net = amount_in - fees
        gross = net * reserve_out // (reserve_in + net)
        trade_fee, amount_out = fees - creator_fee, gross
    else:
        trade_fee = ceil_div(amount_in * trade, RATE)
        net = amount_in - trade_fee
        gross = net * reserve_out // (reserve_in + net)
        creator_fee = ceil_div(gross * creator, RATE)
        amount_out = gross - creator_fee
    if amount_out <= 0:
        no_output()
    paid = Paid(amount_in, amount_out, net, gross, (reserve_out, reserve_in))
    return paid, trade_fee, creator_fee


def quote_exact_out(pool: Pool, amount_out: int, zero_for_one: bool, now: int = 0) -> Swap[Pool]:
    """Receive exactly `amount_out`; net = ceil(R_in * gross / (R_out - gross)). Raises SwapFailed.

    The current program charges one unit where an earlier one rounded a tiny input down to zero.
    """
    require_amount(amount_out)
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    trade, creator = pool.trade_fee_rate, pool.creator_rate()
    on_input = pool.creator_on_input(zero_for_one)
    gross = amount_out if on_input else ceil_div(amount_out * RATE, RATE - creator)
    if gross >= reserve_out:
        no_liquidity()
    net = ceil_div(reserve_in * gross, reserve_out - gross)
    if on_input:
        if trade + creator >= RATE:
            overflow(f"trade_fee_rate + creator_fee_rate {trade + creator}")
        amount_in = ceil_div(net * RATE, RATE - trade - creator)
        creator_fee = _creator_part(amount_in - net, trade, creator)
        trade_fee = amount_in - net - creator_fee
    else:
        amount_in = ceil_div(net * RATE, RATE - trade)
        creator_fee, trade_fee = gross - amount_out, amount_in - net
    require_u64("amount in", amount_in)
    return _swap(pool, zero_for_one, amount_in, net, gross, amount_out, trade_fee, creator_fee)


def exact_in_curve(pool: Pool, zero_for_one: bool, now: int = 0) -> Callable[[int], int]:
    """Amount out for any u64 amount in, 0 where the program refuses; made for many amounts."""
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    creator, on_input = pool.creator_rate(), pool.creator_on_input(zero_for_one)
    rate = pool.trade_fee_rate + (creator if on_input else 0)
    if on_input and rate == 0:
        return lambda amount_in: 0

    # floor(a * (1 - rate)) is a - ceil(a * rate).
    def amount_out(amount_in: int) -> int:
        net = amount_in * (RATE - rate) // RATE
        gross = net * reserve_out // (reserve_in + net)
        return gross if on_input else gross * (RATE - creator) // RATE

    return amount_out


def margin(pool: Pool, zero_for_one: bool, now: int = 0) -> Margin:
    """The prices that swaps start from. Raises SwapFailed."""
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    trade, creator = pool.trade_fee_rate, pool.creator_rate()
    if pool.creator_on_input(zero_for_one):
        kept = (RATE - trade - creator) * RATE
    else:
        kept = (RATE - trade) * (RATE - creator)
    return Margin((reserve_out, reserve_in), (reserve_out * kept, reserve_in * RATE * RATE))


def _creator_part(fees: int, trade: int, creator: int) -> int:
    if trade + creator == 0:
        # The program divides by the sum of the rates before it looks at them.
        raise SwapFailed("ZERO_TRADING_TOKENS", "a pool without any fee cannot be swapped in")
    return fees * creator // (trade + creator)


def _swap(
    pool: Pool,
    zero_for_one: bool,
    amount_in: int,
    net: int,
    gross: int,
    amount_out: int,
    trade_fee: int,
    creator_fee: int,
) -> Swap[Pool]:
    reserve_in, reserve_out = pool.reserves(zero_for_one)
    protocol_fee = trade_fee * pool.protocol_fee_rate // RATE
    fund_fee = trade_fee * pool.fund_fee_rate // RATE
    if protocol_fee + fund_fee > trade_fee:
        overflow("protocol_fee_rate + fund_fee_rate")
    creator_on_0 = pool.creator_on_input(zero_for_one) is zero_for_one
    vault_0, vault_1 = (amount_in, -amount_out) if zero_for_one else (-amount_out, amount_in)
    protocol_0, protocol_1 = (protocol_fee, 0) if zero_for_one else (0, protocol_fee)
    fund_0, fund_1 = (fund_fee, 0) if zero_for_one else (0, fund_fee)
    creator_0, creator_1 = (creator_fee, 0) if creator_on_0 else (0, creator_fee)
    after = Pool(
        require_u64("vault 0", pool.vault_0 + vault_0),
        require_u64("vault 1", pool.vault_1 + vault_1),
        pool.trade_fee_rate,
        pool.protocol_fee_rate,
        pool.fund_fee_rate,
        pool.creator_fee_rate,
        pool.enable_creator_fee,
        pool.creator_fee_on,
        require_u64("protocol fees", pool.protocol_fees_token_0 + protocol_0),
        require_u64("protocol fees", pool.protocol_fees_token_1 + protocol_1),
        require_u64("fund fees", pool.fund_fees_token_0 + fund_0),
        require_u64("fund fees", pool.fund_fees_token_1 + fund_1),
        require_u64("creator fees", pool.creator_fees_token_0 + creator_0),
        require_u64("creator fees", pool.creator_fees_token_1 + creator_1),
    )
    return Swap(
        amount_in=amount_in,
        amount_out=amount_out,
        net_in=net,
        gross_out=gross,
        spot=(reserve_out, reserve_in),
        fee=trade_fee,
        fee_on_input=True,
        protocol_fee=protocol_fee,
        fund_fee=fund_fee,
        lp_fee=trade_fee - protocol_fee - fund_fee,
        creator_fee=creator_fee,
        pool=after,
    )
