"""Every check of a chain passes the simulator's, and fails one that is wrong in its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from dex_sim.market import SOL
from engine.v1 import chain_pb2 as pb
from oee.conformance import records
from oee.conformance.chain import ChainAt
from oee.conformance.check import Outcome, examine
from oee.conformance.suite import CHAIN_CHECKS
from tests.oee.conformance.conftest import Mistake, World, Wrong, failed

Answer = Callable[[Any, Any], object]


def setting(**fields: Any) -> Answer:
    """Sets fields of an answer."""

    def answer(request: Any, response: Any) -> None:
        for name, value in fields.items():
            setattr(response, name, value)

    return answer


def always(items: str, reason: pb.TransactionErrorReason.ValueType) -> Answer:
    """Every item has this error."""

    def answer(request: Any, response: Any) -> None:
        for item in getattr(response, items):
            item.error.reason = reason

    return answer


def never_wrong(request: Any, response: Any) -> None:
    """No item has an error."""
    for item in response.results:
        item.ClearField("error")


def single_taken(request: Any, response: Any) -> None:
    """What comes alone has no error."""
    if len(request.transactions) == 1:
        never_wrong(request, response)


def backwards(field: str) -> Answer:
    """Every answer has less than the one before, of the same node."""
    less: Iterator[int] = count(10**6, -1)

    def answer(request: Any, response: Any) -> None:
        response.node = "node-1"
        setattr(response, field, getattr(response, field) + next(less))

    return answer


def upside_down(request: Any, response: Any) -> None:
    """What is finalized is ahead of what is processed."""
    response.node = "node-1"
    response.block_height = 900 + 10 * request.commitment


def forgetting_the_last(items: str) -> Answer:
    def answer(request: Any, response: Any) -> None:
        del getattr(response, items)[-1:]

    return answer


def reversed_results(request: Any, response: Any) -> None:
    # The first and the last are the same; the odd one moves to the end.
    response.results.extend(response.results[1:2])
    del response.results[1:2]


def found(items: str) -> Answer:
    def answer(request: Any, response: Any) -> None:
        for item in getattr(response, items):
            item.slot = 5

    return answer


def first_only(items: str) -> Callable[[Any], object]:
    """Only the first 500 items are taken."""

    def spoil(request: Any) -> None:
        del getattr(request, items)[500:]

    return spoil


def gift(request: Any, response: pb.GetBalancesResponse) -> None:
    response.balances.add(mint=SOL.mint, amount="5")


def foreign(request: Any, response: pb.ListSignaturesResponse) -> None:
    response.signatures.add(signature="of somebody else", slot=5)


def ended(request: Any, response: Any) -> None:
    response.Clear()


NOT_FOUND = pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND
MALFORMED = pb.TRANSACTION_ERROR_REASON_MALFORMED

# What is wrong, the checks that must fail, and a word of what they say.
WRONG = {
    "slots for heights": Mistake(
        Wrong("GetBlockHeight", lambda q, a: setattr(a, "block_height", a.context_slot)),
        "heights-are-below-their-slots",
        "context_slot",
    ),
    "a node without a name": Mistake(
        Wrong("GetBlockHeight", setting(node="")),
        "heights-are-below-their-slots",
        "no name",
    ),
    "commitments upside down": Mistake(
        Wrong("GetBlockHeight", upside_down),
        "heights-are-in-order",
        "confirmed height",
    ),
    "a node that goes back": Mistake(
        Wrong("GetBlockHeight", backwards("context_slot")),
        "a-node-does-not-go-back",
        "context_slot",
    ),
    "a blockhash that is none": Mistake(
        Wrong("GetLatestBlockhash", setting(blockhash="abc")),
        "a-blockhash-lives-beyond-the-height",
        "'abc'",
    ),
    "a blockhash that is over": Mistake(
        Wrong("GetLatestBlockhash", setting(last_valid_block_height=900)),
        "a-blockhash-lives-beyond-the-height",
        "last_valid_block_height",
    ),
    "a blockhash of no slot": Mistake(
        Wrong("GetLatestBlockhash", setting(context_slot=0)),
        "a-blockhash-lives-beyond-the-height",
        "0",
    ),
    "a blockhash that nodes do not know": Mistake(
        Wrong("SimulateTransactions", always("results", NOT_FOUND)),
        "simulation-knows-its-blockhashes",
        "to be simulated",
        {"malformed-bytes-are-told-apart"},
    ),
    "any blockhash simulates": Mistake(
        Wrong("SimulateTransactions", never_wrong),
        "simulation-knows-its-blockhashes",
        "never was",
        {"malformed-bytes-are-told-apart"},
    ),
    "simulations in another order": Mistake(
        Wrong("SimulateTransactions", reversed_results),
        "malformed-bytes-are-told-apart",
        "for no bytes at all",
    ),
    "too few results of sending": Mistake(
        Wrong("SendTransactions", forgetting_the_last("results")),
        "malformed-bytes-are-told-apart",
        "answers of SendTransactions",
        {"a-forged-signature-is-refused"},
    ),
    "everything sent is malformed": Mistake(
        Wrong("SendTransactions", always("results", MALFORMED)),
        "malformed-bytes-are-told-apart",
        "between two that are none",
        {"a-forged-signature-is-refused"},
    ),
    "forgeries are taken": Mistake(
        Wrong("SendTransactions", single_taken),
        "a-forged-signature-is-refused",
        "no error",
    ),
    "another signature is told": Mistake(
        Wrong("SendTransactions", lambda q, a: setattr(a.results[0], "signature", "abc")),
        "a-forged-signature-is-refused",
        "'abc'",
    ),
    "what never was has a slot": Mistake(
        Wrong("GetSignatureStatuses", found("statuses")),
        "unknown-signatures-are-not-found",
        "slot: 5",
    ),
    "a status of no node": Mistake(
        Wrong("GetSignatureStatuses", setting(node="")),
        "unknown-signatures-are-not-found",
        "node ''",
    ),
    "a status of no slot": Mistake(
        Wrong("GetSignatureStatuses", setting(context_slot=0)),
        "unknown-signatures-are-not-found",
        "context_slot 0",
    ),
    "too few statuses": Mistake(
        Wrong("GetSignatureStatuses", forgetting_the_last("statuses")),
        "unknown-signatures-are-not-found",
        "answers of GetSignatureStatuses",
        {"five-hundred-items-and-no-more"},
    ),
    "what never was has a record": Mistake(
        Wrong("GetTransactions", found("transactions")),
        "unknown-transactions-are-not-found",
        "slot: 5",
    ),
    "a record of no node": Mistake(
        Wrong("GetTransactions", setting(node="")),
        "unknown-transactions-are-not-found",
        "node ''",
    ),
    "501 simulations": Mistake(
        Wrong("SimulateTransactions", request=first_only("transactions")),
        "five-hundred-items-and-no-more",
        "SimulateTransactions of 501 items",
    ),
    "501 transactions sent": Mistake(
        Wrong("SendTransactions", request=first_only("transactions")),
        "five-hundred-items-and-no-more",
        "SendTransactions of 501 items",
    ),
    "501 statuses": Mistake(
        Wrong("GetSignatureStatuses", request=first_only("signatures")),
        "five-hundred-items-and-no-more",
        "GetSignatureStatuses of 501 items",
    ),
    "501 records": Mistake(
        Wrong("GetTransactions", request=first_only("signatures")),
        "five-hundred-items-and-no-more",
        "GetTransactions of 501 items",
    ),
    "gifts for strangers": Mistake(
        Wrong("GetBalances", gift),
        "a-stranger-holds-nothing",
        SOL.mint,
    ),
    "balances of no slot": Mistake(
        Wrong("GetBalances", setting(context_slot=0)),
        "a-stranger-holds-nothing",
        "GetBalances",
    ),
    "signatures of somebody else": Mistake(
        Wrong("ListSignatures", foreign),
        "a-stranger-holds-nothing",
        "of somebody else",
    ),
    "a list of no slot": Mistake(
        Wrong("ListSignatures", setting(context_slot=0)),
        "a-stranger-holds-nothing",
        "ListSignatures",
    ),
}


async def test_the_simulators_chain_keeps_every_promise(world: World) -> None:
    chain = ChainAt(await world.channel(world.chain))

    found = {finding.check: finding async for finding in examine(chain, CHAIN_CHECKS)}

    not_checked = found.pop("history-comes-in-pages")
    assert {f.check: f.words for f in found.values() if f.outcome is not Outcome.OK} == {}
    assert "--wallet" in not_checked.words["why"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mistake", WRONG)
async def test_a_chain_that_is_wrong_fails_the_check_that_says_so(
    mistake: str, still_world: World
) -> None:
    # A watch that is open is silent for a second, which other tests look at.
    quickly = [
        check for check in CHAIN_CHECKS if check.run is not records.a_watch_of_signatures_opens
    ]

    found = await failed(await still_world.wrong_chain(WRONG[mistake].wrong), quickly)

    assert WRONG[mistake].is_told(found), found


def test_every_check_has_a_chain_that_breaks_it() -> None:
    elsewhere = {"a-watch-of-signatures-opens", "history-comes-in-pages"}

    assert {mistake.check for mistake in WRONG.values()} | elsewhere == {
        check.name for check in CHAIN_CHECKS
    }


@pytest.mark.parametrize("code", ["UNIMPLEMENTED", "INTERNAL"])
async def test_a_watch_of_signatures_that_fails_is_told(code: str, world: World) -> None:
    await world.inject(call="WatchSignatures", fail={"code": code})
    chain = ChainAt(await world.channel(world.chain))

    found = await failed(chain, CHAIN_CHECKS)

    assert found.keys() == {"a-watch-of-signatures-opens"}
    assert code in found["a-watch-of-signatures-opens"].words["came"]
