"""ChainService: every answer from a node drawn at random, after a delay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import Final, TypeVar

from dex_sim.calls import Context, Response, suffer
from dex_sim.chain import Chain
from dex_sim.chance import Chance, Range
from dex_sim.effects import CHAIN, Site
from dex_sim.execution import LAMPORTS
from dex_sim.faults import Occasion, Subject, subjects_of_memo
from dex_sim.node import Commitment, Node
from dex_sim.transaction import Failure, Reason, Refused, Transaction, read_transaction
from engine.errors import InvalidRequest, Violation
from engine.v1 import chain_pb2 as pb
from engine.v1 import chain_pb2_grpc

MAX_ITEMS: Final = 500
DEFAULT_PAGE: Final = 1000
MAX_PAGE: Final = 1000
# Of more signatures, with their records, a message could be too large for whoever watches.
TOLD_TOGETHER: Final = 500

REASONS: Final = {
    reason: pb.TransactionErrorReason.Value(f"TRANSACTION_ERROR_REASON_{reason}")
    for reason in Reason
}


Request = TypeVar("Request")


def _by_a_node(
    answer: Callable[[ChainService, Request, Node], Response],
) -> Callable[[ChainService, Request, Context], Awaitable[Response]]:
    """The RPC method in which a node, drawn at random, gives this answer after a delay."""
    call = answer.__name__

    @wraps(answer)
    async def method(service: ChainService, request: Request, context: Context) -> Response:
        await service._delay(call)
        drawn = service._draw(call)
        if not service._faults:
            return answer(service, request, service._node(drawn))
        transactions = getattr(request, "transactions", ())
        drawn = service._chosen(call, transactions) or drawn
        return await suffer(
            service._faults,
            _occasion(call, drawn, transactions),
            context,
            # As the node is once it acts, which may be later.
            lambda: answer(service, request, service._node(drawn)),
        )

    return method


class ChainService(chain_pb2_grpc.ChainServiceServicer):
    """The chain's public door."""

    def __init__(self, chain: Chain, chance: Chance, delay_milliseconds: Range) -> None:
        self._chain = chain
        self._faults = chain.faults
        self._chance = chance
        self._delay_milliseconds = delay_milliseconds

    @_by_a_node
    def GetLatestBlockhash(
        self, request: pb.GetLatestBlockhashRequest, node: Node
    ) -> pb.GetLatestBlockhashResponse:
        block = node.block(_commitment(request.commitment))
        return pb.GetLatestBlockhashResponse(
            blockhash=block.blockhash,
            last_valid_block_height=block.last_valid_height,
            context_slot=node.head.slot,
        )

    @_by_a_node
    def GetBlockHeight(
        self, request: pb.GetBlockHeightRequest, node: Node
    ) -> pb.GetBlockHeightResponse:
        return pb.GetBlockHeightResponse(
            block_height=node.block(_commitment(request.commitment)).height,
            context_slot=node.head.slot,
            node=node.name,
        )

    @_by_a_node
    def SimulateTransactions(
        self, request: pb.SimulateTransactionsRequest, node: Node
    ) -> pb.SimulateTransactionsResponse:
        _bounded("transactions", request.transactions)
        # Tried against the newest state, whichever node was asked; so that is the context.
        return pb.SimulateTransactionsResponse(
            results=[self._simulate(node, raw) for raw in request.transactions],
            context_slot=self._chain.head.slot,
        )

    @_by_a_node
    def SendTransactions(
        self, request: pb.SendTransactionsRequest, node: Node
    ) -> pb.SendTransactionsResponse:
        _bounded("transactions", request.transactions)
        return pb.SendTransactionsResponse(
            results=[self._send(node, raw) for raw in request.transactions]
        )

    @_by_a_node
    def GetSignatureStatuses(
        self, request: pb.GetSignatureStatusesRequest, node: Node
    ) -> pb.GetSignatureStatusesResponse:
        _bounded("signatures", request.signatures)
        sightings = node.look_up(request.signatures, search_history=request.search_history)
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

    @_by_a_node
    def GetTransactions(
        self, request: pb.GetTransactionsRequest, node: Node
    ) -> pb.GetTransactionsResponse:
        _bounded("signatures", request.signatures)
        return pb.GetTransactionsResponse(
            transactions=_records(node, request.signatures),
            context_slot=node.head.slot,
            node=node.name,
        )

    @_by_a_node
    def GetBalances(self, request: pb.GetBalancesRequest, node: Node) -> pb.GetBalancesResponse:
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

    @_by_a_node
    def ListSignatures(
        self, request: pb.ListSignaturesRequest, node: Node
    ) -> pb.ListSignaturesResponse:
        if request.limit > MAX_PAGE:
            raise InvalidRequest([Violation("limit", f"must be at most {MAX_PAGE}")])
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
            await self._suffer_watching(context, pb.WatchSignaturesResponse)
            # The headers say that from here on nothing is missed.
            await context.send_initial_metadata(())
            while True:
                changed = await feed.take()
                for first in range(0, len(changed), TOLD_TOGETHER):
                    some = partial(self._changed, changed[first : first + TOLD_TOGETHER])
                    yield await self._suffer_watching(context, some)

    def _changed(self, signatures: Sequence[str]) -> pb.WatchSignaturesResponse:
        """That these changed, and their records by a node, unless a fault stands before those."""
        node = self._node(self._draw("WatchSignatures"))
        if self._faults:
            reading = _occasion("GetTransactions", node.name, ())
            faults = [*self._faults.at(Site.CALL), *self._faults.at(Site.CHOICE)]
            if any(fault.is_due and fault.fits(reading) for fault in faults):
                return pb.WatchSignaturesResponse(signatures=signatures)
        return pb.WatchSignaturesResponse(
            signatures=signatures,
            transactions=_records(node, signatures),
            context_slot=node.head.slot,
            node=node.name,
        )

    async def _delay(self, call: str) -> None:
        if self._delay_milliseconds.high:
            milliseconds = self._chance.next("chain", f"delay/{call}", self._delay_milliseconds)
            await asyncio.sleep(milliseconds / 1000)

    def _draw(self, call: str) -> str:
        """The name of a node drawn at random."""
        nodes = self._chain.nodes
        return nodes[self._chance.next("chain", f"node/{call}", Range(0, len(nodes) - 1))]

    def _node(self, name: str) -> Node:
        """The node of that name, as it is now."""
        return Node(name, self._chain.heads[self._chain.nodes.index(name)], self._chain)

    def _chosen(self, call: str, transactions: Sequence[bytes]) -> str:
        """The node that a fault chose; empty when none did."""
        occasion = _occasion(call, "", transactions)
        chosen = self._faults.hitting(Site.CHOICE, occasion)
        return chosen[-1].choose_node.node if chosen else ""

    async def _suffer_watching(self, context: Context, act: Callable[[], Response]) -> Response:
        if not self._faults:
            return act()
        return await suffer(self._faults, _occasion("WatchSignatures", "", ()), context, act)

    def _refusal(self, call: str, node: Node, transaction: Transaction) -> Failure | None:
        if not self._faults:
            return None
        occasion = Occasion(
            call,
            (CHAIN, *(swap.venue for swap in transaction.message.swaps)),
            node.name,
            lambda: subjects_of_memo(transaction.message.memo),
        )
        for fault in self._faults.hitting(Site.ITEM, occasion):
            return Failure(Reason(fault.refuse.reason), "injected")
        return None

    def _simulate(self, node: Node, raw: bytes) -> pb.SimulationResult:
        try:
            transaction = read_transaction(raw)
        except Refused as refused:
            return pb.SimulationResult(error=_error(refused.failure))
        refusal = self._refusal("SimulateTransactions", node, transaction)
        return pb.SimulationResult(
            error=_error(refusal or self._chain.simulate(transaction)),
            compute_units=transaction.message.compute_units,
        )

    def _send(self, node: Node, raw: bytes) -> pb.SendResult:
        try:
            transaction = read_transaction(raw)
        except Refused as refused:
            return pb.SendResult(error=_error(refused.failure))
        failure = self._refusal("SendTransactions", node, transaction)
        if failure is None:
            try:
                node.send(transaction)
            except Refused as refused:
                failure = refused.failure
        return pb.SendResult(signature=transaction.signature, error=_error(failure))


def _occasion(call: str, node: str, transactions: Sequence[bytes]) -> Occasion:
    return Occasion(call, (CHAIN,), node, lambda: _subjects(transactions))


def _subjects(transactions: Sequence[bytes]) -> Iterator[Subject]:
    for raw in transactions:
        # What is no transaction is about nobody.
        with suppress(Refused):
            yield from subjects_of_memo(read_transaction(raw).message.memo)


def _records(node: Node, signatures: Sequence[str]) -> list[pb.TransactionRecord]:
    """What the node tells of these transactions."""
    return [
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
            commitment=_wire_commitment(node.commitment(landed.slot)),
            signers=[landed.wallet],
        )
        if landed
        else pb.TransactionRecord()
        for landed in node.look_up(signatures, search_history=True)
    ]


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
