"""What the executor signs, and what it refuses to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from msgspec.structs import replace
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
from engine.instructions.swap import swap_instruction
from engine.instructions.terms import SwapTerms
from executor_svc import transaction
from tests import builders, swaps
from tests.swaps import WALLET, terms

STRANGER = Keypair.from_seed(bytes(32)).pubkey()
BLOCKHASH = str(Hash.new_unique())
MEMO = "oee:order:1:hash"

# A split of one swap, and one through a third token.
SPLIT = [terms("raydium_cpmm", 600, 590), terms("meteora_dlmm", 400, 390)]
TWO_HOPS = [
    SwapTerms(swaps.parties("raydium_amm_v4", 21, builders.SOL, builders.RAY), 1000, 50),
    SwapTerms(swaps.parties("meteora_damm_v2", 22, builders.RAY, builders.USDC), 50, 990),
]
AGREED = {
    **{kind: [terms(kind)] for kind in swaps.KINDS},
    "split": SPLIT,
    "two hops": TWO_HOPS,
}
agreements = pytest.mark.parametrize("agreed", AGREED.values(), ids=AGREED)


def built(agreed: Sequence[SwapTerms]) -> list[Instruction]:
    return [swap_instruction(each) for each in agreed]


def composed(agreed: Sequence[SwapTerms], memo: str = MEMO) -> MessageV0:
    """As nobody was asked to build it."""
    return transaction.compose(agreed, [None] * len(agreed), memo, BLOCKHASH)


def held(agreed: Sequence[SwapTerms], instructions: Sequence[Instruction]) -> MessageV0:
    """What is composed when the first leg's venue built all of these, and the others nothing."""
    none: list[Sequence[Instruction]] = [()] * (len(agreed) - 1)
    return transaction.compose(agreed, [instructions, *none], MEMO, BLOCKHASH)


@agreements
def test_the_agreed_swaps_are_signed_by_the_wallet_alone(agreed: list[SwapTerms]) -> None:
    message = composed(agreed)

    signature, signed = transaction.sign(message, WALLET)

    read = VersionedTransaction.from_bytes(signed)
    assert read.verify_with_results() == [True]
    assert str(read.signatures[0]) == signature
    assert transaction.sign(message, WALLET) == (signature, signed)


@agreements
def test_the_swaps_are_called_in_their_order_between_compute_budget_and_memo(
    agreed: list[SwapTerms],
) -> None:
    message = composed(agreed)

    called = [message.account_keys[each.program_id_index] for each in message.instructions]
    swaps_called = [each.program_id for each in built(agreed)]
    budget = programs.COMPUTE_BUDGET_PROGRAM
    assert called == [budget, budget, *swaps_called, programs.MEMO_PROGRAM]


def drained(swap: list[Instruction]) -> list[Instruction]:
    paid = TransferParams(from_pubkey=WALLET.pubkey(), to_pubkey=STRANGER, lamports=1)
    return [*swap, transfer(paid)]


def twice(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, *swap]


def with_another_memo(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, programs.memo("oee:another:1:hash")]


def with_another_signer(swap: list[Instruction]) -> list[Instruction]:
    *others, last = swap
    meta = AccountMeta(STRANGER, is_signer=True, is_writable=False)
    return [*others, Instruction(last.program_id, last.data, [*last.accounts, meta])]


def into_another_account(swap: list[Instruction]) -> list[Instruction]:
    *others, last = swap
    stolen = programs.token_account(STRANGER, Pubkey.from_string(builders.USDC))
    own = programs.token_account(WALLET.pubkey(), Pubkey.from_string(builders.USDC))
    metas = [
        AccountMeta(stolen if a.pubkey == own else a.pubkey, a.is_signer, a.is_writable)
        for a in last.accounts
    ]
    return [*others, Instruction(last.program_id, last.data, metas)]


def with_memo_writing_an_account(swap: list[Instruction]) -> list[Instruction]:
    meta = AccountMeta(STRANGER, is_signer=False, is_writable=True)
    return [*swap, Instruction(programs.COMPUTE_BUDGET_PROGRAM, b"", [meta])]


def with_another_program(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, Instruction(STRANGER, b"anything", [])]


def with_a_dearer_budget(swap: list[Instruction]) -> list[Instruction]:
    return [*swap, set_compute_unit_price(10**9)]


def nothing(swap: list[Instruction]) -> list[Instruction]:
    return []


def in_another_order(swap: list[Instruction]) -> list[Instruction]:
    first, *others = swap
    return [*others, programs.memo(MEMO), first]


def not_all(swap: list[Instruction]) -> list[Instruction]:
    return swap[1:]


def one_in_place_of_another(swap: list[Instruction]) -> list[Instruction]:
    return [*swap[:-1], swap_instruction(replace(TWO_HOPS[0], min_amount_out=0))]


def with_an_account_too_many(swap: list[Instruction]) -> list[Instruction]:
    *others, last = swap
    meta = AccountMeta(STRANGER, is_signer=False, is_writable=False)
    return [*others, Instruction(last.program_id, last.data, [*last.accounts, meta])]


def with_more_accounts_than_a_message_numbers(swap: list[Instruction]) -> list[Instruction]:
    metas = [AccountMeta(swaps.address(number), False, False) for number in range(100, 356)]
    return [*swap, Instruction(swap[-1].program_id, b"", metas)]


