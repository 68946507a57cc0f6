"""The chain: slots, blocks, and the transactions waiting for the next one."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Final

import msgspec
from solders.hash import Hash

from dex_sim import fork, market
from dex_sim.chance import Chance, Range
from dex_sim.crowd import Crowd
from dex_sim.effects import MAX_LAG_SLOTS, Site
from dex_sim.execution import CROWD, Accounts, Outcome, execute, land, require_fee
from dex_sim.faults import Faults, Injected, Occasion
from dex_sim.feed import Feeds
from dex_sim.history import BLOCKHASH_LIFE_BLOCKS, Block, History, Landed, landed_in
from dex_sim.ledger import Ledger
from dex_sim.mempool import Pending, occasion_of, taken
from dex_sim.transaction import Failure, Reason, Refused, Swap, Transaction

RECENT_SLOTS: Final = 150
MEMPOOL_LIMIT: Final = 20_000
BLOCK_LIMIT: Final = 2_000

GENESIS_SLOT: Final = 1_000
GENESIS_HEIGHT: Final = 950
# The chain's own clock, in unix seconds: it counts slots, however fast they really go.
GENESIS_TIME: Final = 1_767_225_600
CLOCK_SLOT_MILLISECONDS: Final = 400
# What the crowd has of each token as the chain begins: more than it can ever spend.
CROWD_FUNDS: Final = 10**30

PERCENT: Final = Range(0, 99)
BPS: Final = 10_000


class Rules(msgspec.Struct, frozen=True):
    """How this chain behaves; the settings of the same names."""

    skipped_slot_percent: int
    confirmed_after_slots: int
    finalized_after_slots: int
    drift_ppm: int
    trades_a_slot: int
    execution_slippage_bps: Range
    nodes: int
    node_lag_slots: int


class Landing(msgspec.Struct, eq=False):
    """What landed and is not finalized, and which faults have let it be (by id)."""

    transaction: Transaction
    outcome: Outcome
    spared_by: set[int]


class Chain:
    """One chain. A block is written before anything of it can be read, and stands, unless a fault
    switches forks: then what is not finalized may be taken back or changed.

    Nothing here awaits, so whoever reads between two calls of `advance` sees whole blocks.
    """

    def __init__(self, ledger: Ledger, chance: Chance, rules: Rules) -> None:
        self.rules = rules
        self.ledger = ledger
        self.faults = Faults(chance)
        self.nodes = [f"node-{number + 1}" for number in range(rules.nodes)]
        self.accounts = Accounts()
        self.signature_feeds = Feeds[str]()
        self.pool_feeds = Feeds[str]()
        # Set whenever there is something for the next block to do.
        self.wanted = asyncio.Event()
        self._chance = chance
        self._mempool: dict[str, Pending] = {}
        # Taken back by a fork switch, to be sent again from a slot on.
        self._returning: list[tuple[int, Transaction]] = []
        self._unfinalized: deque[tuple[Block, list[Landing]]] = deque()
        # Enough for every node to know every blockhash that is valid, and its finalized block.
        self.history = History(
            BLOCKHASH_LIFE_BLOCKS
            + rules.finalized_after_slots
            + rules.confirmed_after_slots
            + rules.node_lag_slots
        )
        self._remember()
        self._crowd = Crowd(chance, rules.drift_ppm, rules.trades_a_slot, list(self.accounts.pools))
        self._slot = self.faults.slot = self.head.slot
        self.heads = [self.head] * rules.nodes
        # Of the nodes that no fault holds back, the slot that all have reached.
        self._common_slot = self._slot

    @property
    def head(self) -> Block:
        """The newest block."""
        return self.history.head

    @property
    def time(self) -> int:
        """The chain's clock at the newest block, in unix seconds."""
        return clock_at(self.head.slot)

    @property
    def busy(self) -> bool:
        """Whether a transaction waits, or a node does not see one as finalized yet.

        Nodes that a fault holds back do not count.
        """
        return bool(
            self._mempool
            or self._returning
            or (
                self._unfinalized
                and self._unfinalized[-1][0].slot + self._deepest > self._common_slot
            )
        )

    @property
    def _deepest(self) -> int:
        return max(self.rules.confirmed_after_slots, self.rules.finalized_after_slots)

    def advance(self) -> None:
        """Move on by one slot; unless that is skipped, make a block of what is pending."""
        self._slot += 1
        self.faults.slot = self._slot
        if forks := self.faults.at(Site.RESULT):
            self._switch_forks(forks)
        if self._returning:
            self._send_again()
        skip = self._chance.draw("chain", "skip", self._slot, PERCENT)
        if skip >= self.rules.skipped_slot_percent:
            self._make_block()
        self._move_nodes()

    def landed_after(self, slot: int) -> Iterator[Outcome]:
        """What landed after a slot, newest block first; the slot must not be finalized."""
        for block, landings in reversed(self._unfinalized):
            if block.slot <= slot:
                return
            yield from (landing.outcome for landing in landings)

    def is_pending(self, signature: str) -> bool:
        """Whether a transaction waits for the next block."""
        return signature in self._mempool

    def accept(self, transaction: Transaction) -> None:
        """Let a verified transaction wait for the next block; safe to repeat.

        Raises Refused when too many wait already, or when its fee cannot be paid.
        """
        require_fee(transaction.message, self.accounts)
        if len(self._mempool) >= MEMPOOL_LIMIT:
            raise Refused(Reason.NODE_UNAVAILABLE, "too many transactions are waiting")
        pending: Pending | None = Pending(transaction)
        if self.faults:
            signed_with = self.history.block_of(transaction.message.blockhash)
            last_height = signed_with.last_valid_height if signed_with else 0
            pending = taken(transaction, self.faults, self.head.height + 1, last_height)
        if pending:
            self._mempool[transaction.signature] = pending
            self.wanted.set()

    def simulate(self, transaction: Transaction) -> Failure | None:
        """How a transaction would fail now, if it would; random slippage left out."""
        if not self._may_land(transaction, self.head.height + 1):
            return Failure(Reason.BLOCKHASH_NOT_FOUND, "the blockhash is unknown or expired")
        message = transaction.message
        try:
            require_fee(message, self.accounts)
            execute(message, self.accounts.draft(), self.time, lambda swap, quoted: quoted)
        except Refused as refused:
            return refused.failure
        return None

    def fund(self, wallet: str, mint: str, amount: int) -> int:
        """Give a wallet tokens (or LAMPORTS), at once and for all nodes; its new balance."""
        gift = self.accounts.draft()
        gift.add(wallet, mint, amount)
        self.ledger.set_balances(gift.balances)
        self.accounts.adopt(gift)
        return self.accounts.balance(wallet, mint)

    def close_feeds(self) -> None:
        """End all watches."""
        self.signature_feeds.close()
        self.pool_feeds.close()

    def _remember(self) -> None:
        states = self.ledger.pool_states()
        for pool in market.opening_pools():
            state = states.get(pool.address)
            self.accounts.pools[pool.address] = pool.in_state(*state) if state else pool
        self.accounts.balances = self.ledger.balances()
        blocks = self.ledger.blocks()
        if not blocks:
            genesis = Block(GENESIS_HEIGHT, GENESIS_SLOT, _blockhash("", GENESIS_SLOT))
            for mint in market.TOKENS:
                self.accounts.add(CROWD, mint, CROWD_FUNDS)
            self.ledger.append(
                genesis,
                [],
                self.accounts.balances,
                self.accounts.pools,
                keep_blocks=self.history.keep_blocks,
            )
            blocks = [genesis]
        landed: defaultdict[int, list[Landed]] = defaultdict(list)
        for past in self.ledger.landed_since(blocks[0].slot):
            landed[past.slot].append(past)
        for block in blocks:
            self.history.add(block, landed[block.slot], block.slot)

    def _make_block(self) -> None:
        block = Block(self.head.height + 1, self._slot, _blockhash(self.head.blockhash, self._slot))
        waiting = (p for p in self._mempool.values() if p.from_height <= block.height)
        candidates = list(islice(waiting, BLOCK_LIMIT))
        draft = self.accounts.draft()
        landings = self._land(candidates, block, draft)
        outcomes = [landing.outcome for landing in landings]
        self._crowd.trade(self._slot - GENESIS_SLOT, clock_at(self._slot), draft)
        self.ledger.append(
            block, outcomes, draft.balances, draft.pools, keep_blocks=self.history.keep_blocks
        )
        # It is durable; only from here on can anybody see it.
        self.accounts.adopt(draft)
        for pending in candidates:
            if not (pending.repeats and self._lives(pending.transaction, block.height + 1)):
                del self._mempool[pending.transaction.signature]
        # A node that a fault holds back still needs what is old to the others.
        oldest_slot = min(head.slot for head in self.heads) - self._deepest
        landed = [landed_in(block.slot, outcome) for outcome in outcomes]
        self.history.add(block, landed, oldest_slot)
        if landings:
            self._unfinalized.append((block, landings))
        self._publish_pools(draft)

    def _land(self, candidates: Sequence[Pending], block: Block, draft: Accounts) -> list[Landing]:
        landings: list[Landing] = []
        now = clock_at(block.slot)
        for pending in candidates:
            number = self.ledger.transaction_count + len(landings) + 1
            if self._may_land(pending.transaction, block.height):
                yields = self._slipped if pending.slips else partial(self._yields, number)
                try:
                    outcome = land(pending.transaction, draft, now, yields)
                except Refused:
                    continue  # nobody pays for it, so it is in no block
                landings.append(Landing(pending.transaction, outcome, set()))
        return landings

    def _yields(self, number: int, swap: Swap, quoted: int) -> int:
        within = self.rules.execution_slippage_bps
        slippage_bps = self._chance.draw(swap.venue, "execution slippage", number, within)
        return quoted * (BPS - slippage_bps) // BPS

    @staticmethod
    def _slipped(swap: Swap, quoted: int) -> int:
        return min(quoted, swap.min_amount_out - 1)

    def _publish_pools(self, changed: Accounts) -> None:
        moved: defaultdict[str, list[str]] = defaultdict(list)
        for address, pool in changed.pools.items():
            moved[pool.venue].append(address)
        for venue, addresses in moved.items():
            self.pool_feeds.publish(venue, addresses)

    def _publish_signatures(self, landings: Iterable[Landing]) -> None:
        changed: defaultdict[str, list[str]] = defaultdict(list)
        for landing in landings:
            changed[landing.outcome.wallet].append(landing.outcome.signature)
        for wallet, signatures in changed.items():
            self.signature_feeds.publish(wallet, signatures)

    def _may_land(self, transaction: Transaction, height: int) -> bool:
        return (
            self._lives(transaction, height)
            and self.history.sighting(transaction.signature) is None
        )

    def _lives(self, transaction: Transaction, height: int) -> bool:
        signed_with = self.history.block_of(transaction.message.blockhash)
        return signed_with is not None and height <= signed_with.last_valid_height

    def _switch_forks(self, forks: Sequence[Injected]) -> None:
        for block, landings in self._unfinalized:
            depth = self._slot - block.slot
            if depth < self.rules.finalized_after_slots:
                for landing in list(landings):
                    occasion = occasion_of(landing.transaction)
                    for injected in forks:
                        if depth >= injected.fault.fork.after_slots:
                            self._switch(block, landings, landing, injected, occasion)

    def _switch(
        self,
        block: Block,
        landings: list[Landing],
        landing: Landing,
        injected: Injected,
        occasion: Occasion,
    ) -> None:
        if landing not in landings or injected.fault_id in landing.spared_by:
            return
        how = injected.fault.fork
        now = clock_at(block.slot)
        switched = fork.switched(landing.transaction, landing.outcome, self.accounts, now, how)
        if switched is None:
            return
        landing.spared_by.add(injected.fault_id)
        if not injected.hits(occasion):
            return
        signature = landing.transaction.signature
        outcome, draft = switched
        self.ledger.rewrite(block.slot, signature, outcome, draft.balances, draft.pools)
        self.accounts.adopt(draft)
        if outcome:
            landing.outcome = outcome
            self.history.rewrite(landed_in(block.slot, outcome))
        else:
            landings.remove(landing)
            self.history.forget(block, signature)
        if fork.sends_again(how):
            due = self._slot + how.restored_after_slots
            self._returning.append((due, landing.transaction))
        self.signature_feeds.publish(landing.transaction.message.wallet, [signature])
        self._publish_pools(draft)

    def _send_again(self) -> None:
        due = [transaction for slot, transaction in self._returning if slot <= self._slot]
        self._returning = [entry for entry in self._returning if entry[0] > self._slot]
        for transaction in due:
            self._mempool.setdefault(transaction.signature, Pending(transaction))

    def _move_nodes(self) -> None:
        lags = Range(0, self.rules.node_lag_slots)
        faults = self.faults.at(Site.NODE)
        free = []
        drawn = self._chance.draws("chain", "lag", self._slot, lags, len(self.heads))
        for node, (head, lag) in enumerate(zip(self.heads, drawn, strict=True)):
            held = [f for f in faults if f.fits(Occasion(node=self.nodes[node]))]
            for injected in held:
                how = injected.fault.lag
                lag = max(lag, MAX_LAG_SLOTS if how.frozen else how.slots)
            reached = self.history.block_at(self._slot - lag)
            self.heads[node] = reached if reached.slot > head.slot else head
            if not held:
                free.append(self.heads[node].slot)
        before, self._common_slot = self._common_slot, min(free, default=self.head.slot)
        depths = {0, self.rules.confirmed_after_slots, self.rules.finalized_after_slots}
        for block, landings in self._unfinalized:
            if any(before < block.slot + depth <= self._common_slot for depth in depths):
                self._publish_signatures(landings)
        slowest = min(head.slot for head in self.heads)
        while self._unfinalized and self._unfinalized[0][0].slot + self._deepest <= slowest:
            self._unfinalized.popleft()


def clock_at(slot: int) -> int:
    """The chain's clock at a slot, in unix seconds."""
    return GENESIS_TIME + (slot - GENESIS_SLOT) * CLOCK_SLOT_MILLISECONDS // 1000


def _blockhash(parent: str, slot: int) -> str:
    return str(Hash(sha256(f"{parent}/{slot}".encode()).digest()))
