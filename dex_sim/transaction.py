"""A transaction as the chain reads it off the wire."""

from __future__ import annotations

import struct
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from solders.instruction import AccountMeta
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import SanitizeError, VersionedTransaction

from engine import programs
from engine.instructions.swap import KIND_OF_PROGRAM, LAYOUTS, VENUE_OF_KIND, read_amounts

LAMPORTS_A_SIGNATURE: Final = 5000
DEFAULT_UNITS_AN_INSTRUCTION: Final = 200_000
MAX_UNITS: Final = 1_400_000
MAX_WIRE_BYTES: Final = 1232

# Compute units as measured on the real programs.
BUDGET_UNITS: Final = 150
MEMO_UNITS: Final = 5_000
# A swap that stays in its bin, and crosses no tick.
SWAP_UNITS: Final = {
    "raydium_cpmm": 33_000,
    "raydium_amm_v4": 22_000,
    "raydium_clmm": 70_000,
    "meteora_dlmm": 42_000,
    "meteora_damm_v2": 14_000,
}

_SET_UNIT_LIMIT: Final = 2
_SET_UNIT_PRICE: Final = 3


class Reason(StrEnum):
    """How a transaction goes wrong; the words are those of the wire."""

    MALFORMED = "MALFORMED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    BLOCKHASH_NOT_FOUND = "BLOCKHASH_NOT_FOUND"
    ALREADY_PROCESSED = "ALREADY_PROCESSED"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    SLIPPAGE_EXCEEDED = "SLIPPAGE_EXCEEDED"
    PROGRAM_FAILED = "PROGRAM_FAILED"
    NODE_UNAVAILABLE = "NODE_UNAVAILABLE"


class Failure(NamedTuple):
    """What went wrong with one transaction, in the chain's words."""

    reason: Reason
    message: str


