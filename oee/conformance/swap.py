"""What venue and chain promise together: two swaps of a funded wallet, and one that must fail.

This part spends: a millionth of a pool's reserve twice, and the network's fee three times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import grpc
from solders.keypair import Keypair

from engine.programs import U64_MAX
from engine.v1 import chain_pb2, venue_pb2
from oee.conformance import transactions
from oee.conformance.builds import instructions_of
from oee.conformance.chain import FINALIZED, TRIES, ChainAt, error_of
from oee.conformance.check import Broken, Check, NotChecked, checks
from oee.conformance.venue import Venue
from oee.conformance.written import amount_of

# Of a market's usual amount, which is a thousandth of the reserve.
SHARE: Final = 1000
LEAST_OUT: Final = 100
# What the swap may yield less than was quoted.
SLIPPAGE_BPS: Final = 500
BPS: Final = 10_000
POLL_SECONDS: Final = 0.2
# How long a watch may take to begin, and how long it is listened to.
BEGIN_SECONDS: Final = 2.0
WATCH_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed swap: what was quoted, the floor it carries, and the bytes."""

    quote: venue_pb2.Quote
    floor: int
    memo: str
    unsigned: bytes
    signature: str
    raw: bytes


class Desk:
    """A funded wallet between a venue and a chain; what was signed and sent once is remembered."""

    def __init__(self, venue: Venue, chain: ChainAt, key: Keypair) -> None:
        self.venue = venue
        self.chain = chain
        self.wallet = str(key.pubkey())
        self._key = key
        self._signed: Signed | None = None
        self.taken = False

    async def swap(self) -> Signed:
        """The swap that is to land, the same one each time."""
        if self._signed is None:
            self._signed = await self.sign()
        return self._signed

    async def sent(self) -> Signed:
        """The swap, once the chain has taken it; raises NotChecked when it has not."""
        if not self.taken or self._signed is None:
            raise NotChecked("the swap was not taken")
        return self._signed

    async def sign(self, floor: int | None = None) -> Signed:
        """A swap of something that the wallet holds; without a floor, one that it should meet."""
        held = await self._balances()
        if not held[""]:
            raise NotChecked(f"the wallet {self.wallet} has no lamports for the network's fee")
        for market in await self.venue.markets():
            amount = max(1, market.amount // SHARE)
            if held.get(market.mint_in, 0) < amount:
                continue
            [quote] = await self.venue.quotes([market.query(amount)])
            if quote.amount_out >= LEAST_OUT:
                return await self._sign(quote, floor)
        raise NotChecked(f"the wallet {self.wallet} holds nothing that this venue swaps")

    async def finalized(self, signature: str) -> chain_pb2.SignatureStatus:
        """Its status once that is finalized; the check's deadline is the caller's patience.

        Raises Broken when one node takes back what it said.
        """
        said: dict[str, chain_pb2.SignatureStatus] = {}
        while True:
            response = await self.chain.statuses([signature])
            [status] = response.statuses
            before = said.get(response.node)
            if before is not None:
                _require_no_less(response.node, before, status)
            if status.found:
                said[response.node] = status
            if status.commitment == FINALIZED:
                return status
            await asyncio.sleep(POLL_SECONDS)

    async def record(self, signature: str) -> chain_pb2.TransactionRecord:
        """What it did, once a node tells; the check's deadline is the caller's patience."""
        while True:
            [record] = (await self.chain.records([signature])).transactions
            if record.found:
                return record
            await asyncio.sleep(POLL_SECONDS)

    async def told(self, swap: Signed) -> AsyncGenerator[chain_pb2.WatchSignaturesResponse, None]:
        """What a watch tells of a swap that is sent once it has begun, for WATCH_SECONDS.

        Raises NotChecked when the swap is not taken, or the watch fails.
        """
        request = chain_pb2.WatchSignaturesRequest(wallet=self.wallet)
        watch = self.chain.stub.WatchSignatures(request, timeout=WATCH_SECONDS)
        begun = asyncio.ensure_future(watch.initial_metadata())
        try:
            # Some servers have no headers before they have something to tell.
            await asyncio.wait({begun}, timeout=BEGIN_SECONDS)
            [sent] = await self.chain.sent([swap.raw])
            if sent.HasField("error"):
                raise NotChecked(f"the swap was not taken: {error_of(sent.error)}")
            async for changed in watch:
                if swap.signature in changed.signatures:
                    yield changed
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotChecked(f"the watch failed: {error.code().name}") from None
        finally:
            begun.cancel()
            watch.cancel()

    def gained(self, record: chain_pb2.TransactionRecord, mint: str) -> int:
        """How much more of a mint the wallet has by it; raises Broken for malformed balances."""
        total = 0
        for change in record.changes:
            if (change.owner, change.mint) != (self.wallet, mint):
                continue
            before, after = amount_of(change.before), amount_of(change.after)
            if before is None or after is None:
                raise Broken(
                    "balances before and after as decimal strings",
                    f"{change.before!r} and {change.after!r}",
                    "write base units as a decimal string",
                )
            total += after - before
        return total

    async def _balances(self) -> dict[str, int]:
        request = chain_pb2.GetBalancesRequest(wallet=self.wallet)
        held = await self.chain.ask("GetBalances", request)
        return {"": held.lamports} | {b.mint: amount_of(b.amount) or 0 for b in held.balances}

    async def _sign(self, quote: venue_pb2.Quote, floor: int | None) -> Signed:
        least = quote.amount_out * (BPS - SLIPPAGE_BPS) // BPS if floor is None else floor
        order = self.venue.order(quote, least)
        order.wallet = self.wallet
        [swap] = await self.venue.swaps([order])
        memo = f"oee venue check {uuid4()}"
        try:
            instructions = instructions_of(swap)
        except ValueError:
            raise NotChecked("the venue's instructions have malformed addresses") from None
        blockhash = await self.chain.blockhash()
        message = transactions.message(self._key, instructions, memo, blockhash)
        signature, raw = transactions.signed(self._key, message)
        return Signed(quote, least, memo, transactions.unsigned(message), signature, raw)


async def a_quoted_swap_simulates(desk: Desk) -> None:
    """The swap that was quoted and built would succeed, by the chain's simulation."""
    [result] = await desk.chain.simulated([(await desk.swap()).unsigned])
    if result.HasField("error"):
        raise Broken(
            "a simulation without an error",
            error_of(result.error),
            "build what the program takes, and simulate it on the state that was quoted from",
        )


async def a_sent_swap_is_taken(desk: Desk) -> None:
    """A signed swap is taken, and told by its own signature."""
    swap = await desk.swap()
    [result] = await desk.chain.sent([swap.raw])
    if result.HasField("error"):
        raise Broken(
            "a node that takes the swap", error_of(result.error), "forward it to the network"
        )
    desk.taken = True
    if result.signature != swap.signature:
        raise Broken(
            f"signature {swap.signature}", repr(result.signature), "tell the first signature"
        )


async def sending_again_is_safe(desk: Desk) -> None:
    """The same bytes may be sent any number of times: they are the same transaction."""
    swap = await desk.sent()
    for result in await desk.chain.sent([swap.raw, swap.raw]):
        already = chain_pb2.TRANSACTION_ERROR_REASON_ALREADY_PROCESSED
        if result.signature != swap.signature or (
            result.HasField("error") and result.error.reason != already
        ):
            raise Broken(
                f"signature {swap.signature}, and no error but ALREADY_PROCESSED",
                f"{result.signature!r}"
                + (f" with {error_of(result.error)}" if result.HasField("error") else ""),
                "take what was sent before once more; it lands once all the same",
            )


async def a_status_only_rises(desk: Desk) -> None:
    """Of one node, the swap goes from processed to finalized, in one slot, and never back."""
    status = await desk.finalized((await desk.sent()).signature)
    if status.HasField("error"):
        raise Broken(
            f"a swap that keeps its floor, {SLIPPAGE_BPS} bps below its quote",
            error_of(status.error),
            "quote what the pool really pays",
        )


async def the_record_is_what_was_agreed(desk: Desk) -> None:
    """Its record shows what the wallet paid and received: all of amount_in, at least the floor."""
    swap = await desk.sent()
    record = await desk.record(swap.signature)
    paid = -desk.gained(record, swap.quote.mint_in)
    received = desk.gained(record, swap.quote.mint_out)
    if paid != swap.quote.amount_in or received < swap.floor:
        raise Broken(
            f"{swap.quote.amount_in} of {swap.quote.mint_in} paid and at least {swap.floor} of "
            f"{swap.quote.mint_out} received",
            f"{paid} paid and {received} received",
            "tell the token balances of the wallet before and after, network fees left out",
        )
    if not record.fee_lamports:
        raise Broken("the network's fee", "0 lamports", "tell what the wallet paid for landing")
    if list(record.signers) != [desk.wallet]:
        raise Broken(
            f"the only signer {desk.wallet}",
            ", ".join(record.signers) or "none",
            "tell who signed: it tells our transactions from those with a memo like ours",
        )
    if record.memo != swap.memo:
        raise Broken(
            f"the memo {swap.memo!r}", repr(record.memo), "tell the memo's text, all of it"
        )


async def a_watch_tells_what_the_records_tell(desk: Desk) -> None:
    """The records that a watch tells are those that GetTransactions of the same node would tell."""
    await desk.sent()
    swap = await desk.sign()
    compared = 0
    async with aclosing(desk.told(swap)) as changes:
        async for changed in changes:
            if not changed.transactions:
                continue
            told = _told(changed, swap.signature)
            compared += told.found and await _agrees(desk.chain, changed, told, swap.signature)
            if told.commitment == FINALIZED:
                break
    if not compared:
        raise NotChecked("the watch told no record of a swap, so the engine reads it")


def _told(
    changed: chain_pb2.WatchSignaturesResponse, signature: str
) -> chain_pb2.TransactionRecord:
    if len(changed.transactions) != len(changed.signatures):
        raise Broken(
            f"{len(changed.signatures)} records with as many signatures, or none",
            str(len(changed.transactions)),
            "tell a record of each, in their order; found false where there is none at hand",
        )
    if not changed.node or not changed.context_slot:
        raise Broken(
            "the name and the slot of the node that tells the records",
            f"node {changed.node!r}, context_slot {changed.context_slot}",
            "set both, from one node: they are the evidence that an order is settled on",
        )
    return changed.transactions[list(changed.signatures).index(signature)]


async def _agrees(
    chain: ChainAt,
    changed: chain_pb2.WatchSignaturesResponse,
    told: chain_pb2.TransactionRecord,
    signature: str,
) -> bool:
    """Whether that node could be asked afterwards; raises Broken when it tells another record."""
    for _ in range(TRIES):
        response = await chain.records([signature])
        if response.node == changed.node and response.context_slot >= changed.context_slot:
            [read] = response.transactions
            # It may be more settled by now.
            expected = chain_pb2.TransactionRecord()
            expected.CopyFrom(read)
            expected.commitment = min(read.commitment, told.commitment)
            if told != expected:
                raise Broken(
                    f"the record of {changed.node}: {_in_a_line(read)}",
                    _in_a_line(told),
                    "tell what GetTransactions tells, or nothing: it is acted upon",
                )
            return True
    return False


def _in_a_line(record: chain_pb2.TransactionRecord) -> str:
    return " ".join(str(record).split())


async def the_history_has_it_once_with_its_memo(desk: Desk) -> None:
    """The wallet's signatures have it once, with its memo: that is how a lost order is found."""
    swap = await desk.sent()
    await desk.record(swap.signature)
    request = chain_pb2.ListSignaturesRequest(wallet=desk.wallet, limit=100)
    listed = (await desk.chain.ask("ListSignatures", request)).signatures
    memos = [record.memo for record in listed if record.signature == swap.signature]
    if memos != [swap.memo]:
        raise Broken(
            f"{swap.signature} once, with the memo {swap.memo!r}",
            f"it {len(memos)} times" + (f", with the memo {memos[0]!r}" if memos else ""),
            "list everything that landed for the wallet, and the text of its memo",
        )


async def a_missed_floor_swaps_nothing(desk: Desk) -> None:
    """A swap whose floor cannot be met fails as SLIPPAGE_EXCEEDED, and moves no tokens."""
    await desk.sent()
    swap = await desk.sign(floor=U64_MAX)
    [simulated] = await desk.chain.simulated([swap.unsigned])
    _require_slippage("its simulation", simulated)
    [sent] = await desk.chain.sent([swap.raw])
    if sent.HasField("error"):
        return  # a node that tries it first need not take it
    status = await desk.finalized(swap.signature)
    _require_slippage("its status", status)
    record = await desk.record(swap.signature)
    moved = [desk.gained(record, mint) for mint in (swap.quote.mint_in, swap.quote.mint_out)]
    if any(moved):
        raise Broken(
            "no tokens moved by a swap that failed",
            f"{-moved[0]} paid and {moved[1]} received",
            "tell what really happened; a failed transaction takes its fee alone",
        )


def _require_slippage(
    what: str, result: chain_pb2.SimulationResult | chain_pb2.SignatureStatus
) -> None:
    if result.error.reason != chain_pb2.TRANSACTION_ERROR_REASON_SLIPPAGE_EXCEEDED:
        raise Broken(
            f"the error SLIPPAGE_EXCEEDED in {what}",
            error_of(result.error) if result.HasField("error") else "no error",
            "put the floor into the instruction, and name the program's error so",
        )


def _require_no_less(
    node: str, before: chain_pb2.SignatureStatus, after: chain_pb2.SignatureStatus
) -> None:
    if not after.found or after.commitment < before.commitment or after.slot != before.slot:
        raise Broken(
            f"at least commitment {before.commitment} in slot {before.slot} of {node}, as before",
            f"commitment {after.commitment} in slot {after.slot}" if after.found else "no record",
            "give different nodes different names, and tell each one's own view",
        )


CHECKS: Final[tuple[Check[Desk], ...]] = checks(
    a_quoted_swap_simulates,
    a_sent_swap_is_taken,
    sending_again_is_safe,
    a_status_only_rises,
    the_record_is_what_was_agreed,
    a_watch_tells_what_the_records_tell,
    the_history_has_it_once_with_its_memo,
    a_missed_floor_swaps_nothing,
)
