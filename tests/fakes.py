"""A venue and a chain that behave, small enough to steer from a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from engine import programs
from engine.chain import (
    Blockhash,
    Commitment,
    HeightReading,
    HistoryPage,
    No,
    SignatureReading,
    StatusReading,
    TransactionReading,
)
from engine.errors import Refused, Unanswered
from engine.instructions.swap import KIND_OF_PROGRAM, LAYOUTS, read_amounts, swap_instruction
from engine.instructions.terms import Parties, SwapTerms
from engine.quoting import Quoter
from engine.routing.candidates import DEFAULT_KIND
from engine.routing.paths import Rules
from engine.store import Store
from engine.v1 import venue_pb2
from engine.venue import BuiltSwap, Venue
from tests import builders, swaps

HISTORY_PAGE = 2
MINTS = (builders.SOL, builders.USDC, builders.RAY)


class FakeVenue:
    """Gives `rate` base units of token_out per thousand of token_in, unless it has a `refusal`."""

    def __init__(self, name: str, rate: int = 150, kind: str = "") -> None:
        self.name = name
        self.rate = rate
        self.kind = kind or DEFAULT_KIND[name]
        self.price_impact_ppm = 0
        self.refusal: Refused | None = None
        self.garble: Callable[[list[Instruction]], list[Instruction]] = lambda built: built

    async def quote(self, query: venue_pb2.QuoteQuery, timeout_seconds: float) -> venue_pb2.Quote:
        if self.refusal is not None:
            raise self.refusal
        return venue_pb2.Quote(
            pool=str(swaps.pool_of(self.kind)[0]),
            mint_in=query.mint_in,
            mint_out=query.mint_out,
            amount_in=query.amount_in,
            amount_out=query.amount_in * self.rate // 1000,
            fee=query.amount_in // 400,
            price_impact_ppm=self.price_impact_ppm,
            slot=1,
            kind=self.kind,
        )

    async def pools(self) -> AsyncIterator[venue_pb2.WatchPoolsResponse]:
        raise Refused("VENUE_UNAVAILABLE", f"{self.name} has no stream of pools")
        yield

    async def build(self, swap: venue_pb2.SwapOrder) -> BuiltSwap:
        if self.refusal is not None:
            raise Refused(self.refusal.reason, str(self.refusal))
        agreed = swaps.parties(self.kind)
        terms = SwapTerms(
            Parties(
                self.kind,
                Pubkey.from_string(swap.pool),
                Pubkey.from_string(swap.mint_in),
                Pubkey.from_string(swap.mint_out),
                Pubkey.from_string(swap.wallet),
                agreed.arrays,
                agreed.market,
                config=2,
                zero_for_one=False,
            ),
            swap.amount_in,
            swap.min_amount_out,
        )
        built = self.garble([swap_instruction(terms)])
        return BuiltSwap(tuple(built), swaps.hints(terms.parties))


@dataclass(frozen=True)
class LandedSwap:
    """One swap of a transaction in a block."""

    mint_in: str
    mint_out: str
    amount_in: int
    min_amount_out: int


def asking(store: Store, venues: Mapping[str, Venue], quote_timeout_seconds: float = 2) -> Quoter:
    """A quoter that follows no stream: it asks these venues for every quote."""
    return Quoter.over(
        venues,
        store,
        Rules(),
        quote_timeout_seconds=quote_timeout_seconds,
        quote_locally=False,
        max_slot_lag=0,
        max_pool_share_bps=10_000,
    )


@dataclass
class Landed:
    """A transaction in a block."""

    slot: int
    error: str
    wallet: str
    swaps: tuple[LandedSwap, ...]
    memo: str
    # What each swap yielded more than usual.
    bonus: int = 0
    # Who signed it; "": the wallet.
    signer: str = ""

    def changes(self) -> dict[tuple[str, str], int]:
        """How the wallet's balances changed: a swap yields its floor and the slot's number."""
        changes: dict[tuple[str, str], int] = {}
        for swap in () if self.error else self.swaps:
            received = swap.min_amount_out + self.slot + self.bonus
            for mint, change in ((swap.mint_in, -swap.amount_in), (swap.mint_out, received)):
                changes[self.wallet, mint] = changes.get((self.wallet, mint), 0) + change
        return changes


AWAY = Unanswered("the chain did not answer")


class FakeChain:
    """A chain whose blocks the test makes; slot and height are the same here.

    What is sent lands with the next block while its blockhash lives. Confirmed one block deep,
    finalized `finality` blocks deep.
    """

    def __init__(self, *, validity: int = 3, finality: int = 2) -> None:
        self.height = 10
        self.validity = validity
        self.finality = finality
        self.sent: list[bytes] = []
        self.landed: dict[str, Landed] = {}
        self.away = False
        self.drops = False
        self.reverts = ""
        self.tells_signers = True
        self.status_lag = 0
        self.refusal: Refused | None = None
        # What a hint brings of a record.
        self.telling: Callable[[TransactionReading | None], TransactionReading | None] = (
            lambda record: None
        )
        self._expiry: dict[str, int] = {}

    def advance(self, blocks: int = 1) -> None:
        """Make blocks; what was sent and still may land does, in the first of them."""
        for _ in range(blocks):
            self.height += 1
            for transaction in self.sent:
                self._land(transaction)

    def _land(self, transaction: bytes) -> None:
        read = VersionedTransaction.from_bytes(transaction)
        signature, message = str(read.signatures[0]), read.message
        assert isinstance(message, MessageV0)
        if self.drops or signature in self.landed:
            return
        if self.height > self._expiry[str(message.recent_blockhash)]:
            return
        called = [
            (call, instruction.data)
            for call, instruction in zip(
                programs.shape_of(message).calls, message.instructions, strict=True
            )
        ]
        wallet = message.account_keys[0]
        landed = [_swap(call, data, wallet) for call, data in called if _is_swap(call)]
        [memo] = [data.decode() for call, data in called if call.program == programs.MEMO_PROGRAM]
        self.landed[signature] = Landed(self.height, self.reverts, str(wallet), tuple(landed), memo)

    def _answer(self) -> None:
        if self.away:
            raise AWAY

    async def latest_blockhash(self) -> Blockhash:
        self._answer()
        blockhash = str(Keypair.from_seed(self.height.to_bytes(32, "big")).pubkey())
        self._expiry[blockhash] = self.height + self.validity
        return Blockhash(blockhash, self._expiry[blockhash])

    async def finalized_height(self) -> HeightReading:
        self._answer()
        return HeightReading(self.height - self.finality, self.height)

    async def simulate(self, transactions: Sequence[bytes]) -> list[No | None]:
        return [AWAY if self.away else self.refusal] * len(transactions)

    async def send(self, transactions: Sequence[bytes]) -> list[No | None]:
        if not self.away:
            self.sent += transactions
        return [AWAY if self.away else None] * len(transactions)

    async def statuses(self, signatures: Sequence[str]) -> list[StatusReading]:
        self._answer()
        head = self.height - self.status_lag
        return [self._status(self.landed.get(signature), head) for signature in signatures]

    def _status(self, landed: Landed | None, head: int) -> StatusReading:
        if landed is None or landed.slot > head:
            return StatusReading(head, "node-1")
        depth = head - landed.slot
        commitment = (
            Commitment.FINALIZED
            if depth >= self.finality
            else Commitment.CONFIRMED
            if depth >= 1
            else Commitment.PROCESSED
        )
        return StatusReading(head, "node-1", commitment, landed.slot, landed.error)

    async def history(self, wallet: str, before: str) -> HistoryPage:
        self._answer()
        head = self.height - self.status_lag
        newest_first = [
            SignatureReading(signature, landed.slot, landed.error, landed.memo)
            for signature, landed in reversed(self.landed.items())
            if landed.slot <= head and landed.wallet == wallet
        ]
        places = [reading.signature for reading in newest_first]
        first = places.index(before) + 1 if before else 0
        return HistoryPage(head, tuple(newest_first[first : first + HISTORY_PAGE]))

    async def transactions(self, signatures: Sequence[str]) -> list[TransactionReading | None]:
        self._answer()
        return [self._record(self.landed.get(signature)) for signature in signatures]

    async def changes(
        self, wallet: str, wanted: Container[str]
    ) -> AsyncIterator[Mapping[str, TransactionReading | None]]:
        self._answer()
        changed = {s: landed for s, landed in self.landed.items() if s in wanted}
        if changed:
            yield {s: self.telling(self._record(landed)) for s, landed in changed.items()}
        raise Unanswered("the stream ended")

    def _record(self, landed: Landed | None) -> TransactionReading | None:
        if landed is None:
            return None
        commitment = self._status(landed, self.height).commitment or Commitment.PROCESSED
        return TransactionReading(
            landed.slot,
            landed.error,
            landed.changes(),
            5000,
            commitment,
            self.height,
            "node-1",
            (landed.signer or landed.wallet,) if self.tells_signers else (),
        )


def _is_swap(call: programs.Call) -> bool:
    return call.program in KIND_OF_PROGRAM


def _swap(call: programs.Call, data: bytes, wallet: Pubkey) -> LandedSwap:
    kind = KIND_OF_PROGRAM[call.program]
    layout = LAYOUTS[kind]
    mint_of = {programs.token_account(wallet, Pubkey.from_string(mint)): mint for mint in MINTS}
    mint_in, mint_out = (
        mint_of[call.accounts[place].pubkey] for place in (layout.pays, layout.receives)
    )
    return LandedSwap(mint_in, mint_out, *read_amounts(kind, data))
