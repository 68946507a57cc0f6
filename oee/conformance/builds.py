"""What BuildSwap promises."""

from __future__ import annotations

from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from engine import programs
from engine.instructions.swap import KIND_OF_PROGRAM, LAYOUTS, read_amounts, swap_instruction
from engine.instructions.terms import Parties, SwapTerms
from engine.v1 import venue_pb2 as pb
from oee.conformance.check import Broken, Check, NotChecked, checks
from oee.conformance.pools import snapshot
from oee.conformance.venue import MAX_ITEMS, Venue, reason_of
from oee.conformance.written import is_address

# The executor adds these itself, and would have them twice.
EXECUTORS_OWN: Final = {
    str(programs.COMPUTE_BUDGET_PROGRAM): "compute budget",
    str(programs.MEMO_PROGRAM): "memo",
}


def instructions_of(swap: pb.SwapInstructions) -> list[Instruction]:
    """The instructions as the executor reads them; raises ValueError for malformed addresses."""
    return [
        Instruction(
            Pubkey.from_string(each.program),
            each.data,
            [
                AccountMeta(Pubkey.from_string(a.address), a.signer, a.writable)
                for a in each.accounts
            ],
        )
        for each in swap.instructions
    ]


async def swaps_are_answered_in_order(venue: Venue) -> None:
    """BuildSwap gives a result a swap, in their order: its instructions, or a refusal."""
    orders = await venue.orders()
    response = await venue.ask("BuildSwap", pb.BuildSwapRequest(swaps=orders))
    if len(response.results) != len(orders):
        raise Broken(
            f"{len(orders)} results to {len(orders)} swaps",
            f"{len(response.results)} results",
            "answer every swap, with a refusal where there is nothing to sign",
        )
    for result in response.results:
        if result.WhichOneof("result") is None:
            raise Broken("instructions or a refusal", "neither", "set exactly one of them")


async def what_is_quoted_can_be_built(venue: Venue) -> None:
    """A swap that was just quoted is built: at least one instruction, its addresses in base58."""
    for result in await venue.builds(await venue.orders()):
        if not result.HasField("swap"):
            raise Broken(
                "instructions for a swap that was just quoted",
                reason_of(result.refusal),
                "build whatever is quoted, for any wallet; only the chain knows what it holds",
            )
        if not result.swap.instructions:
            raise Broken("an instruction", "none", "give what the venue's program is called with")
        for instruction in result.swap.instructions:
            addresses = instruction.program, *(each.address for each in instruction.accounts)
            for address in addresses:
                if not is_address(address):
                    raise Broken("addresses of 32 bytes in base58", repr(address), "encode it so")


async def only_the_wallet_signs(venue: Venue) -> None:
    """The wallet that pays signs, and nobody else."""
    for swap in await venue.swaps(await venue.orders()):
        signers = {
            account.address
            for instruction in swap.instructions
            for account in instruction.accounts
            if account.signer
        }
        if signers != {venue.wallet}:
            others = ", ".join(sorted(signers - {venue.wallet}))
            raise Broken(
                f"the wallet {venue.wallet} as the only signer",
                f"{others} as well" if others else "no signer",
                "mark the wallet's account as the signer, and no other; nobody else signs",
            )


async def budget_and_memo_are_the_executors(venue: Venue) -> None:
    """The instructions set no compute budget and have no memo: the executor adds its own."""
    for swap in await venue.swaps(await venue.orders()):
        for instruction in swap.instructions:
            if name := EXECUTORS_OWN.get(instruction.program):
                raise Broken(
                    "the swap alone", f"a {name} instruction as well", f"leave the {name} out"
                )


async def the_engine_reads_the_swap_back(venue: Venue) -> None:
    """What is built is, account for account, the swap that the executor composes by itself."""
    orders = await venue.orders()
    for order, swap in zip(orders, await venue.swaps(orders), strict=True):
        _require_agreed(order, swap, _only_instruction(swap))


