"""A ChainService under test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from solders.keypair import Keypair

from engine.v1 import chain_pb2 as pb
from engine.v1.chain_pb2_grpc import ChainServiceStub
from oee.conformance import transactions
from oee.conformance.check import Broken, Caller, NotChecked
from oee.conformance.written import is_address

MAX_ITEMS: Final = 500
# Nodes lag and are drawn anew for each call; so often one is looked for that can tell.
TRIES: Final = 10

PROCESSED, CONFIRMED, FINALIZED = (
    pb.COMMITMENT_PROCESSED,
    pb.COMMITMENT_CONFIRMED,
    pb.COMMITMENT_FINALIZED,
)


def error_of(error: pb.TransactionError) -> str:
    """The error in words: MALFORMED (…)."""
    known = error.reason in pb.TransactionErrorReason.values()
    name = pb.TransactionErrorReason.Name(error.reason) if known else str(error.reason)
    short = name.removeprefix("TRANSACTION_ERROR_REASON_")
    return f"the error {short}" + (f" ({error.message})" if error.message else "")


@dataclass(frozen=True, slots=True)
class Reading:
    """A block height as a node told it."""

    commitment: pb.Commitment.ValueType
    answer: pb.GetBlockHeightResponse

    def __str__(self) -> str:
        name = pb.Commitment.Name(self.commitment).removeprefix("COMMITMENT_").lower()
        return f"{name} height {self.answer.block_height}"


class ChainAt:
    """A chain at an address. `wallet` is one whose history may be read, or ""."""

    def __init__(self, channel: grpc.aio.Channel, wallet: str = "") -> None:
        self.stub: Any = ChainServiceStub(channel)
        self.ask = Caller(self.stub)
        self.wallet = wallet
        # Nobody has heard of it.
        self.stranger = Keypair()

    async def height(self, commitment: pb.Commitment.ValueType) -> Reading:
        """A block height."""
        request = pb.GetBlockHeightRequest(commitment=commitment)
        return Reading(commitment, await self.ask("GetBlockHeight", request))

    async def readings(self) -> list[Reading]:
        """Heights in the order they were read, the more settled before the less, several times."""
        rounds = (FINALIZED, CONFIRMED, PROCESSED) * TRIES
        return [await self.height(commitment) for commitment in rounds]

    async def blockhash(self) -> str:
        """A finalized blockhash, so that every node knows it; raises NotChecked for none."""
        response = await self.ask("GetLatestBlockhash", pb.GetLatestBlockhashRequest())
        if not is_address(response.blockhash):
            raise NotChecked("GetLatestBlockhash gives no blockhash to try with")
        blockhash: str = response.blockhash
        return blockhash

    def memo_alone(self, blockhash: str) -> Any:
        """A message of the stranger that does nothing but to leave a memo."""
        return transactions.message(self.stranger, [], "oee venue check", blockhash)

    async def simulated(self, raw: Sequence[bytes]) -> Sequence[pb.SimulationResult]:
        """A result a transaction; raises Broken when there are more or fewer."""
        request = pb.SimulateTransactionsRequest(transactions=raw)
        results: Sequence[pb.SimulationResult] = (
            await self.ask("SimulateTransactions", request)
        ).results
        require_count("SimulateTransactions", len(raw), len(results))
        return results

    async def sent(self, raw: Sequence[bytes]) -> Sequence[pb.SendResult]:
        """A result a transaction; raises Broken when there are more or fewer."""
        request = pb.SendTransactionsRequest(transactions=raw)
        results: Sequence[pb.SendResult] = (await self.ask("SendTransactions", request)).results
        require_count("SendTransactions", len(raw), len(results))
        return results

    async def statuses(self, signatures: Sequence[str]) -> pb.GetSignatureStatusesResponse:
        """A status a signature, with history; raises Broken when there are more or fewer."""
        request = pb.GetSignatureStatusesRequest(signatures=signatures, search_history=True)
        response: pb.GetSignatureStatusesResponse = await self.ask("GetSignatureStatuses", request)
        require_count("GetSignatureStatuses", len(signatures), len(response.statuses))
        return response

    async def records(self, signatures: Sequence[str]) -> pb.GetTransactionsResponse:
        """A record a signature; raises Broken when there are more or fewer."""
        request = pb.GetTransactionsRequest(signatures=signatures)
        response: pb.GetTransactionsResponse = await self.ask("GetTransactions", request)
        require_count("GetTransactions", len(signatures), len(response.transactions))
        return response


def require_count(method: str, asked: int, answered: int) -> None:
    """Raises Broken when there are not as many answers as questions."""
    if asked != answered:
        raise Broken(
            f"{asked} answers of {method} to {asked} items",
            str(answered),
            "answer every item, in the order of the request",
        )
