"""What programs ask of the instructions that call them, on a chain whose blocks the test makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from msgspec.structs import replace
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from dex_sim.chain import Chain
from dex_sim.chance import Chance, Range
from dex_sim.execution import LAMPORTS
from dex_sim.history import Landed
from dex_sim.ledger_file import open_ledger
from dex_sim.market import RAY, SOL, TOKENS, USDC, opening_pools
from dex_sim.pool import Pool, Unfillable
from dex_sim.program import arrays_to_name, further_units, parties_of
from dex_sim.transaction import BUDGET_UNITS, MEMO_UNITS, SWAP_UNITS, Reason, read_transaction
from engine.instructions.arrays import ARRAYS_OF_KIND
from engine.instructions.swap import LAYOUTS, swap_instruction
from engine.instructions.terms import SwapTerms
from engine.network_cost import compute_unit_limit, fits
from tests import swaps
from tests.dex_sim.test_chain import STEADY

KEY = swaps.WALLET
WALLET = str(KEY.pubkey())
PLENTY = 10**15


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with ExitStack() as opened:
        ledger = opened.enter_context(open_ledger(tmp_path))
        chain = Chain(ledger, Chance(1), replace(STEADY, execution_slippage_bps=Range(0, 0)))
        for mint in (LAMPORTS, *TOKENS):
            chain.fund(WALLET, mint, PLENTY)
        yield chain


def pool_of(chain: Chain, kind: str, one: str = SOL.mint, other: str = USDC.mint) -> Pool:
    pools = chain.accounts.pools.values()
    return next(pool for pool in pools if pool.kind == kind and pool.trades(one, other))


def terms(chain: Chain, pool: Pool, mint_in: str, amount_in: int, floor: int = 1) -> SwapTerms:
    """A swap with the arrays that it asks for as the pool stands."""
    arrays = arrays_to_name(pool, mint_in, amount_in, chain.time)
    parties = parties_of(pool.facts, KEY.pubkey(), mint_in == pool.mint_a, arrays)
    return SwapTerms(parties, amount_in, floor)


def landed(chain: Chain, instructions: Sequence[Instruction], limit: int = 1_400_000) -> Landed:
    """What became of these instructions in the next block."""
    message = MessageV0.try_compile(
        KEY.pubkey(),
        [set_compute_unit_limit(limit), *instructions],
        [],
        Hash.from_string(chain.head.blockhash),
    )
    transaction = read_transaction(bytes(VersionedTransaction(message, [KEY])))
    chain.accept(transaction)
    chain.advance()
    return chain.ledger.landed([transaction.signature])[transaction.signature]


def failed(result: Landed, reason: Reason, words: str) -> bool:
    return result.failure is not None and (
        (result.failure.reason, words in result.failure.message) == (reason, True)
    )


def yielded(chain: Chain) -> list[int]:
    return [each.fill.amount_out for each in chain.ledger.fills(0, 100)]


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("mint_in", [SOL.mint, USDC.mint])
def test_a_swap_as_agreed_goes_through_either_way(chain: Chain, kind: str, mint_in: str) -> None:
    pool = pool_of(chain, kind)
    amount_in = TOKENS[mint_in].worth(1000)

    result = landed(chain, [swap_instruction(terms(chain, pool, mint_in, amount_in))])

    assert result.failure is None
    assert yielded(chain) == [pool.offer(mint_in, amount_in, chain.time).amount_out]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_no_account_of_a_swap_can_be_another(chain: Chain, kind: str) -> None:
    pool = pool_of(chain, kind)
    honest = swap_instruction(terms(chain, pool, SOL.mint, 10**9))
    stranger = Keypair.from_seed(bytes([66] * 32)).pubkey()
    assert landed(chain, [honest]).failure is None

    for place, account in enumerate(honest.accounts):
        accounts = honest.accounts
        # The stranger does not sign: nobody signs in a stranger's place.
        accounts[place] = AccountMeta(stranger, False, account.is_writable)
        result = landed(chain, [Instruction(honest.program_id, honest.data, accounts)])
        assert failed(result, Reason.PROGRAM_FAILED, ""), place

    assert len(yielded(chain)) == 1


@pytest.mark.parametrize("kind", LAYOUTS)
def test_an_account_that_is_written_must_be_said_to_be(chain: Chain, kind: str) -> None:
    pool = pool_of(chain, kind)
    honest = swap_instruction(terms(chain, pool, SOL.mint, 10**9))
    written = [place for place, account in enumerate(honest.accounts) if account.is_writable]
    assert landed(chain, [honest]).failure is None

    for place in written:
        accounts = honest.accounts
        accounts[place] = AccountMeta(accounts[place].pubkey, False, False)
        result = landed(chain, [Instruction(honest.program_id, honest.data, accounts)])
        assert failed(result, Reason.PROGRAM_FAILED, "not the one"), place


@pytest.mark.parametrize("kind", LAYOUTS)
def test_accounts_missing_or_too_many_fail(chain: Chain, kind: str) -> None:
    pool = pool_of(chain, kind)
    honest = swap_instruction(terms(chain, pool, SOL.mint, 10**9))
    surplus = [*honest.accounts, AccountMeta(KEY.pubkey(), True, False)]
    missing = honest.accounts[: LAYOUTS[kind].fixed - 1]

    for accounts in (surplus, missing):
        result = landed(chain, [Instruction(honest.program_id, honest.data, accounts)])
        assert failed(result, Reason.PROGRAM_FAILED, "")


@pytest.mark.parametrize("kind", ARRAYS_OF_KIND)
def test_a_swap_that_crosses_into_an_array_it_does_not_name_fails(chain: Chain, kind: str) -> None:
    pool, amount_in, agreed = crossing(chain, kind)
    arrays = agreed.parties.arrays
    without_it = replace(agreed, parties=agreed.parties._replace(arrays=arrays[:1]))

    few = landed(chain, [swap_instruction(without_it)])
    enough = landed(chain, [swap_instruction(agreed)])

    assert failed(few, Reason.PROGRAM_FAILED, "goes through arrays that it does not name")
    assert enough.failure is None
    assert yielded(chain) == [pool.offer(SOL.mint, amount_in, chain.time).amount_out]


def crossing(chain: Chain, kind: str) -> tuple[Pool, int, SwapTerms]:
    """A swap of SOL that leaves the array in which the pool's price stands."""
    for address in sorted(chain.accounts.pools):
        pool = chain.accounts.pools[address]
        if pool.kind != kind or SOL.mint not in (pool.mint_a, pool.mint_b):
            continue
        arrays = ARRAYS_OF_KIND[kind]
        for dollars in (100_000 * 2**n for n in range(10)):
            swap = terms(chain, pool, SOL.mint, SOL.worth(dollars))
            try:
                after = pool.offer(SOL.mint, swap.amount_in, chain.time).pool.state
            except Unfillable:
                break
            if arrays.first(after) != arrays.first(pool.state):
                return pool, swap.amount_in, swap
    raise AssertionError("no pool's swap leaves its array")