async def what_pools_tell_builds_the_same(venue: Venue) -> None:
    """What WatchPools tells of a pool, config and market too, builds the venue's very swap."""
    orders = await venue.orders()
    try:
        pools = (await snapshot(venue)).pools
    except Broken as broken:
        raise NotChecked(f"WatchPools does not tell the pools: {broken}") from None
    compared = 0
    for order, swap in zip(orders, await venue.swaps(orders), strict=True):
        pool = pools.get(order.pool)
        if pool is None or not _tells_all(pool):
            continue
        try:
            _require_agreed(order, swap, _only_instruction(swap))
        except Broken:
            raise NotChecked("what the venue builds is not the swap either") from None
        told = pb.SwapInstructions(
            kind=pool.kind,
            arrays=swap.arrays,
            market=pool.market,
            config=pool.config,
            one_for_zero=order.mint_in != pool.mint_a,
        )
        if not _build_the_same(order, told, swap):
            raise Broken(
                f"of pool {pool.address} what BuildSwap builds from: {_hints(swap)}",
                _hints(told),
                "tell what the pool's own accounts have, or leave market and config out",
            )
        compared += 1
    if not compared:
        raise NotChecked("no pool tells all of it; then the engine asks for each swap")


async def building_twice_builds_the_same(venue: Venue) -> None:
    """The same swap asked for twice in one call has the same instructions: to ask has no effect."""
    order = (await venue.orders())[0]
    first, second = await venue.swaps([order, order])
    if first != second:
        raise Broken(
            "the same instructions for the same swap",
            "others the second time",
            "derive them from the swap and the pool alone: no counter, no clock, no fresh key",
        )


async def all_swaps_call_the_same_program(venue: Venue) -> None:
    """A pool's swaps call the same program, whichever way they go and however large they are."""
    orders = await venue.orders()
    for one, other in zip(orders[::2], orders[1::2], strict=False):
        larger = pb.SwapOrder()
        larger.CopyFrom(one)
        larger.amount_in *= 2
        swaps = await venue.swaps([one, larger, other])
        called = [{each.program for each in swap.instructions} for swap in swaps]
        if one.pool == other.pool and any(programs != called[0] for programs in called):
            raise Broken(
                f"calls of {', '.join(sorted(called[0]))} alone",
                ", ".join(sorted(set().union(*called) - called[0])) or "fewer programs",
                "call the program that owns the pool",
            )


async def an_unknown_pool_is_refused_alone(venue: Venue) -> None:
    """A swap in a pool that the venue does not have is refused; those around it are built."""
    order = (await venue.orders())[0]
    unknown = pb.SwapOrder()
    unknown.CopyFrom(order)
    unknown.pool = str(Keypair().pubkey())
    await _require_refused_alone(venue, order, unknown, "a pool that nobody knows")


async def a_senseless_swap_is_refused_alone(venue: Venue) -> None:
    """A swap of nothing, or for what is no wallet, is refused; those around it are built."""
    order = (await venue.orders())[0]
    for field, value in (("amount_in", 0), ("wallet", "not an address")):
        senseless = pb.SwapOrder()
        senseless.CopyFrom(order)
        setattr(senseless, field, value)
        await _require_refused_alone(venue, order, senseless, f"{field} {value!r}")


async def five_hundred_swaps_and_no_more(venue: Venue) -> None:
    """A call takes 500 swaps; one with more is INVALID_ARGUMENT."""
    order = (await venue.orders())[0]
    response = await venue.ask("BuildSwap", pb.BuildSwapRequest(swaps=[order] * MAX_ITEMS))
    if len(response.results) != MAX_ITEMS:
        raise Broken("500 results", f"{len(response.results)}", "answer up to 500 swaps a call")
    too_many = pb.BuildSwapRequest(swaps=[order] * (MAX_ITEMS + 1))
    await venue.ask.is_refused("BuildSwap", too_many, "501 swaps")


async def _require_refused_alone(
    venue: Venue, good: pb.SwapOrder, bad: pb.SwapOrder, what: str
) -> None:
    await venue.swaps([good])
    before, refused, after = await venue.builds([good, bad, good])
    if not refused.HasField("refusal"):
        raise Broken(
            f"a refusal of {what}", "instructions", "refuse what cannot land, as NO_POOL or INVALID"
        )
    for built in (before, after):
        if not built.HasField("swap"):
            raise Broken(
                f"instructions for the good swaps around {what}",
                reason_of(built.refusal),
                "judge every swap by itself",
            )


def _only_instruction(swap: pb.SwapInstructions) -> Instruction:
    try:
        instructions = instructions_of(swap)
    except ValueError:
        raise NotChecked("its addresses are malformed") from None
    for each in instructions:
        if each.program_id not in KIND_OF_PROGRAM:
            raise Broken(
                "calls of programs whose swap the executor can compose",
                f"a call of {each.program_id}",
                "leave the instruction out, or teach engine/instructions how its swap is written; "
                "the executor signs nothing else",
            )
    if len(instructions) != 1:
        raise Broken("one swap", str(len(instructions)), "build one swap, through one pool")
    return instructions[0]


