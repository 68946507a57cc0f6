"""The checks of a swap pass the simulator, and fail a chain that is wrong about the swap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest

from dex_sim.market import SOL
from engine.v1 import chain_pb2 as pb
from oee.conformance import records, swap
from oee.conformance.check import Outcome, examine
from oee.conformance.suite import CHAIN_CHECKS, SWAP_CHECKS
from tests.oee.conformance.conftest import Mistake, World, Wrong, failed

Answer = Callable[[Any, Any], object]
NOT_FOUND = pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND
MALFORMED = pb.TRANSACTION_ERROR_REASON_MALFORMED


def always(items: str, reason: pb.TransactionErrorReason.ValueType) -> Answer:
    """Every item has this error."""

    def answer(request: Any, response: Any) -> None:
        for item in getattr(response, items):
            item.error.reason = reason

    return answer


def unlike(field: str, value: Any) -> Answer:
    def answer(request: Any, response: Any) -> None:
        for item in response.transactions:
            if item.found:
                setattr(item, field, value)

    return answer


def without_signers(request: Any, response: Any) -> None:
    for item in response.transactions:
        item.ClearField("signers")


def without_changes(request: Any, response: Any) -> None:
    for item in response.transactions:
        item.ClearField("changes")


def in_tokens(request: Any, response: Any) -> None:
    for item in response.transactions:
        for change in item.changes:
            change.before = "1.5"


def falling() -> Answer:
    """All nodes are one, which takes back what it said."""
    commitments = cycle([pb.COMMITMENT_CONFIRMED, pb.COMMITMENT_PROCESSED])

    def answer(request: Any, response: Any) -> None:
        response.node = "node-1"
        for status in response.statuses:
            status.found = True
            status.commitment = next(commitments)

    return answer


def no_memo(request: Any, response: Any) -> None:
    for record in response.signatures:
        record.memo = ""


def twice(request: Any, response: Any) -> None:
    response.signatures.extend(list(response.signatures))


def resending_refused(request: Any, response: Any) -> None:
    if len(request.transactions) == 2:
        response.results[1].error.reason = pb.TRANSACTION_ERROR_REASON_BLOCKHASH_NOT_FOUND


def slippage_unnamed(request: Any, response: Any) -> None:
    for result in response.results:
        if result.HasField("error"):
            result.error.reason = pb.TRANSACTION_ERROR_REASON_PROGRAM_FAILED


WRONG_SWAPS = {
    "nothing simulates": Mistake(
        Wrong("SimulateTransactions", always("results", MALFORMED)),
        "a-quoted-swap-simulates",
        "MALFORMED",
        {"a-missed-floor-swaps-nothing"},
    ),
    "nothing is taken": Mistake(
        Wrong("SendTransactions", always("results", NOT_FOUND)),
        "a-sent-swap-is-taken",
        "BLOCKHASH_NOT_FOUND",
    ),
    "not taken again": Mistake(
        Wrong("SendTransactions", resending_refused),
        "sending-again-is-safe",
        "BLOCKHASH_NOT_FOUND",
    ),
    "a status that falls": Mistake(
        Wrong("GetSignatureStatuses", falling()),
        "a-status-only-rises",
        "commitment",
        {"a-missed-floor-swaps-nothing"},
    ),
    "a record without changes": Mistake(
        Wrong("GetTransactions", without_changes),
        "the-record-is-what-was-agreed",
        "0 paid and 0 received",
        {"a-watch-tells-what-the-records-tell"},
    ),
    "a record in whole tokens": Mistake(
        Wrong("GetTransactions", in_tokens),
        "the-record-is-what-was-agreed",
        "1.5",
        {"a-watch-tells-what-the-records-tell"},
    ),
    "a record without a fee": Mistake(
        Wrong("GetTransactions", unlike("fee_lamports", 0)),
        "the-record-is-what-was-agreed",
        "0 lamports",
        {"a-watch-tells-what-the-records-tell"},
    ),
    "a record without its signer": Mistake(
        Wrong("GetTransactions", without_signers),
        "the-record-is-what-was-agreed",
        "the only signer",
        {"a-watch-tells-what-the-records-tell"},
    ),
    "a record without its memo": Mistake(
        Wrong("GetTransactions", unlike("memo", "")),
        "the-record-is-what-was-agreed",
        "the memo",
        {"a-watch-tells-what-the-records-tell"},
    ),
    "a watch that tells fewer records": Mistake(
        Wrong("WatchSignatures", lambda q, a: a.signatures.append("another")),
        "a-watch-tells-what-the-records-tell",
        "2 records with as many signatures",
    ),
    "a watch whose records no node tells": Mistake(
        Wrong("WatchSignatures", lambda q, a: a.ClearField("node")),
        "a-watch-tells-what-the-records-tell",
        "node ''",
    ),
    "a watch of another slot": Mistake(
        Wrong("WatchSignatures", unlike("slot", 5)),
        "a-watch-tells-what-the-records-tell",
        "slot: 5",
    ),
    "a watch of other amounts": Mistake(
        Wrong("WatchSignatures", without_changes),
        "a-watch-tells-what-the-records-tell",
        "the record of node-",
    ),
    "a history without memos": Mistake(
        Wrong("ListSignatures", no_memo),
        "the-history-has-it-once-with-its-memo",
        "1 times",
    ),
    "a history with everything twice": Mistake(
        Wrong("ListSignatures", twice),
        "the-history-has-it-once-with-its-memo",
        "2 times",
    ),
    "a missed floor by another name": Mistake(
        Wrong("SimulateTransactions", slippage_unnamed),
        "a-missed-floor-swaps-nothing",
        "PROGRAM_FAILED",
    ),
}


async def test_a_funded_swap_and_its_history_are_right_with_the_simulator(world: World) -> None:
    await world.fund(SOL.mint)
    desk = await world.desk()

    swaps = [finding async for finding in examine(desk, SWAP_CHECKS)]
    # Its own swap, the one that failed, and another pair make a history of pages.
    await failed(await world.desk(), SWAP_CHECKS)
    [pages] = [
        finding
        async for finding in examine(desk.chain, CHAIN_CHECKS)
        if finding.check == "history-comes-in-pages"
    ]

    assert {f.check: f.words for f in swaps if f.outcome is not Outcome.OK} == {}
    assert (pages.outcome, dict(pages.words)) == (Outcome.OK, {})


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mistake", WRONG_SWAPS)
async def test_a_chain_that_is_wrong_about_a_swap_fails_the_check_that_says_so(
    mistake: str, still_world: World
) -> None:
    await still_world.fund(SOL.mint)

    found = await failed(await still_world.desk(WRONG_SWAPS[mistake].wrong), SWAP_CHECKS)

    assert WRONG_SWAPS[mistake].is_told(found), found


def test_every_check_has_a_chain_that_breaks_it() -> None:
    assert {mistake.check for mistake in WRONG_SWAPS.values()} == {
        check.name for check in SWAP_CHECKS
    }


async def test_a_chain_whose_watch_tells_no_records_is_not_blamed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "WATCH_SECONDS", 2)
    await world.fund(SOL.mint)
    desk = await world.desk(Wrong("WatchSignatures", lambda q, a: a.ClearField("transactions")))

    found = {finding.check: finding async for finding in examine(desk, SWAP_CHECKS)}

    not_checked = found.pop("a-watch-tells-what-the-records-tell")
    assert "told no record" in not_checked.words["why"]
    assert {finding.outcome for finding in found.values()} == {Outcome.OK}


async def test_a_swap_that_falls_below_its_quote_is_told(world: World) -> None:
    await world.fund(SOL.mint)
    await world.inject(slip={}, times=1)

    found = await failed(await world.desk(), SWAP_CHECKS)

    assert "SLIPPAGE_EXCEEDED" in found["a-status-only-rises"].words["came"]


async def test_a_wallet_that_holds_nothing_swaps_nothing(world: World) -> None:
    found = [finding async for finding in examine(await world.desk(), SWAP_CHECKS)]

    assert {finding.outcome for finding in found} == {Outcome.NOT_CHECKED}
    assert "no lamports" in found[0].words["why"]


def oldest_first(request: Any, response: Any) -> None:
    response.signatures.sort(key=lambda record: record.slot)


def one_more(request: Any, response: Any) -> None:
    response.signatures.extend(response.signatures[-1:])


PAGES = "history-comes-in-pages"
WRONG_PAGES = {
    "oldest first": Mistake(Wrong("ListSignatures", oldest_first), PAGES, "the newest first"),
    "one more than asked": Mistake(Wrong("ListSignatures", one_more), PAGES, "at most"),
    "from the newest again": Mistake(
        Wrong("ListSignatures", request=lambda request: request.ClearField("before")),
        PAGES,
        "older than",
    ),
    "from the first slot": Mistake(
        Wrong("ListSignatures", request=lambda request: request.ClearField("min_slot")),
        PAGES,
        "only slots from",
    ),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mistake", WRONG_PAGES)
async def test_a_history_that_is_wrong_about_its_pages_is_told(
    mistake: str, still_world: World
) -> None:
    await still_world.fund(SOL.mint)
    for _ in range(2):
        await failed(await still_world.desk(), SWAP_CHECKS)
    pages = [check for check in records.CHECKS if check.name == PAGES]

    found = await failed(await still_world.wrong_chain(WRONG_PAGES[mistake].wrong), pages)

    assert WRONG_PAGES[mistake].is_told(found), found