@agreements
@pytest.mark.parametrize(
    ("garble", "words"),
    [
        (drained, "programs that were not agreed: 1111"),
        (twice, "another swap than the one agreed, or none, or several"),
        (with_another_memo, "its memo is not the attempt's"),
        (with_another_signer, "signers other than the wallet"),
        (into_another_account, "another swap than agreed: account . is"),
        (with_memo_writing_an_account, "may write accounts that were not agreed"),
        (with_another_program, f"programs that were not agreed: {STRANGER}"),
        (with_a_dearer_budget, "compute budget is not the one agreed"),
        (in_another_order, "not signed: it"),
        (with_an_account_too_many, "accounts, not"),
        (one_in_place_of_another, "another swap than"),
        (not_all, "another swap than the one agreed, or none, or several"),
        (nothing, "another swap than the one agreed, or none, or several"),
        (with_more_accounts_than_a_message_numbers, "index overflowed"),
    ],
)
def test_anything_beside_the_agreed_swaps_is_refused_and_told(
    agreed: list[SwapTerms],
    garble: Callable[[list[Instruction]], list[Instruction]],
    words: str,
) -> None:
    # Having agreed to it before is no reason to look less closely.
    composed(agreed)
    instructions = garble(built(agreed))

    with pytest.raises(Refused, match="not signed") as refused:
        held(agreed, instructions)

    assert refused.value.reason == "INSTRUCTIONS_REFUSED"
    assert re.search(words, str(refused.value))


def test_a_wallet_said_to_be_writable_changes_nothing_as_it_pays_the_fee() -> None:
    [swap] = built([terms()])
    wallet = AccountMeta(WALLET.pubkey(), is_signer=True, is_writable=True)
    accounts = [wallet if a.pubkey == WALLET.pubkey() else a for a in swap.accounts]

    message = held([terms()], [Instruction(swap.program_id, swap.data, accounts)])

    assert message == composed([terms()])


def test_an_account_that_nothing_names_but_anything_may_write_is_refused() -> None:
    message = composed([terms()])
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
        transaction.check(widened, [terms()], MEMO)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (terms(amount_in=1001), "leg 1 is another swap than agreed: it pays 1001, not 1000"),
        (terms(floor=989), "its floor is 989, not 990"),
        (terms(floor=991), "its floor is 991, not 990"),
        (terms("meteora_dlmm"), "another swap than the one agreed"),
        (SwapTerms(swaps.parties(number=8), 1000, 990), "account 3 is"),
        (
            SwapTerms(swaps.parties(mint_in=builders.USDC, mint_out=builders.SOL), 1000, 990),
            "account 4 is",
        ),
        (SwapTerms(swaps.parties()._replace(config=1), 1000, 990), "account 2 is"),
    ],
    ids=["more in", "lower floor", "higher floor", "program", "pool", "way round", "fee tier"],
)
def test_another_swap_than_agreed_is_refused(other: SwapTerms, words: str) -> None:
    with pytest.raises(Refused, match=words):
        held([terms()], built([other]))


def test_a_lower_floor_of_the_second_leg_is_told_too() -> None:
    lower = [SPLIT[0], replace(SPLIT[1], min_amount_out=1)]

    with pytest.raises(Refused, match="leg 2 is another swap than agreed: its floor is 1, not 390"):
        held(SPLIT, built(lower))


@pytest.mark.parametrize(
    "hint", [{"market": None}, {"market": swaps.address(8)}], ids=["no market", "another market"]
)
def test_a_pool_that_does_not_follow_from_the_market_is_not_signed(
    hint: dict[str, object],
) -> None:
    agreed = terms("raydium_amm_v4")
    told = replace(agreed, parties=agreed.parties._replace(**hint))  # type: ignore[arg-type]

    with pytest.raises(Refused, match=r"not signed: the pool .* is not that of the market"):
        held([told], built([agreed]))


def test_swaps_that_do_not_fit_into_one_transaction_are_refused_with_their_size() -> None:
    arrays = tuple(range(8))
    too_many = [
        SwapTerms(swaps.parties("raydium_clmm", number)._replace(arrays=arrays), 10, 9)
        for number in (31, 32)
    ]

    with pytest.raises(Refused, match=r"take 1\d\d\d bytes together, .* at most 1232") as refused:
        composed(too_many)

    assert (refused.value.reason, refused.value.permanent) == ("TRANSACTION_TOO_LARGE", False)


@agreements
def test_no_byte_but_the_blockhash_can_be_changed_after_it_was_agreed(
    agreed: list[SwapTerms],
) -> None:
    message = composed(agreed)
    raw = to_bytes_versioned(message)
    # The header and how many keys, then the keys; the chain's own word is the blockhash.
    blockhash = set(range(5 + 32 * len(message.account_keys), 37 + 32 * len(message.account_keys)))

    agreeable = set()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with suppress(Refused, ValueError):
            transaction.check(_message(bytes(changed)), agreed, MEMO)
            agreeable.add(position)

    assert agreeable == blockhash


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
            composed([terms()], transaction.memo_text(order, number)),
            WALLET,
        )[0]
        for number in (1, 2, 3, 4)
    }

    assert len(signatures) == 4