def _require_agreed(order: pb.SwapOrder, swap: pb.SwapInstructions, built: Instruction) -> None:
    kind = KIND_OF_PROGRAM[built.program_id]
    if swap.kind != kind:
        raise Broken(
            f"kind {kind}, whose program is called",
            f"kind {swap.kind!r}",
            "say the kind of the pool: by it the executor composes the swap",
        )
    pool = LAYOUTS[kind].pool
    try:
        amounts = read_amounts(kind, built.data)
        # Another pool's hints need not lead anywhere in this one.
        if len(built.accounts) > pool and str(built.accounts[pool].pubkey) != order.pool:
            raise _not_as_asked("pool", order.pool, str(built.accounts[pool].pubkey))
        agreed = swap_instruction(_terms(order, swap))
    except ValueError as error:
        raise Broken(
            f"a swap by the layout that engine/instructions has for {kind}",
            str(error),
            "give the data as the program takes it; in arrays, market, config and one_for_zero "
            "what the accounts are derived from",
        ) from None
    asked = order.amount_in, order.min_amount_out
    for name, wanted, found in zip(("amount_in", "min_amount_out"), asked, amounts, strict=True):
        if found != wanted:
            raise _not_as_asked(name, str(wanted), str(found))
    if len(built.accounts) != len(agreed.accounts):
        raise _not_as_asked(
            "accounts", f"{len(agreed.accounts)} in number", f"{len(built.accounts)} in number"
        )
    for place, (account, expected) in enumerate(zip(built.accounts, agreed.accounts, strict=True)):
        # The wallet pays the fee, so it is written whatever is said of it.
        if account != expected and not (account.is_signer and account.pubkey == expected.pubkey):
            raise _not_as_asked(f"account {place}", _shown(expected), _shown(account))


def _tells_all(pool: pb.Pool) -> bool:
    """Whether the engine builds this pool's swaps without asking."""
    layout = LAYOUTS.get(pool.kind)
    return (
        layout is not None
        and (bool(pool.market) or not layout.by_market)
        and (pool.HasField("config") or not layout.by_config)
    )


def _build_the_same(
    order: pb.SwapOrder, one: pb.SwapInstructions, other: pb.SwapInstructions
) -> bool:
    """Whether the hints of both lead to the same instruction."""
    try:
        return swap_instruction(_terms(order, one)) == swap_instruction(_terms(order, other))
    except ValueError:
        return False


def _hints(swap: pb.SwapInstructions) -> str:
    paid = "second" if swap.one_for_zero else "first"
    return (
        f"kind {swap.kind!r}, market {swap.market!r}, config {swap.config}, its {paid} token paid"
    )


def _terms(order: pb.SwapOrder, swap: pb.SwapInstructions) -> SwapTerms:
    return SwapTerms(
        Parties(
            kind=swap.kind,
            pool=Pubkey.from_string(order.pool),
            mint_in=Pubkey.from_string(order.mint_in),
            mint_out=Pubkey.from_string(order.mint_out),
            wallet=Pubkey.from_string(order.wallet),
            arrays=tuple(swap.arrays),
            market=Pubkey.from_string(swap.market) if swap.market else None,
            config=swap.config,
            zero_for_one=not swap.one_for_zero,
        ),
        order.amount_in,
        order.min_amount_out,
    )


def _not_as_asked(name: str, wanted: str, found: str) -> Broken:
    return Broken(
        f"{name} {wanted}, as asked",
        f"{name} {found}",
        "build exactly the swap that was asked for; the executor signs no other",
    )


def _shown(account: AccountMeta) -> str:
    return f"{account.pubkey}{' signing' * account.is_signer}{' written' * account.is_writable}"


CHECKS: Final[tuple[Check[Venue], ...]] = checks(
    swaps_are_answered_in_order,
    what_is_quoted_can_be_built,
    only_the_wallet_signs,
    budget_and_memo_are_the_executors,
    the_engine_reads_the_swap_back,
    what_pools_tell_builds_the_same,
    building_twice_builds_the_same,
    all_swaps_call_the_same_program,
    an_unknown_pool_is_refused_alone,
    a_senseless_swap_is_refused_alone,
    five_hundred_swaps_and_no_more,
)
