"""What GetBlockHeight and GetLatestBlockhash promise."""

from __future__ import annotations

from typing import Final

from engine.v1 import chain_pb2 as pb
from oee.conformance.chain import CONFIRMED, FINALIZED, PROCESSED, TRIES, ChainAt, Reading
from oee.conformance.check import Broken, Check, NotChecked, checks
from oee.conformance.written import is_address


async def heights_are_below_their_slots(chain: ChainAt) -> None:
    """A block height comes with the name and the slot of its node, and is below that slot."""
    for commitment in (FINALIZED, CONFIRMED, PROCESSED):
        reading = await chain.height(commitment)
        answer = reading.answer
        if not 0 < answer.block_height < answer.context_slot:
            raise Broken(
                f"a {reading} below its context_slot",
                f"context_slot {answer.context_slot}",
                "count blocks, not slots, and set context_slot to the answering node's own slot",
            )
        if not answer.node:
            raise Broken("the answering node", "no name", "name it; evidence tells who said so")


async def heights_are_in_order(chain: ChainAt) -> None:
    """Of one node, what is finalized is at most what is confirmed, and that what is processed."""
    compared = set()
    readings = await chain.readings()
    for at, earlier in enumerate(readings):
        for later in readings[at + 1 :]:
            less_settled = later.commitment < earlier.commitment
            if earlier.answer.node != later.answer.node or not less_settled:
                continue
            compared.add((earlier.commitment, later.commitment))
            if later.answer.block_height < earlier.answer.block_height:
                raise Broken(
                    f"a height of at least the {earlier} read before of {earlier.answer.node}",
                    str(later),
                    "read each height at the commitment that was asked for",
                )
    if not {(FINALIZED, CONFIRMED), (CONFIRMED, PROCESSED)} <= compared:
        raise NotChecked(f"no node answered twice among {len(readings)} calls")


async def a_node_does_not_go_back(chain: ChainAt) -> None:
    """Of one node, neither the slot nor the finalized height is ever lower than it was before."""
    newest: dict[str, Reading] = {}
    again = 0
    for _ in range(3 * TRIES):
        reading = await chain.height(FINALIZED)
        before = newest.get(reading.answer.node)
        newest[reading.answer.node] = reading
        if before is None:
            continue
        again += 1
        for name in ("context_slot", "block_height"):
            was, is_now = getattr(before.answer, name), getattr(reading.answer, name)
            if is_now < was:
                raise Broken(
                    f"{name} {was} of {reading.answer.node} or more",
                    str(is_now),
                    "give different nodes different names; the engine compares what each one said",
                )
    if not again:
        raise NotChecked("no node answered twice")


async def a_blockhash_lives_beyond_the_height(chain: ChainAt) -> None:
    """A blockhash is 32 bytes in base58, and still valid: it ends above the present height."""
    for commitment in (FINALIZED, CONFIRMED):
        request = pb.GetLatestBlockhashRequest(commitment=commitment)
        response = await chain.ask("GetLatestBlockhash", request)
        reading = await chain.height(FINALIZED)
        if not is_address(response.blockhash):
            raise Broken("32 bytes in base58", repr(response.blockhash), "encode it so")
        if response.last_valid_block_height <= reading.answer.block_height:
            raise Broken(
                f"a last_valid_block_height above the {reading}",
                str(response.last_valid_block_height),
                "tell the block height, not the slot, after which the blockhash is refused; too "
                "low, and a swap that can still land counts as dead",
            )
        if not response.context_slot:
            raise Broken("the slot of the answering node", "0", "set context_slot")


CHECKS: Final[tuple[Check[ChainAt], ...]] = checks(
    heights_are_below_their_slots,
    heights_are_in_order,
    a_node_does_not_go_back,
    a_blockhash_lives_beyond_the_height,
)
