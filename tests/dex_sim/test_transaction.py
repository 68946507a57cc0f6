"""What the chain reads off the wire, though it read something like it before."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from dex_sim.transaction import Reason, Refused, read_transaction
from engine.instructions.swap import accounts_of, swap_instruction
from engine.programs import memo
from tests import swaps

KEY = Keypair.from_seed(bytes(range(32)))
OTHER = Keypair.from_seed(bytes(32))


def signed(kind: str = "raydium_cpmm") -> bytes:
    terms = replace(swaps.terms(kind), parties=swaps.parties(kind, wallet=KEY.pubkey()))
    message = MessageV0.try_compile(
        KEY.pubkey(), [swap_instruction(terms), memo("memo")], [], Hash(bytes([7] * 32))
    )
    return bytes(VersionedTransaction(message, [KEY]))


def refusal(raw: bytes) -> Reason | None:
    """Why these bytes are not taken as what their signers signed."""
    try:
        read_transaction(raw).verify()
    except Refused as refused:
        return refused.failure.reason
    return None


@pytest.mark.parametrize("kind", swaps.KINDS)
def test_no_byte_of_a_transaction_that_was_taken_can_be_changed(kind: str) -> None:
    raw = signed(kind)
    first = read_transaction(raw)
    first.verify()

    taken = [
        position
        for position in range(len(raw))
        if refusal(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]) is None
    ]

    assert taken == []
    assert refusal(raw) is None
    assert read_transaction(raw) == first


@pytest.mark.parametrize("kind", swaps.KINDS)
def test_a_swap_is_read_as_it_was_written(kind: str) -> None:
    [swap] = read_transaction(signed(kind)).message.swaps

    parties = swaps.parties(kind, wallet=KEY.pubkey())
    assert (swap.kind, swap.pool) == (kind, str(parties.pool))
    assert (swap.amount_in, swap.min_amount_out) == (1000, 990)
    agreed = [account.pubkey for account in accounts_of(parties)]
    assert [account.pubkey for account in swap.accounts] == agreed


def test_a_message_that_was_taken_is_not_taken_under_another_signature() -> None:
    raw = signed()
    message = raw[65:]
    read_transaction(raw).verify()

    for signature in (Signature.default(), OTHER.sign_message(message), KEY.sign_message(b"")):
        assert refusal(b"\x01" + bytes(signature) + message) is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("count", [0, 2, 3, 127, 128, 255])
def test_a_message_that_was_taken_is_not_taken_with_another_number_of_signatures(
    count: int,
) -> None:
    raw = signed()
    read_transaction(raw).verify()

    assert refusal(bytes([count]) + raw[1:]) is Reason.MALFORMED
    assert refusal(bytes([count]) + raw[1:65] * count + raw[65:]) is Reason.MALFORMED


def test_a_part_of_a_transaction_is_none_and_neither_is_one_with_a_tail() -> None:
    raw = signed()
    read_transaction(raw).verify()

    cut = {refusal(raw[:length]) for length in range(len(raw))}

    assert cut == {Reason.MALFORMED}
    assert refusal(raw + b"!") is Reason.MALFORMED