class Refused(Exception):
    """A transaction is not taken, or does not have its effect."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


class SwapCall(NamedTuple):
    """One swap instruction as its program gets it; amounts in base units."""

    kind: str
    pool: str
    accounts: tuple[AccountMeta, ...]
    amount_in: int
    min_amount_out: int

    @property
    def venue(self) -> str:
        """Whose program is called."""
        return VENUE_OF_KIND[self.kind]


class Swap(NamedTuple):
    """What a swap instruction asks of its pool; addresses in base58, amounts in base units."""

    venue: str
    pool: str
    wallet: str
    mint_in: str
    mint_out: str
    amount_in: int
    min_amount_out: int


class Message(NamedTuple):
    """What a transaction asks for, signed or not.

    `failure` is set when its instructions are known to fail wherever they land; the fee is due
    all the same.
    """

    wire: bytes
    signers: tuple[Pubkey, ...]
    wallet: str
    blockhash: str
    fee_lamports: int
    compute_units: int
    compute_unit_limit: int
    memo: str
    swaps: tuple[SwapCall, ...]
    failure: Failure | None


class Transaction(NamedTuple):
    """A message, and what is said to be the signatures of those who must sign it."""

    message: Message
    signatures: tuple[Signature, ...]
    signature: str

    def verify(self) -> None:
        """Raises Refused unless everybody who must sign signed this very message."""
        message = self.message
        if not all(
            signature.verify(signer, message.wire)
            for signature, signer in zip(self.signatures, message.signers, strict=True)
        ):
            raise Refused(Reason.SIGNATURE_INVALID, "a signature does not verify")


def read_transaction(raw: bytes) -> Transaction:
    """Read the wire format, signed or not; Refused(MALFORMED) when it is not one."""
    if len(raw) > MAX_WIRE_BYTES:
        raise Refused(Reason.MALFORMED, f"longer than {MAX_WIRE_BYTES} bytes")
    # One byte tells their number: more than it can tell would not fit.
    signed_until = 1 + Signature.LENGTH * raw[0] if raw else 1
    if len(raw) < signed_until:
        raise Refused(Reason.MALFORMED, "shorter than its signatures")
    message = _message(raw[:1], raw[signed_until:])
    signatures = tuple(
        [
            Signature(raw[start : start + Signature.LENGTH])
            for start in range(1, signed_until, Signature.LENGTH)
        ]
    )
    return Transaction(message, signatures, str(signatures[0]))


# The same message comes to be simulated, sent, and sent again.
@lru_cache(maxsize=2048)
def _message(count: bytes, raw: bytes) -> Message:
    """Read a message that comes with that many signatures, whichever they are."""
    wire = _wire(count + bytes(Signature.LENGTH * count[0]) + raw)
    message = wire.message
    if not isinstance(message, MessageV0):
        raise Refused(Reason.MALFORMED, "not a version 0 transaction")
    try:
        calls = programs.shape_of(message).calls
    except ValueError as error:
        raise Refused(Reason.MALFORMED, str(error)) from None

    limit, price = DEFAULT_UNITS_AN_INSTRUCTION * len(calls), 0
    units, memo = 0, ""
    swaps: list[SwapCall] = []
    failure: Failure | None = None
    for call, instruction in zip(calls, message.instructions, strict=True):
        try:
            if call.program == programs.COMPUTE_BUDGET_PROGRAM:
                units += BUDGET_UNITS
                limit, price = _budget(instruction.data, limit, price)
            elif call.program == programs.MEMO_PROGRAM:
                units += MEMO_UNITS
                memo = instruction.data.decode()
            else:
                swap = _swap(call, instruction.data)
                units += SWAP_UNITS[swap.kind]
                swaps.append(swap)
        except ValueError as error:
            failure = failure or Failure(Reason.PROGRAM_FAILED, str(error))
    if units > limit:
        failure = failure or Failure(
            Reason.PROGRAM_FAILED, f"needs {units} compute units, its limit is {limit}"
        )
    keys = message.account_keys
    return Message(
        wire=raw,
        signers=tuple(keys[: len(wire.signatures)]),
        wallet=str(keys[0]),
        blockhash=str(message.recent_blockhash),
        fee_lamports=LAMPORTS_A_SIGNATURE * len(wire.signatures) + -(-limit * price // 1_000_000),
        compute_units=units,
        compute_unit_limit=limit,
        memo=memo,
        swaps=tuple(swaps),
        failure=failure,
    )


def _wire(raw: bytes) -> VersionedTransaction:
    try:
        wire = VersionedTransaction.from_bytes(raw)
        wire.sanitize()
    except (ValueError, SanitizeError) as error:
        raise Refused(Reason.MALFORMED, str(error)) from None
    # solders reads past a tail; the wire format has none.
    if bytes(wire) != raw:
        raise Refused(Reason.MALFORMED, "bytes follow the transaction")
    return wire


def _budget(data: bytes, limit: int, price: int) -> tuple[int, int]:
    if data[:1] == bytes([_SET_UNIT_LIMIT]) and len(data) == 5:
        return min(struct.unpack_from("<I", data, 1)[0], MAX_UNITS), price
    if data[:1] == bytes([_SET_UNIT_PRICE]) and len(data) == 9:
        return limit, struct.unpack_from("<Q", data, 1)[0]
    raise ValueError("unknown compute budget instruction")


def _swap(call: programs.Call, data: bytes) -> SwapCall:
    kind = KIND_OF_PROGRAM.get(call.program)
    if kind is None:
        raise ValueError(f"no program at {call.program}")
    layout, accounts = LAYOUTS[kind], call.accounts
    amount_in, min_amount_out = read_amounts(kind, data)
    if len(accounts) < layout.fixed:
        raise ValueError(f"the swap of {kind} takes {layout.fixed} accounts at least")
    return SwapCall(
        kind=kind,
        pool=str(accounts[layout.pool].pubkey),
        accounts=accounts,
        amount_in=amount_in,
        min_amount_out=min_amount_out,
    )
