"""The chain's rules, block by block."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from dex_sim import chain as chain_module
from dex_sim.chain import Chain, Rules
from dex_sim.chance import Chance, Range
from dex_sim.execution import LAMPORTS
from dex_sim.ledger import open_ledger
from dex_sim.market import SOL
from dex_sim.node import Commitment, Node
from dex_sim.transaction import Reason, Refused, Transaction, read_transaction
from engine.programs import SwapTerms, memo, swap_instructions

RULES = Rules(
    skipped_slot_percent=20,
    confirmed_after_slots=2,
    finalized_after_slots=31,
    drift_ppm=300,
    execution_slippage_bps=Range(50, 100),
    nodes=3,
    node_lag_slots=1,
)
STEADY = replace(RULES, skipped_slot_percent=0, drift_ppm=0, nodes=1, node_lag_slots=0)
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


def swap(chain: Chain, amount_in: int = 10**9, memo_text: str = "") -> Transaction:
    pool = next(p for p in chain.accounts.pools.values() if p.mint_a == SOL.mint)
    terms = SwapTerms(
        venue=pool.venue,
        pool=Pubkey.from_string(pool.address),
        mint_in=Pubkey.from_string(pool.mint_a),
        mint_out=Pubkey.from_string(pool.mint_b),
        wallet=KEY.pubkey(),
        amount_in=amount_in,
        min_amount_out=1,
    )
    return signed(chain, *swap_instructions(terms), memo(memo_text))


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

    assert (chain.sighting(transaction.signature) is not None) is landed
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


def test_what_is_forgotten_in_memory_is_still_in_the_history(open_chain: OpenChain) -> None:
    chain = open_chain(STEADY)
    transaction = swap(chain)
    chain.accept(transaction)
    advance(chain, 600)

    [status] = node(chain).statuses([transaction.signature], search_history=True)
    assert chain.sighting(transaction.signature) is None
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

    assert behind.statuses([transaction.signature], search_history=True) == [None]
    assert behind.transactions([transaction.signature]) == [None]
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
    assert chain.sighting(transaction.signature) is None


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

    statuses = node(chain).statuses([unknown.signature, starved.signature], search_history=False)
    assert [s and s.failure and s.failure.reason for s in statuses] == [
        Reason.PROGRAM_FAILED,
        Reason.PROGRAM_FAILED,
    ]
    assert chain.accounts.balance(WALLET, LAMPORTS) == 10**12 - 2 * 5000
