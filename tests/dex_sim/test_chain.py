"""The chain's rules, block by block."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from dex_sim import chain as chain_module
from dex_sim.chain import Chain, Rules, clock_at
from dex_sim.chance import Chance, Range
from dex_sim.execution import CROWD, LAMPORTS, Outcome
from dex_sim.history import Block, Landed
from dex_sim.ledger_file import FILE_NAME, open_ledger
from dex_sim.market import SOL, TOKENS, opening_pools
from dex_sim.node import Commitment, Node
from dex_sim.pool import Pool
from dex_sim.program import arrays_to_name, parties_of
from dex_sim.transaction import Reason, Refused, Transaction, read_transaction
from engine.amm.kinds import KINDS
from engine.errors import StartupError
from engine.instructions.swap import swap_instruction
from engine.instructions.terms import SwapTerms
from engine.programs import memo
from engine.v1 import sim_pb2 as pb

RULES = Rules(
    skipped_slot_percent=20,
    confirmed_after_slots=2,
    finalized_after_slots=31,
    drift_ppm=300,
    trades_a_slot=4,
    execution_slippage_bps=Range(50, 100),
    nodes=3,
    node_lag_slots=1,
)
STEADY = replace(
    RULES, skipped_slot_percent=0, drift_ppm=0, trades_a_slot=0, nodes=1, node_lag_slots=0
)
KEY = Keypair.from_seed(bytes(range(32)))
WALLET = str(KEY.pubkey())

OpenChain = Callable[..., Chain]


@pytest.fixture
def open_chain(tmp_path: Path) -> Iterator[OpenChain]:
    with ExitStack() as opened:

        def open_one(rules: Rules, seed: int = 1, name: str = "data") -> Chain:
            ledger = opened.enter_context(open_ledger(tmp_path / name))
            chain = Chain(ledger, Chance(seed), rules)
            chain.fund(WALLET, SOL.mint, 10**12)
            chain.fund(WALLET, LAMPORTS, 10**12)
            return chain

        yield open_one


def signed(chain: Chain, *instructions: Instruction, blockhash: str = "") -> Transaction:
    message = MessageV0.try_compile(
        KEY.pubkey(),
        list(instructions),
        [],
        Hash.from_string(blockhash or chain.head.blockhash),
    )
    return read_transaction(bytes(VersionedTransaction(message, [KEY])))


def swap(
    chain: Chain, amount_in: int = 10**9, memo_text: str = "", min_amount_out: int = 1
) -> Transaction:
    pool = next(p for p in chain.accounts.pools.values() if p.mint_a == SOL.mint)
    terms = terms_of(pool, amount_in, min_amount_out)
    return signed(chain, swap_instruction(terms), memo(memo_text))


def terms_of(pool: Pool, amount_in: int, min_amount_out: int = 1) -> SwapTerms:
    """A swap that pays the pool's first token."""
    now = clock_at(1_000)
    arrays = arrays_to_name(pool, pool.mint_a, amount_in, now)
    return SwapTerms(parties_of(pool.facts, KEY.pubkey(), True, arrays), amount_in, min_amount_out)


def advance(chain: Chain, blocks: int) -> None:
    for _ in range(blocks):
        chain.advance()


def node(chain: Chain) -> Node:
    return Node("node-1", chain.heads[0], chain)


def schedule(chain: Chain) -> list[object]:
    story: list[object] = []
    for n in range(100):
        node(chain).send(swap(chain, memo_text=str(n)))
        chain.advance()
        story.append((chain.head, tuple(chain.heads), dict(chain.accounts.pools)))
    return [*story, chain.ledger.fills(0, 1000)]


def test_a_seed_repeats_the_whole_schedule(open_chain: OpenChain) -> None:
    rules = replace(RULES, node_lag_slots=0)
    one = schedule(open_chain(rules, seed=7, name="one"))
    two = schedule(open_chain(rules, seed=7, name="two"))
    other = schedule(open_chain(rules, seed=8, name="other"))

    assert one == two
    assert one != other


@pytest.mark.parametrize(("blocks", "landed"), [(149, True), (150, False)])
def test_a_transaction_lands_up_to_its_last_valid_block_height_and_never_after(
    open_chain: OpenChain, blocks: int, landed: bool
) -> None:
    chain = open_chain(STEADY)
    transaction = swap(chain)
    advance(chain, blocks)

    chain.accept(transaction)
    chain.advance()

    assert (chain.history.sighting(transaction.signature) is not None) is landed
    assert bool(chain.ledger.fills(0, 10)) is landed
    assert not chain.is_pending(transaction.signature)


