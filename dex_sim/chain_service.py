"""ChainService: every answer from a node drawn at random, after a delay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc

from dex_sim.chain import Chain
from dex_sim.chance import Chance, Range
from dex_sim.execution import LAMPORTS
from dex_sim.node import Commitment, Node
from dex_sim.transaction import Failure, Reason, Refused, read_transaction
from engine.errors import InvalidRequest, Violation
from engine.v1 import chain_pb2 as pb
from engine.v1 import chain_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_ITEMS: Final = 500
DEFAULT_PAGE: Final = 1000
MAX_PAGE: Final = 1000

REASONS: Final = {
    reason: pb.TransactionErrorReason.Value(f"TRANSACTION_ERROR_REASON_{reason}")
    for reason in Reason
}


class ChainService(chain_pb2_grpc.ChainServiceServicer):
    """The chain's public door."""

    def __init__(self, chain: Chain, chance: Chance, delay_milliseconds: Range) -> None:
        self._chain = chain
        self._chance = chance
        self._delay_milliseconds = delay_milliseconds

    async def GetLatestBlockhash(
        self, request: pb.GetLatestBlockhashRequest, context: Context
    ) -> pb.GetLatestBlockhashResponse:
        node = await self._node("GetLatestBlockhash")
        block = node.block(_commitment(request.commitment))
        return pb.GetLatestBlockhashResponse(
            blockhash=block.blockhash,
            last_valid_block_height=block.last_valid_height,
            context_slot=node.head.slot,
        )

    async def GetBlockHeight(
        self, request: pb.GetBlockHeightRequest, context: Context
    ) -> pb.GetBlockHeightResponse:
        node = await self._node("GetBlockHeight")
        return pb.GetBlockHeightResponse(
            block_height=node.block(_commitment(request.commitment)).height,
            context_slot=node.head.slot,
            node=node.name,
        )

    async def SimulateTransactions(
        self, request: pb.SimulateTransactionsRequest, context: Context
    ) -> pb.SimulateTransactionsResponse:
        _bounded("transactions", request.transactions)
        await self._node("SimulateTransactions")
        # Tried against the newest state, whichever node was asked; so that is the context.
        return pb.SimulateTransactionsResponse(
            results=[self._simulate(raw) for raw in request.transactions],
            context_slot=self._chain.head.slot,
        )

    async def SendTransactions(
        self, request: pb.SendTransactionsRequest, context: Context
    ) -> pb.SendTransactionsResponse:
        _bounded("transactions", request.transactions)
        node = await self._node("SendTransactions")
        return pb.SendTransactionsResponse(
            results=[_send(node, raw) for raw in request.transactions]
        )

    async def GetSignatureStatuses(
        self, request: pb.GetSignatureStatusesRequest, context: Context
    ) -> pb.GetSignatureStatusesResponse:
        _bounded("signatures", request.signatures)
        node = await self._node("GetSignatureStatuses")
        sightings = node.statuses(request.signatures, search_history=request.search_history)
        return pb.GetSignatureStatusesResponse(
            statuses=[
                pb.SignatureStatus(
                    found=True,
                    slot=sighting.slot,
                    commitment=_wire_commitment(node.commitment(sighting.slot)),
                    error=_error(sighting.failure),
                )
                if sighting
                else pb.SignatureStatus()
                for sighting in sightings
            ],
            context_slot=node.head.slot,
            node=node.name,
        )

    async def GetTransactions(
        self, request: pb.GetTransactionsRequest, context: Context
    ) -> pb.GetTransactionsResponse:
        _bounded("signatures", request.signatures)
        node = await self._node("GetTransactions")
        return pb.GetTransactionsResponse(
            transactions=[
                pb.TransactionRecord(
                    found=True,
                    slot=landed.slot,
                    error=_error(landed.failure),
                    changes=[
                        pb.BalanceChange(
                            owner=change.owner,
                            mint=change.mint,
                            before=str(change.before),
                            after=str(change.after),
                        )
                        for change in landed.changes
                    ],
                    fee_lamports=landed.fee_lamports,
                    memo=landed.memo,
                )
                if landed
                else pb.TransactionRecord()
                for landed in node.transactions(request.signatures)
            ],
            context_slot=node.head.slot,
        )

    async def GetBalances(
        self, request: pb.GetBalancesRequest, context: Context
    ) -> pb.GetBalancesResponse:
        node = await self._node("GetBalances")
        balances = node.balances(request.wallet)
        return pb.GetBalancesResponse(
            balances=[
                pb.Balance(mint=mint, amount=str(amount))
                for mint, amount in balances.items()
                if amount and mint != LAMPORTS
            ],
            lamports=balances[LAMPORTS],
            context_slot=node.head.slot,
        )

    async def ListSignatures(
        self, request: pb.ListSignaturesRequest, context: Context
    ) -> pb.ListSignaturesResponse:
        if request.limit > MAX_PAGE:
            raise InvalidRequest([Violation("limit", f"must be at most {MAX_PAGE}")])
        node = await self._node("ListSignatures")
        page = node.landed(
            request.wallet,
            min_slot=request.min_slot,
            before=request.before,
            limit=request.limit or DEFAULT_PAGE,
        )
        return pb.ListSignaturesResponse(
            signatures=[
                pb.SignatureRecord(
                    signature=landed.signature,
                    slot=landed.slot,
                    error=_error(landed.failure),
                    memo=landed.memo,
                )
                for landed in page
            ],
            context_slot=node.head.slot,
        )

    async def WatchSignatures(
        self, request: pb.WatchSignaturesRequest, context: Context
    ) -> AsyncIterator[pb.WatchSignaturesResponse]:
        with self._chain.signature_feeds.open(request.wallet) as feed:
            # The headers say that from here on nothing is missed.
            await context.send_initial_metadata(())
            while True:
                yield pb.WatchSignaturesResponse(signatures=await feed.take())

    async def _node(self, call: str) -> Node:
        """The node that answers, as it is once the network's delay is over."""
        milliseconds = self._chance.next("chain", f"delay/{call}", self._delay_milliseconds)
        await asyncio.sleep(milliseconds / 1000)
        heads = self._chain.heads
        drawn = self._chance.next("chain", f"node/{call}", Range(0, len(heads) - 1))
        return Node(f"node-{drawn + 1}", heads[drawn], self._chain)

    def _simulate(self, raw: bytes) -> pb.SimulationResult:
        try:
            transaction = read_transaction(raw)
        except Refused as refused:
            return pb.SimulationResult(error=_error(refused.failure))
        return pb.SimulationResult(
            error=_error(self._chain.simulate(transaction)),
            compute_units=transaction.compute_units,
        )


def _send(node: Node, raw: bytes) -> pb.SendResult:
    try:
        transaction = read_transaction(raw)
    except Refused as refused:
        return pb.SendResult(error=_error(refused.failure))
    try:
        node.send(transaction)
    except Refused as refused:
        return pb.SendResult(signature=transaction.signature, error=_error(refused.failure))
    return pb.SendResult(signature=transaction.signature)


def _error(failure: Failure | None) -> pb.TransactionError | None:
    if failure is None:
        return None
    return pb.TransactionError(reason=REASONS[failure.reason], message=failure.message)


def _commitment(asked: int) -> Commitment:
    if asked == pb.COMMITMENT_UNSPECIFIED:
        return Commitment.FINALIZED
    try:
        return Commitment(asked)
    except ValueError:
        raise InvalidRequest([Violation("commitment", f"unknown value {asked}")]) from None


def _wire_commitment(commitment: Commitment) -> pb.Commitment.ValueType:
    return pb.Commitment.ValueType(commitment)


def _bounded(field: str, items: Sequence[object]) -> None:
    if len(items) > MAX_ITEMS:
        raise InvalidRequest([Violation(field, f"must be at most {MAX_ITEMS} items")])
