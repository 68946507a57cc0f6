"""What the chain's records promise: statuses, transactions, balances, signatures."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import grpc

from engine.v1 import chain_pb2 as pb
from oee.conformance import transactions
from oee.conformance.chain import MAX_ITEMS, ChainAt
from oee.conformance.check import Broken, Check, NotChecked, checks

# How long a watch must hold without an error to count as open.
OPEN_SECONDS: Final = 1.0


async def unknown_signatures_are_not_found(chain: ChainAt) -> None:
    """A signature that never landed has found = false and nothing else, and a node says so."""
    unknown = [str(chain.stranger.sign_message(bytes([n]))) for n in range(3)]
    response = await chain.statuses(unknown)
    for status in response.statuses:
        if status != pb.SignatureStatus():
            raise Broken(
                "found false, and nothing else set, for a signature that never was",
                " ".join(str(status).split()),
                "tell only what the node has on record; it is what proves an order dead or done",
            )
    _require_node("GetSignatureStatuses", response)


async def unknown_transactions_are_not_found(chain: ChainAt) -> None:
    """A transaction that never landed has found = false and nothing else, and a node says so."""
    unknown = [str(chain.stranger.sign_message(bytes([n]))) for n in range(3)]
    response = await chain.records(unknown)
    for record in response.transactions:
        if record != pb.TransactionRecord():
            raise Broken(
                "found false, and nothing else set, for a transaction that never was",
                " ".join(str(record).split()),
                "tell only what the node has on record",
            )
    _require_node("GetTransactions", response)


async def five_hundred_items_and_no_more(chain: ChainAt) -> None:
    """A call takes 500 items; one with more is INVALID_ARGUMENT."""
    signature = str(chain.stranger.sign_message(b""))
    await chain.statuses([signature] * MAX_ITEMS)
    more = MAX_ITEMS + 1
    raw = [transactions.GARBAGE] * more
    for method, request in (
        ("SimulateTransactions", pb.SimulateTransactionsRequest(transactions=raw)),
        ("SendTransactions", pb.SendTransactionsRequest(transactions=raw)),
        ("GetSignatureStatuses", pb.GetSignatureStatusesRequest(signatures=[signature] * more)),
        ("GetTransactions", pb.GetTransactionsRequest(signatures=[signature] * more)),
    ):
        await chain.ask.is_refused(method, request, f"{more} items")


async def a_stranger_holds_nothing(chain: ChainAt) -> None:
    """A wallet that nobody has heard of holds nothing and has no signatures: no error."""
    wallet = str(chain.stranger.pubkey())
    held = await chain.ask("GetBalances", pb.GetBalancesRequest(wallet=wallet))
    if held.lamports or held.balances:
        raise Broken(
            "nothing in a wallet that nobody has heard of",
            " ".join(f"{held.lamports} lamports {held.balances}".split()),
            "read the balances of the wallet that was asked for",
        )
    listed = await chain.ask("ListSignatures", pb.ListSignaturesRequest(wallet=wallet))
    if listed.signatures:
        raise Broken(
            "no signatures of a wallet that nobody has heard of",
            listed.signatures[0].signature,
            "list the signatures of the wallet that was asked for",
        )
    for method, response in (("GetBalances", held), ("ListSignatures", listed)):
        if not response.context_slot:
            raise Broken(f"the slot of the node that answers {method}", "0", "set context_slot")


async def history_comes_in_pages(chain: ChainAt) -> None:
    """ListSignatures has the newest first, as many as asked, and goes on before a signature."""
    if not chain.wallet:
        raise NotChecked("it needs a wallet that has traded: --wallet ADDRESS")
    whole = await _page(chain, 3, "")
    if len(whole) < 3:
        raise NotChecked(f"the wallet {chain.wallet} has landed {len(whole)} signatures, not 3")
    if any(one.slot < next_one.slot for one, next_one in pairwise(whole)):
        raise Broken(
            "the newest first",
            " then ".join(f"slot {record.slot}" for record in whole),
            "order by slot, descending",
        )
    rest = await _page(chain, 2, whole[0].signature)
    if rest != whole[1:]:
        raise Broken(
            f"the two signatures older than {whole[0].signature}",
            ", ".join(record.signature for record in rest) or "none",
            "go on with what is older than `before`, that one left out",
        )
    old = await chain.ask(
        "ListSignatures",
        pb.ListSignaturesRequest(wallet=chain.wallet, min_slot=whole[1].slot, limit=MAX_ITEMS),
    )
    if any(record.slot < whole[1].slot for record in old.signatures):
        raise Broken(
            f"only slots from {whole[1].slot} on",
            f"slot {min(record.slot for record in old.signatures)}",
            "leave out what is before min_slot",
        )


async def a_watch_of_signatures_opens(chain: ChainAt) -> None:
    """WatchSignatures of any wallet opens and stays open, whether anything happens or not."""
    request = pb.WatchSignaturesRequest(wallet=str(chain.stranger.pubkey()))
    call = chain.stub.WatchSignatures(request, timeout=OPEN_SECONDS)
    try:
        async for response in call:
            raise Broken(
                "silence about a wallet that nobody has heard of",
                ", ".join(response.signatures),
                "tell only of the wallet that was asked for",
            )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return  # it was open all the time
        came = f"{error.code().name}: {error.details()}"
    else:
        came = "its end"
    finally:
        call.cancel()
    raise Broken("a stream that stays open", came, "keep it open until the client leaves")


async def _page(chain: ChainAt, limit: int, before: str) -> list[pb.SignatureRecord]:
    request = pb.ListSignaturesRequest(wallet=chain.wallet, limit=limit, before=before)
    page = (await chain.ask("ListSignatures", request)).signatures
    if len(page) > limit:
        raise Broken(f"at most {limit} signatures", str(len(page)), "keep to the limit")
    return list(page)


def _require_node(method: str, response: Any) -> None:
    if not response.context_slot or not response.node:
        raise Broken(
            f"the name and the slot of the node that answers {method}",
            f"node {response.node!r}, context_slot {response.context_slot}",
            "set both, from one node: absence counts only from a node that is recent enough",
        )


CHECKS: Final[tuple[Check[ChainAt], ...]] = checks(
    unknown_signatures_are_not_found,
    unknown_transactions_are_not_found,
    five_hundred_items_and_no_more,
    a_stranger_holds_nothing,
    history_comes_in_pages,
    a_watch_of_signatures_opens,
)