def test_a_landed_transaction_never_lands_again_while_its_blockhash_lives(
    open_chain: OpenChain,
) -> None:
    chain = open_chain(STEADY)
    transaction = swap(chain)
    for _ in range(160):
        chain.accept(transaction)
        chain.advance()

    assert len(chain.ledger.fills(0, 10)) == 1


def held(chain: Chain) -> dict[str, int]:
    """Of each mint, what the wallet, the crowd and all pools hold together."""
    total = {
        mint: sum(chain.accounts.balance(owner, mint) for owner in (WALLET, CROWD))
        for mint in TOKENS
    }
    for pool in chain.accounts.pools.values():
        total[pool.mint_a] += pool.reserve_a
        total[pool.mint_b] += pool.reserve_b
    return total


def final_results(chain: Chain, signatures: list[str]) -> dict[str, Landed]:
    found = zip(signatures, node(chain).look_up(signatures, search_history=True), strict=True)
    return {
        signature: sighting
        for signature, sighting in found
        if sighting and node(chain).commitment(sighting.slot) is Commitment.FINALIZED
    }


@pytest.mark.parametrize("seed", range(5))
def test_whatever_forks_do_nothing_is_made_or_lost_and_what_is_final_stays(
    open_chain: OpenChain, seed: int
) -> None:
    chain = open_chain(replace(STEADY, skipped_slot_percent=20), seed)
    before = held(chain)
    for fault in (
        pb.Fault(percent=20, hold=pb.HoldTransaction(blocks=5)),
        pb.Fault(percent=20, repeat=pb.RepeatTransaction()),
        pb.Fault(percent=20, slip=pb.SlipSwap()),
        *(
            pb.Fault(
                percent=30,
                fork=pb.SwitchFork(result=result, after_slots=5, restored_after_slots=20),
            )
            for result in (
                pb.FORK_RESULT_DROPPED,
                pb.FORK_RESULT_RESTORED,
                pb.FORK_RESULT_FLIPPED,
                pb.FORK_RESULT_FLIPPED,
            )
        ),
    ):
        chain.faults.inject(fault)
    signatures: list[str] = []
    final: dict[str, Landed] = {}
    for n in range(100):
        transaction = swap(chain, memo_text=f"oee:{n}:1:key", min_amount_out=2)
        node(chain).send(transaction)
        signatures.append(transaction.signature)
        chain.advance()
        now = final_results(chain, signatures)
        assert now.items() >= final.items()
        assert held(chain) == before
        remembered = {s: landed for s in signatures if (landed := chain.history.sighting(s))}
        assert chain.ledger.landed(signatures) == remembered
        final = now
    advance(chain, 300)

    final = final_results(chain, signatures)
    fills = chain.ledger.fills(0, 1000)
    assert all(report.hits for report in chain.faults.reports())
    assert {fill.signature: fill.slot for fill in fills} == {
        signature: sighting.slot
        for signature, sighting in final.items()
        if sighting.failure is None
    }
    assert len({fill.signature for fill in fills}) == len(fills)
    assert held(chain) == before
    assert chain.ledger.balances() == chain.accounts.balances
    assert chain.ledger.pool_states() == {
        pool.address: (pool.text, pool.reserve_a, pool.reserve_b)
        for pool in chain.accounts.pools.values()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_swap_yields_what_the_program_computes_from_the_state_where_it_lands(
    open_chain: OpenChain, kind: str
) -> None:
    chain = open_chain(replace(RULES, skipped_slot_percent=0, execution_slippage_bps=Range(0, 0)))
    address = next(p.address for p in opening_pools() if p.kind == kind and p.mint_a == SOL.mint)
    quoted = chain.accounts.pools[address].offer(SOL.mint, 10**9, chain.time)
    yielded: list[int] = []
    for _ in range(40):
        before = chain.accounts.pools[address]
        chain.accept(signed(chain, swap_instruction(terms_of(before, 10**9 + len(yielded)))))
        chain.advance()
        swap = KINDS[kind].quote_exact_in(before.state, 10**9 + len(yielded), True, chain.time)
        yielded.append(swap.amount_out)

    assert [fill.fill.amount_out for fill in chain.ledger.fills(0, 100)] == yielded
    assert quoted.amount_out not in yielded[20:], "the market never moved"


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_swap_yields_less_than_the_pool_pays_goes_to_somebody(
    open_chain: OpenChain, kind: str
) -> None:
    chain = open_chain(replace(STEADY, execution_slippage_bps=Range(70, 70)))
    supply = held(chain)
    pool = next(p for p in chain.accounts.pools.values() if p.kind == kind)
    chain.fund(WALLET, pool.mint_a, 10**9)
    supply[pool.mint_a] += 10**9
    offer = pool.offer(pool.mint_a, 10**9, clock_at(chain.head.slot + 1))
    chain.accept(signed(chain, swap_instruction(terms_of(pool, 10**9))))
    chain.advance()

    [fill] = chain.ledger.fills(0, 10)
    assert fill.fill.amount_out == offer.amount_out * 9930 // 10_000
    assert chain.accounts.pools[pool.address] == offer.pool
    assert held(chain) == supply


def test_swaps_of_one_transaction_meet_the_pool_as_the_one_before_left_it(
    open_chain: OpenChain,
) -> None:
    chain = open_chain(replace(STEADY, execution_slippage_bps=Range(0, 0)))
    pool = next(p for p in chain.accounts.pools.values() if p.mint_a == SOL.mint)
    now = clock_at(chain.head.slot + 1)
    first = pool.offer(SOL.mint, 10**11, now)
    second = first.pool.offer(SOL.mint, 10**11, now)
    terms = terms_of(pool, 10**11, second.amount_out)
    one_too_high = replace(terms, min_amount_out=second.amount_out + 1)
    chain.accept(signed(chain, swap_instruction(terms), swap_instruction(one_too_high)))
    chain.advance()
    none = dict(chain.accounts.pools), chain.ledger.fills(0, 10)
    chain.accept(signed(chain, swap_instruction(terms), swap_instruction(terms)))
    chain.advance()

    assert none == ({p.address: p for p in opening_pools()}, [])
    both = [fill.fill.amount_out for fill in chain.ledger.fills(0, 10)]
    assert both == [first.amount_out, second.amount_out]
    assert chain.accounts.pools[pool.address] == second.pool


def test_pools_go_on_where_they_were_after_a_restart(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        chain = Chain(ledger, Chance(1), RULES)
        advance(chain, 100)
        pools, time = dict(chain.accounts.pools), chain.time
    with open_ledger(tmp_path) as ledger:
        again = Chain(ledger, Chance(1), RULES)

        assert again.accounts.pools == pools != {p.address: p for p in opening_pools()}
        assert again.time == time == clock_at(again.head.slot)


def test_a_chain_whose_pools_had_no_states_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as old:
        old.execute("CREATE TABLE pools (address TEXT PRIMARY KEY, volatility_ppm INTEGER)")

    with pytest.raises(StartupError, match=f"{tmp_path}.*--fresh"), open_ledger(tmp_path):
        pass


def test_only_pools_that_changed_are_written(
    open_chain: OpenChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = open_chain(STEADY)
    written: list[set[str]] = []
    append = chain.ledger.append

    def watched(
        block: Block,
        outcomes: Sequence[Outcome],
        balances: Mapping[tuple[str, str], int],
        pools: Mapping[str, Pool],
        *,
        keep_blocks: int,
    ) -> None:
        written.append(set(pools))
        append(block, outcomes, balances, pools, keep_blocks=keep_blocks)

    monkeypatch.setattr(chain.ledger, "append", watched)
    transaction = swap(chain)
    chain.advance()
    chain.accept(transaction)
    chain.advance()

    assert written == [set(), {transaction.message.swaps[0].pool}]


def test_a_fork_that_may_strike_once_takes_back_one_of_many(open_chain: OpenChain) -> None:
    chain = open_chain(STEADY)
    dropped = pb.SwitchFork(result=pb.FORK_RESULT_DROPPED)
    chain.faults.inject(pb.Fault(times=1, fork=dropped))
    for n in range(5):
        chain.accept(swap(chain, memo_text=str(n)))
    advance(chain, 2)

    assert [fill.memo for fill in chain.ledger.fills(0, 10)] == ["1", "2", "3", "4"]


def test_a_fork_spares_what_one_node_calls_final_though_another_lags(
    open_chain: OpenChain,
) -> None:
    chain = open_chain(replace(STEADY, nodes=2))
    chain.faults.inject(pb.Fault(node="node-2", lag=pb.LagNode(frozen=True)))
    transaction = swap(chain)
    chain.accept(transaction)
    advance(chain, 32)
    before = final_results(chain, [transaction.signature])
    dropped = pb.SwitchFork(result=pb.FORK_RESULT_DROPPED)
    chain.faults.inject(pb.Fault(fork=dropped))
    advance(chain, 10)

    assert before
    assert final_results(chain, [transaction.signature]) == before
    assert chain.heads[0].slot - chain.heads[1].slot == 42


def test_a_node_may_stand_still_for_longer_than_blocks_are_otherwise_kept(
    open_chain: OpenChain,
) -> None:
    chain = open_chain(replace(STEADY, nodes=2))
    advance(chain, 50)
    chain.faults.inject(pb.Fault(node="node-2", lag=pb.LagNode(frozen=True)))
    frozen = Node("node-2", chain.heads[1], chain)
    height = frozen.block(Commitment.FINALIZED).height
    transaction = swap(chain)
    chain.accept(transaction)
    advance(chain, 1_000)

    later = Node("node-2", chain.heads[1], chain)
    assert later.head == frozen.head
    assert later.block(Commitment.FINALIZED).height == height
    assert later.look_up([transaction.signature], search_history=True) == [None]
    assert later.balances(WALLET)[SOL.mint] == 10**12

    chain.faults.clear_all()
    advance(chain, 1)
    assert chain.heads[1] == chain.head


def test_what_is_forgotten_in_memory_is_still_in_the_history(open_chain: OpenChain) -> None:
    chain = open_chain(STEADY)
    transaction = swap(chain)
    chain.accept(transaction)
    advance(chain, 600)

    [status] = node(chain).look_up([transaction.signature], search_history=True)
    assert chain.history.sighting(transaction.signature) is None
    assert status is not None
    assert status.slot == chain_module.GENESIS_SLOT + 1


def test_a_node_that_lags_knows_neither_newer_blockhashes_nor_what_landed_since(
    open_chain: OpenChain,
) -> None:
    chain = open_chain(STEADY)
    behind = node(chain)
    transaction = swap(chain)
    chain.accept(transaction)
    advance(chain, 3)

    behind.send(transaction)
    with pytest.raises(Refused) as refused:
        behind.send(swap(chain))

    assert behind.look_up([transaction.signature], search_history=True) == [None]
    assert behind.landed(WALLET, min_slot=0, before="", limit=10) == []
    assert behind.balances(WALLET)[SOL.mint] == 10**12
    assert refused.value.failure.reason is Reason.BLOCKHASH_NOT_FOUND
    assert not chain.is_pending(transaction.signature)


def test_commitment_follows_depth(open_chain: OpenChain) -> None:
    chain = open_chain(STEADY)
    advance(chain, 100)
    head = chain.head

    heights = [node(chain).block(commitment).height for commitment in Commitment]

    assert heights == [head.height, head.height - 2, head.height - 31]
    assert [node(chain).commitment(head.slot - depth) for depth in (1, 2, 30, 31)] == [
        Commitment.PROCESSED,
        Commitment.CONFIRMED,
        Commitment.CONFIRMED,
        Commitment.FINALIZED,
    ]


def test_work_is_done_once_every_node_sees_it_finalized(open_chain: OpenChain) -> None:
    chain = open_chain(STEADY)
    chain.accept(swap(chain))
    advance(chain, 31)
    nearly = chain.busy
    chain.advance()

    assert nearly
    assert not chain.busy


def test_a_block_that_cannot_be_written_never_happened(
    open_chain: OpenChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = open_chain(replace(STEADY, drift_ppm=300))
    transaction = swap(chain)
    chain.accept(transaction)
    before = chain.head, dict(chain.accounts.pools), dict(chain.accounts.balances)

    def full_disk(*args: object, **more: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(chain.ledger, "append", full_disk)
    with pytest.raises(sqlite3.OperationalError):
        chain.advance()

    assert (chain.head, chain.accounts.pools, chain.accounts.balances) == before
    assert chain.history.sighting(transaction.signature) is None


def test_a_full_mempool_turns_away(open_chain: OpenChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "MEMPOOL_LIMIT", 1)
    chain = open_chain(STEADY)
    node(chain).send(swap(chain))

    with pytest.raises(Refused) as refused:
        node(chain).send(swap(chain, memo_text="another"))

    assert refused.value.failure.reason is Reason.NODE_UNAVAILABLE


def test_a_block_takes_no_more_than_its_limit_and_the_next_takes_the_rest(
    open_chain: OpenChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_module, "BLOCK_LIMIT", 2)
    chain = open_chain(STEADY)
    for n in range(3):
        node(chain).send(swap(chain, memo_text=str(n)))

    chain.advance()
    first = len(chain.ledger.fills(0, 10))
    chain.advance()

    assert (first, len(chain.ledger.fills(0, 10))) == (2, 3)


def test_unknown_programs_and_too_small_budgets_land_as_errors(open_chain: OpenChain) -> None:
    chain = open_chain(STEADY)
    unknown = signed(chain, Instruction(Keypair().pubkey(), b"", []))
    starved = signed(chain, set_compute_unit_limit(100), memo("long story"))
    for transaction in (unknown, starved):
        node(chain).send(transaction)
    chain.advance()

    statuses = node(chain).look_up([unknown.signature, starved.signature], search_history=False)
    assert [s and s.failure and s.failure.reason for s in statuses] == [
        Reason.PROGRAM_FAILED,
        Reason.PROGRAM_FAILED,
    ]
    assert chain.accounts.balance(WALLET, LAMPORTS) == 10**12 - 2 * 5000
