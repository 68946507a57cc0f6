"""What the executor signs, and what it refuses to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from solders.compute_budget import set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
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


def with_a_dearer_budget(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, set_compute_unit_price(10**9)]


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
        with_a_dearer_budget,
        nothing,
    ],
)
def test_anything_beside_the_agreed_swap_is_refused(
    venue: str, garble: Callable[[list[Instruction]], list[Instruction]]
) -> None:
    agreed = terms(venue)
    honest = programs.swap_instructions(agreed)
    # Having agreed to it before is no reason to look less closely.
    transaction.compose(agreed, honest, MEMO, BLOCKHASH)
    instructions = garble(honest)

    with pytest.raises(Refused, match="not signed"):
        transaction.compose(agreed, instructions, MEMO, BLOCKHASH)


def test_an_account_that_nothing_names_but_anything_may_write_is_refused() -> None:
    agreed = terms()
    message = transaction.compose(agreed, programs.swap_instructions(agreed), MEMO, BLOCKHASH)
    keys = list(message.account_keys)
    at = len(keys) - message.header.num_readonly_unsigned_accounts
    keys.insert(at, Keypair.from_seed(bytes([77] * 32)).pubkey())

    def moved(index: int) -> int:
        return index + (index >= at)

    widened = MessageV0(
        message.header,
        keys,
        message.recent_blockhash,
        [
            CompiledInstruction(
                moved(i.program_id_index), i.data, bytes(moved(a) for a in i.accounts)
            )
            for i in message.instructions
        ],
        [],
    )
    with pytest.raises(Refused, match="may write accounts that were not agreed"):
        transaction.check(widened, agreed, MEMO)


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


@pytest.mark.parametrize("venue", ["raydium", "meteora"])
def test_no_byte_that_matters_can_be_changed_after_it_was_agreed(venue: str) -> None:
    agreed = terms(venue)
    message = transaction.compose(agreed, programs.swap_instructions(agreed), MEMO, BLOCKHASH)
    raw = to_bytes_versioned(message)
    # How many of the accounts are read only, then the keys; the chain's own word is the blockhash.
    keys = range(5, 5 + 32 * len(message.account_keys))
    blockhash = range(keys.stop, keys.stop + 32)
    free = {2, 3, *blockhash}
    if venue == "raydium":
        # The program itself looks after the fee tier, which it only reads.
        tier = message.account_keys.index(programs.CPMM_CONFIG)
        swap = bytes(message.instructions[2].accounts)
        free |= {*keys[32 * tier : 32 * (tier + 1)], raw.index(swap) + swap.index(tier)}

    agreeable = set()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with suppress(Refused, ValueError):
            transaction.check(_message(bytes(changed)), agreed, MEMO)
            agreeable.add(position)

    assert agreeable <= free
    assert agreeable >= {*blockhash}


def _message(raw: bytes) -> MessageV0:
    read = VersionedTransaction.from_bytes(b"\x01" + bytes(64) + raw).message
    if not isinstance(read, MessageV0):
        raise ValueError("not a version 0 message")
    return read


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