def test_a_pool_that_is_not_there_fails(chain: Chain) -> None:
    elsewhere = swaps.terms("raydium_cpmm")

    result = landed(chain, [swap_instruction(elsewhere)])

    assert failed(result, Reason.PROGRAM_FAILED, "no such pool")


# ── transactions of several swaps ─────────────────────────────────────────────────────────────

Plan = Callable[[Chain], list[SwapTerms]]


def split(chain: Chain) -> list[SwapTerms]:
    """Two pools of the same pair, at two venues."""
    return [
        terms(chain, pool_of(chain, kind), SOL.mint, amount_in)
        for kind, amount_in in (("raydium_amm_v4", 2 * 10**9), ("meteora_dlmm", 10**9))
    ]


def two_hops(chain: Chain) -> list[SwapTerms]:
    """SOL to RAY, and what that yields at least on to USDC."""
    first, second = (
        pool_of(chain, "raydium_clmm", SOL.mint, RAY.mint),
        pool_of(chain, "meteora_damm_v2", RAY.mint, USDC.mint),
    )
    through = first.offer(SOL.mint, 10**9, chain.time).amount_out - 7
    return [
        terms(chain, first, SOL.mint, 10**9, through),
        terms(chain, second, RAY.mint, through),
    ]


@pytest.mark.parametrize("plan", [split, two_hops])
def test_swaps_of_one_transaction_land_together(chain: Chain, plan: Plan) -> None:
    legs = plan(chain)

    result = landed(chain, [swap_instruction(each) for each in legs])

    assert result.failure is None
    assert len(yielded(chain)) == 2
    assert chain.accounts.balance(WALLET, SOL.mint) == PLENTY - sum(
        each.amount_in for each in legs if str(each.parties.mint_in) == SOL.mint
    )
    # A hop leaves what the first swap yields beyond what the second one pays.
    assert chain.accounts.balance(WALLET, RAY.mint) == PLENTY + (7 if plan is two_hops else 0)


