"""What the executor signs, and what it refuses to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from engine import programs
from engine.errors import Refused
from engine.programs import SwapTerms
from executor_svc import transaction
from tests import builders

WALLET = Keypair.from_seed(bytes(range(32)))
STRANGER = Keypair.from_seed(bytes(32)).pubkey()
BLOCKHASH = str(Hash.new_unique())
MEMO = "oee:order:1:hash"


def terms(venue: str = "raydium", amount_in: int = 1000, floor: int = 990) -> SwapTerms:
    return SwapTerms(
        venue=venue,
        pool=Keypair.from_seed(bytes([7] * 32)).pubkey(),
        mint_in=Pubkey.from_string(builders.SOL),
        mint_out=Pubkey.from_string(builders.USDC),
        wallet=WALLET.pubkey(),
        amount_in=amount_in,
        min_amount_out=floor,
    )


@pytest.mark.parametrize("venue", ["raydium", "meteora"])
def test_the_agreed_swap_is_signed_by_the_wallet_alone(venue: str) -> None:
    agreed = terms(venue)
    message = transaction.compose(agreed, programs.swap_instructions(agreed), MEMO, BLOCKHASH)

    signature, signed = transaction.sign(message, WALLET)

    read = VersionedTransaction.from_bytes(signed)
    assert read.verify_with_results() == [True]
    assert str(read.signatures[0]) == signature
    assert transaction.sign(message, WALLET) == (signature, signed)


def drained(swap: list[Instruction]) -> list[Instruction]:
    paid = TransferParams(from_pubkey=WALLET.pubkey(), to_pubkey=STRANGER, lamports=1)
    return [*swap, transfer(paid)]


def twice(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, *swap]


def with_another_memo(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, programs.memo("oee:another:1:hash")]


def with_another_signer(swap: list[Instruction]) -> list[Instruction]:
    [first] = swap
    meta = AccountMeta(STRANGER, is_signer=True, is_writable=False)
    return [Instruction(first.program_id, first.data, [*first.accounts, meta])]


def into_another_account(swap: list[Instruction]) -> list[Instruction]:
    [first] = swap
    stolen = programs.token_account(STRANGER, Pubkey.from_string(builders.USDC))
    own = programs.token_account(WALLET.pubkey(), Pubkey.from_string(builders.USDC))
    metas = [
        AccountMeta(stolen if a.pubkey == own else a.pubkey, a.is_signer, a.is_writable)
        for a in first.accounts
    ]
    return [Instruction(first.program_id, first.data, metas)]


def with_memo_writing_an_account(swap: list[Instruction]) -> list[Instruction]:
    meta = AccountMeta(STRANGER, is_signer=False, is_writable=True)
    return [*swap, Instruction(programs.COMPUTE_BUDGET_PROGRAM, b"", [meta])]


def with_another_program(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, Instruction(STRANGER, b"anything", [])]


def nothing(swap: list[Instruction]) -> list[Instruction]:
    return []


@pytest.mark.parametrize("venue", ["raydium", "meteora"])
@pytest.mark.parametrize(
    "garble",
    [
        drained,
        twice,
        with_another_memo,
        with_another_signer,
        into_another_account,
        with_memo_writing_an_account,
        with_another_program,
        nothing,
    ],
)
def test_anything_beside_the_agreed_swap_is_refused(
    venue: str, garble: Callable[[list[Instruction]], list[Instruction]]
) -> None:
    agreed = terms(venue)
    instructions = garble(programs.swap_instructions(agreed))

    with pytest.raises(Refused, match="not signed"):
        transaction.compose(agreed, instructions, MEMO, BLOCKHASH)


@pytest.mark.parametrize(
    "built",
    [
        terms(amount_in=1001),
        terms(floor=989),
        terms(floor=991),
        terms("meteora"),
        SwapTerms(
            "raydium",
            terms().pool,
            terms().mint_out,
            terms().mint_in,
            terms().wallet,
            1000,
            990,
        ),
    ],
    ids=["more in", "lower floor", "higher floor", "another program", "the other way round"],
)
def test_another_swap_than_agreed_is_refused(built: SwapTerms) -> None:
    with pytest.raises(Refused, match="another swap"):
        transaction.compose(terms(), programs.swap_instructions(built), MEMO, BLOCKHASH)


def test_the_memo_names_order_and_attempt_and_fits_the_key() -> None:
    order = builders.new_order("my-key")

    memo = transaction.memo_text(order, 2)

    prefix, order_id, number, digest = memo.split(":")
    assert (prefix, order_id, number) == ("oee", str(order.order_id), "2")
    other = builders.new_order("my-key")
    assert transaction.memo_text(other, 1).endswith(digest)
    assert not transaction.memo_text(builders.new_order("another-key"), 1).endswith(digest)


def test_attempts_of_one_order_never_share_a_signature() -> None:
    order = builders.new_order()
    signatures = {
        transaction.sign(
            transaction.compose(
                terms(),
                programs.swap_instructions(terms()),
                transaction.memo_text(order, number),
                BLOCKHASH,
            ),
            WALLET,
        )[0]
        for number in (1, 2, 3, 4)
    }

    assert len(signatures) == 4
