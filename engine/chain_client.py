"""The chain over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

import grpc

from engine.batch import Batcher
from engine.certificates import Files
from engine.chain import (
    BATCH_LIMIT,
    Blockhash,
    Chain,
    Commitment,
    HeightReading,
    HistoryPage,
    No,
    SignatureReading,
    StatusReading,
    TransactionReading,
)
from engine.channel import open_channel
from engine.errors import Overloaded, Refused, Unanswered
from engine.v1 import chain_pb2 as pb
from engine.v1.chain_pb2_grpc import ChainServiceStub

if TYPE_CHECKING:
    from engine.v1.chain_pb2_grpc import ChainServiceAsyncStub

CALL_SECONDS: Final = 2.0
CALLS_IN_FLIGHT: Final = 32
# Batches grow while the chain answers; a slow answer holds up nobody for longer.
PATIENCE_SECONDS: Final = 0.01
# What the chain says about a transaction that no later try would cure.
_PERMANENT: Final = frozenset({pb.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS})


class ChainClient:
    """The chain at an address."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: ChainServiceAsyncStub = ChainServiceStub(channel)
        self._simulations: Batcher[bytes, None] = Batcher(
            self._simulate_batch,
            limit=BATCH_LIMIT,
            in_flight=CALLS_IN_FLIGHT,
            patience_seconds=PATIENCE_SECONDS,
        )
        self._sends: Batcher[bytes, None] = Batcher(
            self._send_batch,
            limit=BATCH_LIMIT,
            in_flight=CALLS_IN_FLIGHT,
            patience_seconds=PATIENCE_SECONDS,
        )

    async def latest_blockhash(self) -> Blockhash:
        try:
            response = await self._stub.GetLatestBlockhash(
                pb.GetLatestBlockhashRequest(commitment=pb.COMMITMENT_CONFIRMED),
                timeout=CALL_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        return Blockhash(response.blockhash, response.last_valid_block_height)

    async def finalized_height(self) -> HeightReading:
        try:
            response = await self._stub.GetBlockHeight(
                pb.GetBlockHeightRequest(commitment=pb.COMMITMENT_FINALIZED), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        return HeightReading(response.block_height, response.context_slot)

    async def simulate(self, transactions: Sequence[bytes]) -> list[No | None]:
        return await _each(self._simulations, transactions)

    async def send(self, transactions: Sequence[bytes]) -> list[No | None]:
        return await _each(self._sends, transactions)

    async def history(self, wallet: str, before: str) -> HistoryPage:
        try:
            response = await self._stub.ListSignatures(
                pb.ListSignaturesRequest(wallet=wallet, before=before), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        return HistoryPage(
            response.context_slot,
            tuple(
                SignatureReading(
                    record.signature,
                    record.slot,
                    _words(record.error) if record.HasField("error") else "",
                    record.memo,
                )
                for record in response.signatures
            ),
        )

    async def statuses(self, signatures: Sequence[str]) -> list[StatusReading]:
        try:
            response = await self._stub.GetSignatureStatuses(
                pb.GetSignatureStatusesRequest(signatures=signatures, search_history=True),
                timeout=CALL_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        _expect(len(signatures), len(response.statuses))
        return [_status(response, status) for status in response.statuses]

    async def transactions(self, signatures: Sequence[str]) -> list[TransactionReading | None]:
        records: list[TransactionReading | None] = []
        for first in range(0, len(signatures), BATCH_LIMIT):
            records += await self._transactions(signatures[first : first + BATCH_LIMIT])
        return records

    async def _transactions(self, signatures: Sequence[str]) -> list[TransactionReading | None]:
        try:
            response = await self._stub.GetTransactions(
                pb.GetTransactionsRequest(signatures=signatures), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        _expect(len(signatures), len(response.transactions))
        return [_transaction(response, r) if r.found else None for r in response.transactions]

    async def changes(
        self, wallet: str, wanted: Container[str]
    ) -> AsyncIterator[Mapping[str, TransactionReading | None]]:
        request = pb.WatchSignaturesRequest(wallet=wallet)
        try:
            # No deadline: the channel's keepalive finds a dead peer.
            async for response in self._stub.WatchSignatures(request):
                if changed := _changed(response, wanted):
                    yield changed
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)

    async def _simulate_batch(self, transactions: Sequence[bytes]) -> list[BaseException | None]:
        try:
            response = await self._stub.SimulateTransactions(
                pb.SimulateTransactionsRequest(transactions=transactions), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        _expect(len(transactions), len(response.results))
        return [_refusal(r.error) if r.HasField("error") else None for r in response.results]

    async def _send_batch(self, transactions: Sequence[bytes]) -> list[BaseException | None]:
        try:
            response = await self._stub.SendTransactions(
                pb.SendTransactionsRequest(transactions=transactions), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _raise_unanswered(error)
        _expect(len(transactions), len(response.results))
        return [_refusal(r.error) if r.HasField("error") else None for r in response.results]


async def _each(calls: Batcher[bytes, None], transactions: Sequence[bytes]) -> list[No | None]:
    try:
        answering = calls.begin(transactions)
    except Overloaded as error:
        return [Unanswered(str(error))] * len(transactions)
    answers: list[No | None] = []
    for answer in await asyncio.gather(*answering, return_exceptions=True):
        if isinstance(answer, BaseException) and not isinstance(answer, No):
            raise answer
        answers.append(answer)
    return answers


def _status(response: pb.GetSignatureStatusesResponse, status: pb.SignatureStatus) -> StatusReading:
    try:
        commitment = Commitment(status.commitment) if status.found else None
    except ValueError:
        raise Unanswered(f"the chain named an unknown commitment {status.commitment}") from None
    return StatusReading(
        response.context_slot,
        response.node,
        commitment,
        status.slot,
        _words(status.error) if status.HasField("error") else "",
    )


def _changed(
    response: pb.WatchSignaturesResponse, wanted: Container[str]
) -> dict[str, TransactionReading | None]:
    records = response.transactions
    by_a_node = response.node and response.context_slot
    if not by_a_node or len(records) != len(response.signatures):
        return dict.fromkeys(s for s in response.signatures if s in wanted)
    return {
        signature: _told(response, record)
        for signature, record in zip(response.signatures, records, strict=True)
        if signature in wanted
    }


def _told(
    response: pb.WatchSignaturesResponse, record: pb.TransactionRecord
) -> TransactionReading | None:
    with suppress(Unanswered):
        return _transaction(response, record) if record.found else None
    return None


def _transaction(
    response: pb.GetTransactionsResponse | pb.WatchSignaturesResponse,
    record: pb.TransactionRecord,
) -> TransactionReading:
    try:
        changes = {
            (change.owner, change.mint): int(change.after) - int(change.before)
            for change in record.changes
        }
        commitment = Commitment(record.commitment or pb.COMMITMENT_PROCESSED)
    except ValueError:
        raise Unanswered("the chain gave a balance or a commitment that is none") from None
    error = _words(record.error) if record.HasField("error") else ""
    return TransactionReading(
        record.slot,
        error,
        changes,
        record.fee_lamports,
        commitment,
        response.context_slot,
        response.node,
        tuple(record.signers),
    )


def _reason(error: pb.TransactionError) -> str:
    # The chain may add reasons: an error is an error, whatever it is called.
    known = error.reason in pb.TransactionErrorReason.values()
    reason = error.reason if known else pb.TRANSACTION_ERROR_REASON_UNSPECIFIED
    return pb.TransactionErrorReason.Name(reason).removeprefix("TRANSACTION_ERROR_REASON_")


def _words(error: pb.TransactionError) -> str:
    return f"{_reason(error)}: {error.message}" if error.message else _reason(error)


def _refusal(error: pb.TransactionError) -> Refused:
    reason = _reason(error)
    return Refused(reason, error.message or reason, permanent=error.reason in _PERMANENT)


def _expect(asked: int, answered: int) -> None:
    if asked != answered:
        raise Unanswered(f"the chain gave {answered} answers to {asked} questions")


def _raise_unanswered(error: grpc.aio.AioRpcError) -> NoReturn:
    raise Unanswered(f"the chain did not answer ({error.code().name})") from None


@asynccontextmanager
async def open_chain(address: str, tls: Files | None = None) -> AsyncIterator[Chain]:
    """A client for the chain; it connects when first asked, and again when needed."""
    async with open_channel(address, tls) as channel:
        yield ChainClient(channel)
