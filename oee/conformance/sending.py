"""What SimulateTransactions and SendTransactions promise about what cannot land."""

from __future__ import annotations

from typing import Final

from solders.hash import Hash

from engine.v1 import chain_pb2 as pb
from oee.conformance import transactions
from oee.conformance.chain import TRIES, ChainAt, error_of
from oee.conformance.check import Broken, Check, checks


async def simulation_knows_its_blockhashes(chain: ChainAt) -> None:
    """What has the latest blockhash is simulated; what has another is BLOCKHASH_NOT_FOUND."""
    given = transactions.unsigned(chain.memo_alone(await chain.blockhash()))
    for _ in range(TRIES):
        [known] = await chain.simulated([given])
        if known.error.reason != pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND:
            break  # a node that is behind may not know it
    if known.error.reason in (
        pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND,
        pb.TRANSACTION_ERROR_REASON_SIGNATURE_INVALID,
        pb.TRANSACTION_ERROR_REASON_MALFORMED,
    ):
        raise Broken(
            "an unsigned transaction with the finalized blockhash to be simulated",
            error_of(known.error),
            "take unsigned transactions, and simulate on a node that knows the blockhash",
        )
    unknown = transactions.unsigned(chain.memo_alone(str(Hash.new_unique())))
    [refused] = await chain.simulated([unknown])
    if refused.error.reason != pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND:
        raise Broken(
            "the error BLOCKHASH_NOT_FOUND for a blockhash that never was",
            error_of(refused.error) if refused.HasField("error") else "no error",
            "check the blockhash in simulation; do not replace it by a recent one",
        )


async def malformed_bytes_are_told_apart(chain: ChainAt) -> None:
    """Bytes that are no transaction are MALFORMED, as data, in their place among the others."""
    good = transactions.unsigned(chain.memo_alone(await chain.blockhash()))
    for name, ask in (("SimulateTransactions", chain.simulated), ("SendTransactions", chain.sent)):
        # What is sent beside the garbage is not signed, so it cannot land.
        garbage, beside, empty = await ask([transactions.GARBAGE, good, b""])
        for what, result in (("garbage", garbage), ("no bytes at all", empty)):
            if result.error.reason != pb.TRANSACTION_ERROR_REASON_MALFORMED:
                raise Broken(
                    f"the error MALFORMED of {name} for {what}",
                    error_of(result.error) if result.HasField("error") else "no error",
                    "tell it in that item's result",
                )
        if beside.error.reason == pb.TRANSACTION_ERROR_REASON_MALFORMED:
            raise Broken(
                f"{name} to read the transaction between two that are none",
                error_of(beside.error),
                "judge every item by itself, and answer in the order of the request",
            )


async def a_forged_signature_is_refused(chain: ChainAt) -> None:
    """A transaction whose signature is of something else is refused as SIGNATURE_INVALID."""
    message = chain.memo_alone(await chain.blockhash())
    signature, raw = transactions.forged(chain.stranger, message)
    [result] = await chain.sent([raw])
    if result.error.reason != pb.TRANSACTION_ERROR_REASON_SIGNATURE_INVALID:
        raise Broken(
            "the error SIGNATURE_INVALID for a signature of something else",
            error_of(result.error) if result.HasField("error") else "no error",
            "verify the signatures before anything is forwarded",
        )
    if result.signature != signature:
        raise Broken(
            f"signature {signature}, as the bytes have it",
            repr(result.signature),
            "tell the transaction's first signature whenever the bytes can be read",
        )


CHECKS: Final[tuple[Check[ChainAt], ...]] = checks(
    simulation_knows_its_blockhashes,
    malformed_bytes_are_told_apart,
    a_forged_signature_is_refused,
)