@pytest.mark.parametrize("plan", [split, two_hops])
@pytest.mark.parametrize("late", [0, 1])
def test_when_one_misses_its_floor_none_of_them_happens(
    chain: Chain, plan: Plan, late: int
) -> None:
    legs = plan(chain)
    legs[late] = replace(legs[late], min_amount_out=PLENTY)
    pools = dict(chain.accounts.pools)

    result = landed(chain, [swap_instruction(each) for each in legs])

    assert failed(result, Reason.SLIPPAGE_EXCEEDED, "the floor is")
    assert yielded(chain) == []
    assert chain.accounts.pools == pools
    assert {chain.accounts.balance(WALLET, mint) for mint in TOKENS} == {PLENTY}


# ── compute units ─────────────────────────────────────────────────────────────────────────────


def most_units(kind: str) -> int:
    """What the dearest swap in any pool of this kind takes, as the market opens."""
    most = 0
    for pool in (each for each in opening_pools() if each.kind == kind):
        for mint_in, reserve in ((pool.mint_a, pool.reserve_a), (pool.mint_b, pool.reserve_b)):
            for percent in (1, 10, 50, 90, 95, 99, 100, 105, 110):
                try:
                    after = pool.offer(mint_in, reserve * percent // 100, 0).pool
                except Unfillable:
                    continue
                most = max(most, further_units(pool, after))
    return SWAP_UNITS[kind] + most


def test_no_transaction_that_fits_takes_more_compute_units_than_it_asks_for() -> None:
    units = {kind: most_units(kind) for kind in LAYOUTS}
    frame = 2 * BUDGET_UNITS + MEMO_UNITS

    for legs in (1, 2, 3):
        for kinds in combinations_with_replacement(LAYOUTS, legs):
            if fits(kinds, tokens=2):
                asked = compute_unit_limit(kinds)
                assert frame + sum(units[kind] for kind in kinds) <= asked <= 1_400_000
    assert all(units[kind] > SWAP_UNITS[kind] for kind in ARRAYS_OF_KIND)


@pytest.mark.parametrize("kind", ARRAYS_OF_KIND)
def test_a_swap_that_goes_further_than_its_compute_units_fails(chain: Chain, kind: str) -> None:
    pool, amount_in, agreed = crossing(chain, kind)
    after = pool.offer(SOL.mint, amount_in, chain.time).pool
    needed = BUDGET_UNITS + SWAP_UNITS[kind] + further_units(pool, after)

    short = landed(chain, [swap_instruction(agreed)], limit=needed - 1)
    enough = landed(chain, [swap_instruction(agreed)], limit=needed)

    assert failed(short, Reason.PROGRAM_FAILED, f"needs {needed} compute units")
    assert enough.failure is None
