"""The chain client against a chain that answers as scripted, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from engine import chain_client
from engine.chain import (
    Blockhash,
    Chain,
    Commitment,
    HeightReading,
    No,
    StatusReading,
    TransactionReading,
)
from engine.chain_client import open_chain
from engine.errors import Refused, Unanswered
from engine.rpc import serving
from engine.v1 import chain_pb2 as pb
from engine.v1 import chain_pb2_grpc
from oee.ports import free_ports

PATIENCE_SECONDS = 15

Context = grpc.aio.ServicerContext[Any, Any]


class ScriptedChain(chain_pb2_grpc.ChainServiceServicer):
    """A chain that gives the answer it was told to give, to whatever it is asked."""

    def __init__(self) -> None:
        self.answering: Callable[[Any, Context], Awaitable[Any]] = never
        self.asked: list[Message] = []
        self.changes: list[pb.WatchSignaturesResponse] = []

    def will_answer(self, response: Message) -> None:
        async def answer(request: Message, context: Context) -> Message:
            return response

        self.answering = answer

    async def _answer(self, request: Message, context: Context) -> Any:
        self.asked.append(request)
        return await self.answering(request, context)

    async def GetLatestBlockhash(
        self, request: pb.GetLatestBlockhashRequest, context: Context
    ) -> pb.GetLatestBlockhashResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def GetBlockHeight(
        self, request: pb.GetBlockHeightRequest, context: Context
    ) -> pb.GetBlockHeightResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def SimulateTransactions(
        self, request: pb.SimulateTransactionsRequest, context: Context
    ) -> pb.SimulateTransactionsResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def SendTransactions(
        self, request: pb.SendTransactionsRequest, context: Context
    ) -> pb.SendTransactionsResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def GetSignatureStatuses(
        self, request: pb.GetSignatureStatusesRequest, context: Context
    ) -> pb.GetSignatureStatusesResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def GetTransactions(
        self, request: pb.GetTransactionsRequest, context: Context
    ) -> pb.GetTransactionsResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def GetBalances(
        self, request: pb.GetBalancesRequest, context: Context
    ) -> pb.GetBalancesResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def ListSignatures(
        self, request: pb.ListSignaturesRequest, context: Context
    ) -> pb.ListSignaturesResponse:
        return await self._answer(request, context)  # type: ignore[no-any-return]

    async def WatchSignatures(
        self, request: pb.WatchSignaturesRequest, context: Context
    ) -> AsyncIterator[pb.WatchSignaturesResponse]:
        self.asked.append(request)
        for changed in self.changes:
            yield changed


async def never(request: object, context: Context) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def script() -> ScriptedChain:
    return ScriptedChain()


@pytest.fixture
async def chain(script: ScriptedChain) -> AsyncIterator[Chain]:
    add = partial(chain_pb2_grpc.add_ChainServiceServicer_to_server, script)
    services = {"engine.v1.ChainService": add}
    async with (
        serving("127.0.0.1:0", services, grace_seconds=0) as server,
        open_chain(f"127.0.0.1:{server.port}") as opened,
    ):
        yield opened


async def answered(answering: Awaitable[list[No | None]]) -> None:
    """Raise the answer about one transaction."""
    [no] = await answering
    if no is not None:
        raise no


CALLS: dict[str, Callable[[Chain], Awaitable[object]]] = {
    "latest_blockhash": lambda chain: chain.latest_blockhash(),
    "finalized_height": lambda chain: chain.finalized_height(),
    "simulate": lambda chain: answered(chain.simulate([b"transaction"])),
    "send": lambda chain: answered(chain.send([b"transaction"])),
    "statuses": lambda chain: chain.statuses(["one", "two"]),
    "transactions": lambda chain: chain.transactions(["one", "two"]),
}

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


# ── no answer proves nothing ──────────────────────────────────────────────────────────────────


@every_call
async def test_a_late_answer_is_none(
    chain: Chain, call: Callable[[Chain], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_client, "CALL_SECONDS", 0.1)

    with pytest.raises(Unanswered, match="DEADLINE_EXCEEDED"):
        await call(chain)


@every_call
@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
    ],
)
async def test_an_error_is_no_answer_whatever_its_code(
    chain: Chain,
    script: ScriptedChain,
    call: Callable[[Chain], Awaitable[object]],
    code: grpc.StatusCode,
) -> None:
    async def refuse(request: object, context: Context) -> None:
        await context.abort(code, "the node's own words")

    script.answering = refuse

    with pytest.raises(Unanswered, match=code.name):
        await call(chain)


@every_call
async def test_a_chain_that_is_not_there_gives_no_answer(
    call: Callable[[Chain], Awaitable[object]],
) -> None:
    [port] = free_ports(1)
    async with open_chain(f"127.0.0.1:{port}") as nobody:
        with pytest.raises(Unanswered, match="UNAVAILABLE"):
            await call(nobody)


FOUND = pb.SignatureStatus(found=True, slot=5, commitment=pb.COMMITMENT_FINALIZED)


@pytest.mark.parametrize(
    ("call", "response"),
    [
        ("simulate", pb.SimulateTransactionsResponse()),
        ("simulate", pb.SimulateTransactionsResponse(results=[pb.SimulationResult()] * 2)),
        ("send", pb.SendTransactionsResponse()),
        ("send", pb.SendTransactionsResponse(results=[pb.SendResult()] * 2)),
        ("statuses", pb.GetSignatureStatusesResponse()),
        ("statuses", pb.GetSignatureStatusesResponse(statuses=[FOUND])),
        ("statuses", pb.GetSignatureStatusesResponse(statuses=[FOUND] * 3)),
        ("transactions", pb.GetTransactionsResponse()),
        ("transactions", pb.GetTransactionsResponse(transactions=[pb.TransactionRecord()])),
    ],
)
async def test_more_or_fewer_answers_than_questions_are_none(
    chain: Chain, script: ScriptedChain, call: str, response: Message
) -> None:
    script.will_answer(response)

    with pytest.raises(Unanswered, match=r"the chain gave \d answers to \d questions"):
        await CALLS[call](chain)


@pytest.mark.parametrize("commitment", [pb.COMMITMENT_UNSPECIFIED, 77])
async def test_a_commitment_that_is_none_is_no_answer(
    chain: Chain, script: ScriptedChain, commitment: pb.Commitment.ValueType
) -> None:
    odd = pb.SignatureStatus(found=True, slot=5, commitment=commitment)
    script.will_answer(pb.GetSignatureStatusesResponse(statuses=[FOUND, odd]))

    with pytest.raises(Unanswered, match="commitment"):
        await chain.statuses(["one", "two"])


@pytest.mark.parametrize(("before", "after"), [("", "1"), ("1", "many"), ("1.5", "2")])
async def test_a_balance_that_is_no_number_is_no_answer(
    chain: Chain, script: ScriptedChain, before: str, after: str
) -> None:
    change = pb.BalanceChange(owner="wallet", mint="mint", before=before, after=after)
    record = pb.TransactionRecord(found=True, changes=[change])
    script.will_answer(pb.GetTransactionsResponse(transactions=[record]))

    with pytest.raises(Unanswered, match="balance"):
        await chain.transactions(["one"])


# ── readings ──────────────────────────────────────────────────────────────────────────────────


async def test_a_blockhash_comes_with_the_last_height_it_lives_to(
    chain: Chain, script: ScriptedChain
) -> None:
    script.will_answer(pb.GetLatestBlockhashResponse(blockhash="hash", last_valid_block_height=150))

    assert await chain.latest_blockhash() == Blockhash("hash", 150)
    assert script.asked == [pb.GetLatestBlockhashRequest(commitment=pb.COMMITMENT_CONFIRMED)]


async def test_the_height_is_the_finalized_one_with_the_slot_it_was_read_at(
    chain: Chain, script: ScriptedChain
) -> None:
    script.will_answer(pb.GetBlockHeightResponse(block_height=140, context_slot=170, node="n"))

    assert await chain.finalized_height() == HeightReading(140, 170)
    assert script.asked == [pb.GetBlockHeightRequest(commitment=pb.COMMITMENT_FINALIZED)]


async def test_statuses_are_searched_for_in_all_history_and_absence_is_told(
    chain: Chain, script: ScriptedChain
) -> None:
    slippage = pb.TRANSACTION_ERROR_REASON_SLIPPAGE_EXCEEDED
    reverted = pb.SignatureStatus(
        found=True,
        slot=6,
        commitment=pb.COMMITMENT_PROCESSED,
        error=pb.TransactionError(reason=slippage, message="below the floor"),
    )
    script.will_answer(
        pb.GetSignatureStatusesResponse(
            statuses=[FOUND, pb.SignatureStatus(), reverted], context_slot=9, node="node-1"
        )
    )

    assert await chain.statuses(["one", "two", "three"]) == [
        StatusReading(9, "node-1", Commitment.FINALIZED, 5),
        StatusReading(9, "node-1", None),
        StatusReading(9, "node-1", Commitment.PROCESSED, 6, "SLIPPAGE_EXCEEDED: below the floor"),
    ]
    assert script.asked == [
        pb.GetSignatureStatusesRequest(signatures=["one", "two", "three"], search_history=True)
    ]


async def test_an_error_without_words_or_with_an_unknown_reason_is_an_error(
    chain: Chain, script: ScriptedChain
) -> None:
    errors = [
        pb.TransactionError(),
        pb.TransactionError(reason=77, message="new"),  # type: ignore[arg-type]
    ]
    statuses = [
        pb.SignatureStatus(found=True, commitment=pb.COMMITMENT_FINALIZED, error=error)
        for error in errors
    ]
    script.will_answer(pb.GetSignatureStatusesResponse(statuses=statuses))

    assert [status.error for status in await chain.statuses(["one", "two"])] == [
        "UNSPECIFIED",
        "UNSPECIFIED: new",
    ]


async def test_a_transaction_tells_how_each_wallet_changed(
    chain: Chain, script: ScriptedChain
) -> None:
    huge = str(2**64)
    record = pb.TransactionRecord(
        found=True,
        slot=5,
        changes=[
            pb.BalanceChange(owner="wallet", mint="SOL", before="1500", after="500"),
            pb.BalanceChange(owner="wallet", mint="USDC", before="0", after="150"),
            pb.BalanceChange(owner="pool", mint="SOL", before=huge, after=str(2**64 + 1000)),
        ],
        fee_lamports=5000,
        signers=["wallet"],
    )
    script.will_answer(pb.GetTransactionsResponse(transactions=[record, pb.TransactionRecord()]))

    changes = {("wallet", "SOL"): -1000, ("wallet", "USDC"): 150, ("pool", "SOL"): 1000}
    assert await chain.transactions(["one", "two"]) == [
        TransactionReading(5, "", changes, 5000, signers=("wallet",)),
        None,
    ]


SWAPPED = pb.TransactionRecord(
    found=True,
    slot=5,
    changes=[pb.BalanceChange(owner="wallet", mint="SOL", before="1500", after="500")],
    fee_lamports=5000,
    commitment=pb.COMMITMENT_FINALIZED,
)
SHOWN = TransactionReading(
    5, "", {("wallet", "SOL"): -1000}, 5000, Commitment.FINALIZED, 9, "node-1"
)


def told(*records: pb.TransactionRecord, **fields: Any) -> pb.WatchSignaturesResponse:
    """That "one" and "two" changed, with these records by a node."""
    node: dict[str, Any] = {"context_slot": 9, "node": "node-1"}
    return pb.WatchSignaturesResponse(
        signatures=["one", "two"], transactions=records, **(node | fields)
    )


async def changes(
    chain: Chain, script: ScriptedChain, *responses: pb.WatchSignaturesResponse, wanted: str
) -> list[Mapping[str, TransactionReading | None]]:
    script.changes = list(responses)
    return [changed async for changed in chain.changes("wallet", wanted.split())]


async def test_a_watch_tells_of_what_is_wanted_alone_with_the_record_of_each(
    chain: Chain, script: ScriptedChain
) -> None:
    reverted = pb.TransactionRecord(found=True, slot=6, error=pb.TransactionError())
    responses = [told(SWAPPED, reverted), told(pb.TransactionRecord(), SWAPPED)]

    assert await changes(chain, script, *responses, wanted="one") == [{"one": SHOWN}, {"one": None}]
    assert await changes(chain, script, *responses, wanted="three") == []
    [first, second] = await changes(chain, script, *responses, wanted="two one")
    assert list(first) == ["one", "two"]
    assert first["two"] == TransactionReading(
        6, "UNSPECIFIED", {}, 0, context_slot=9, node="node-1"
    )
    assert second == {"one": None, "two": SHOWN}
    assert script.asked == [pb.WatchSignaturesRequest(wallet="wallet")] * 3


@pytest.mark.parametrize(
    "response",
    [
        told(),
        told(SWAPPED),
        told(SWAPPED, SWAPPED, SWAPPED),
        told(SWAPPED, SWAPPED, node=""),
        told(SWAPPED, SWAPPED, context_slot=0),
        told(pb.TransactionRecord(found=True, commitment=77), pb.TransactionRecord()),  # type: ignore[arg-type]
        told(
            pb.TransactionRecord(found=True, changes=[pb.BalanceChange()]), pb.TransactionRecord()
        ),
    ],
    ids=["none", "fewer", "more", "no node", "no slot", "no commitment", "no balance"],
)
async def test_what_a_watch_does_not_tell_as_it_should_it_has_not_told(
    chain: Chain, script: ScriptedChain, response: pb.WatchSignaturesResponse
) -> None:
    later = told(SWAPPED, SWAPPED)

    assert await changes(chain, script, response, later, wanted="one two") == [
        {"one": None, "two": None},
        {"one": SHOWN, "two": SHOWN},
    ]


# ── simulating and sending ────────────────────────────────────────────────────────────────────

both = pytest.mark.parametrize(
    ("call", "respond"),
    [
        (
            "simulate",
            lambda error: pb.SimulateTransactionsResponse(
                results=[pb.SimulationResult(error=error)]
            ),
        ),
        (
            "send",
            lambda error: pb.SendTransactionsResponse(
                results=[pb.SendResult(signature="s", error=error)]
            ),
        ),
    ],
)


@both
async def test_a_transaction_that_is_taken_raises_nothing(
    chain: Chain, script: ScriptedChain, call: str, respond: Callable[[Any], Message]
) -> None:
    script.will_answer(respond(None))

    assert await CALLS[call](chain) is None


@both
@pytest.mark.parametrize(
    ("reason", "name", "permanent"),
    [
        (pb.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS, "INSUFFICIENT_FUNDS", True),
        (pb.TRANSACTION_ERROR_REASON_SLIPPAGE_EXCEEDED, "SLIPPAGE_EXCEEDED", False),
        (pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND, "BLOCKHASH_NOT_FOUND", False),
        (pb.TRANSACTION_ERROR_REASON_NODE_UNAVAILABLE, "NODE_UNAVAILABLE", False),
        (77, "UNSPECIFIED", False),
    ],
)
async def test_a_refusal_keeps_its_words_and_only_missing_funds_are_permanent(
    chain: Chain,
    script: ScriptedChain,
    call: str,
    respond: Callable[[Any], Message],
    reason: pb.TransactionErrorReason.ValueType,
    name: str,
    permanent: bool,
) -> None:
    script.will_answer(respond(pb.TransactionError(reason=reason, message="no")))

    with pytest.raises(Refused, match=r"^no$") as refused:
        await CALLS[call](chain)

    assert (refused.value.reason, refused.value.permanent) == (name, permanent)


async def test_more_transactions_than_one_call_takes_are_read_with_several(
    script: ScriptedChain, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_client, "BATCH_LIMIT", 2)

    async def by_name(request: pb.GetTransactionsRequest, context: Context) -> Message:
        records = [pb.TransactionRecord(found=True, slot=int(s)) for s in request.signatures]
        return pb.GetTransactionsResponse(transactions=records)

    script.answering = by_name

    records = await chain.transactions(["1", "2", "3", "4", "5"])

    assert [record and record.slot for record in records] == [1, 2, 3, 4, 5]
    assert script.asked == [
        pb.GetTransactionsRequest(signatures=some) for some in (["1", "2"], ["3", "4"], ["5"])
    ]


async def test_what_is_sent_at_once_goes_together_and_each_has_its_own_answer(
    chain: Chain, script: ScriptedChain
) -> None:
    no = pb.TransactionError(reason=pb.TRANSACTION_ERROR_REASON_MALFORMED, message="no")

    async def choosy(request: pb.SendTransactionsRequest, context: Context) -> Message:
        odd = [pb.SendResult(error=no if int(t) % 2 else None) for t in request.transactions]
        return pb.SendTransactionsResponse(results=odd)

    script.answering = choosy

    one, others = await asyncio.gather(chain.send([b"0"]), chain.send([b"1", b"2", b"3"]))

    assert [type(result) for result in one + others] == [type(None), Refused] * 2
    assert script.asked == [pb.SendTransactionsRequest(transactions=[b"0", b"1", b"2", b"3"])]
