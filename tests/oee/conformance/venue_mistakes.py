"""What a venue does wrong, the check that must say so, and a word of what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.v1 import venue_pb2 as pb
from tests.oee.conformance.conftest import Mistake, Wrong

MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
STRANGER = "So11111111111111111111111111111111111111113"


def each(items: str, spoil: Callable[[Any], object]) -> Callable[[Any, Any], object]:
    """Spoils each item of an answer."""

    def answer(request: Any, response: Any) -> None:
        for item in getattr(response, items):
            spoil(item)

    return answer


def each_quote(spoil: Callable[[pb.QuoteQuery, pb.Quote], object]) -> Callable[[Any, Any], object]:
    """Spoils each quote of an answer, knowing what was asked."""

    def answer(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
        for query, result in zip(request.queries, response.results, strict=False):
            if result.HasField("quote"):
                spoil(query, result.quote)

    return answer


def each_swap(spoil: Callable[[pb.SwapInstructions], object]) -> Callable[[Any, Any], object]:
    def answer(request: Any, response: pb.BuildSwapResponse) -> None:
        for result in response.results:
            if result.HasField("swap"):
                spoil(result.swap)

    return answer


def setting(**fields: Any) -> Callable[[Any], object]:
    """Sets fields of a message."""

    def spoil(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return spoil


def refusing_as(reason: pb.RefusalReason.ValueType) -> Callable[[Any, Any], object]:
    """Refuses for another reason."""

    def spoil(result: Any) -> None:
        if result.HasField("refusal"):
            result.refusal.reason = reason

    return each("results", spoil)


def all_or_nothing(request: Any, response: Any) -> None:
    """One bad item makes all of them refused."""
    if refused := [result for result in response.results if result.HasField("refusal")]:
        for result in response.results:
            result.CopyFrom(refused[0])


def answering_nonsense(request: Any, response: Any) -> None:
    """Every refusal becomes what the first good item got."""
    good = [result for result in response.results if not result.HasField("refusal")]
    for result in response.results:
        if good and result.HasField("refusal"):
            result.CopyFrom(good[0])


def another_config(request: Any, response: pb.WatchPoolsResponse) -> None:
    """Every pool that has a config tells one that it has not."""
    for pool in response.pools:
        if pool.HasField("config"):
            pool.config = 9


def first_only(items: str) -> Callable[[Any], object]:
    """Only the first 500 items are taken."""

    def spoil(request: Any) -> None:
        del getattr(request, items)[500:]

    return spoil


def reversed_items(items: str) -> Callable[[Any, Any], object]:
    def answer(request: Any, response: Any) -> None:
        told = [
            type(item).FromString(item.SerializeToString()) for item in getattr(response, items)
        ]
        del getattr(response, items)[:]
        getattr(response, items).extend(reversed(told))

    return answer


def forgetting_the_last(items: str) -> Callable[[Any, Any], object]:
    def answer(request: Any, response: Any) -> None:
        del getattr(response, items)[-1:]

    return answer


class Shrinking:
    """Yields less, the more is paid."""

    def __call__(self, query: pb.QuoteQuery, quote: pb.Quote) -> None:
        quote.amount_out = max(1, 10**18 // max(1, query.amount_in))


class GoingBack:
    """Every answer is of an earlier slot than the one before."""

    def __init__(self) -> None:
        self._slot = 10**9

    def __call__(self, request: Any, response: pb.QuoteResponse) -> None:
        self._slot -= 1
        for result in response.results:
            if result.HasField("quote"):
                result.quote.slot = self._slot


class Fresh:
    """No two instructions are the same."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, swap: pb.SwapInstructions) -> None:
        self._count += 1
        swap.instructions[0].data += self._count.to_bytes(4, "big")


def no_impact_for_large_ones(query: pb.QuoteQuery, quote: pb.Quote) -> None:
    quote.price_impact_ppm = 10**6 // (1 + quote.price_impact_ppm)


def with_memo(swap: pb.SwapInstructions) -> None:
    swap.instructions.add(program=MEMO, data=b"hello")


def with_stranger(swap: pb.SwapInstructions) -> None:
    swap.instructions.add(program=STRANGER)


def cosigned(swap: pb.SwapInstructions) -> None:
    swap.instructions[0].accounts[1].signer = True


def unsigned(swap: pb.SwapInstructions) -> None:
    for account in swap.instructions[0].accounts:
        account.signer = False


def duplicated(request: Any, response: pb.ListPoolsResponse) -> None:
    response.pools.insert(0, response.pools[0])


def another_program_for_half(request: Any, response: pb.BuildSwapResponse) -> None:
    """Every other swap of a call goes to somebody else."""
    for result in response.results[1::2]:
        if result.HasField("swap"):
            result.swap.instructions[0].program = STRANGER


def nothing_is_one(request: pb.BuildSwapRequest) -> None:
    for swap in request.swaps:
        swap.amount_in = swap.amount_in or 1


def nothing_is_something(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
    for query, result in zip(request.queries, response.results, strict=True):
        if not query.amount_in:
            result.quote.amount_out = 1


def empty(result: Any) -> None:
    result.Clear()


def all_liquidity_refused(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
    """What is listed is not quoted in one direction."""
    for query, result in zip(request.queries, response.results, strict=True):
        if result.HasField("quote") and query.mint_in < query.mint_out:
            result.refusal.reason = pb.REFUSAL_REASON_NO_POOL


LARGEST = 2**64 - 1


def little_for_the_largest(request: pb.QuoteRequest) -> None:
    """What nobody can pay is quoted as if it were little."""
    for query in request.queries:
        if query.amount_in == LARGEST:
            query.amount_in = 1_000_000


def the_largest_for_the_largest(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
    """And promised in full."""
    for query, result in zip(request.queries, response.results, strict=True):
        if query.amount_in == LARGEST and result.HasField("quote"):
            result.quote.amount_in = result.quote.amount_out = LARGEST


# What is wrong, the checks that must fail, and a word of what they say.
WRONG = {
    "no pools": Mistake(
        Wrong("ListPools", lambda q, a: a.ClearField("pools")),
        "pools-are-listed",
        "an empty list",
    ),
    "pools not sorted": Mistake(
        Wrong("ListPools", reversed_items("pools")),
        "pools-are-in-order",
        "after",
    ),
    "a pool twice": Mistake(
        Wrong("ListPools", duplicated),
        "pools-are-in-order",
        "more than once",
    ),
    "an address that is none": Mistake(
        Wrong("ListPools", lambda q, a: setattr(a.pools[0], "address", "0")),
        "pools-are-well-formed",
        "address '0'",
        {"watch-begins-with-every-pool", "quotes-name-a-listed-pool"},
    ),
    "equal mints": Mistake(
        Wrong("ListPools", lambda q, a: setattr(a.pools[0], "mint_b", a.pools[0].mint_a)),
        "pools-are-well-formed",
        "mint_b",
    ),
    "a reserve that is no number": Mistake(
        Wrong("ListPools", each("pools", setting(reserve_a="1.5"))),
        "pools-are-well-formed",
        "reserve_a '1.5'",
    ),
    "all of it as the fee": Mistake(
        Wrong("ListPools", each("pools", setting(fee_ppm=10**6))),
        "pools-are-well-formed",
        "fee_ppm 1000000",
    ),
    "pools of no slot": Mistake(
        Wrong("ListPools", each("pools", setting(slot=0))),
        "pools-are-well-formed",
        "slot 0",
    ),
    "a watch that forgets a pool": Mistake(
        Wrong("WatchPools", forgetting_the_last("pools")),
        "watch-begins-with-every-pool",
        "not a word about",
    ),
    "a watch of malformed pools": Mistake(
        Wrong("WatchPools", each("pools", setting(mint_a="SOL"))),
        "watch-begins-with-every-pool",
        "mint_a 'SOL'",
    ),
    "a watch that ends": Mistake(
        Wrong("WatchPools", lambda q, a: a.Clear()),
        "watch-begins-with-every-pool",
        "its end",
    ),
    "too few quotes": Mistake(
        Wrong("Quote", forgetting_the_last("results")),
        "queries-are-answered-in-order",
        "results",
        {"five-hundred-queries-and-no-more"},
    ),
    "quotes in another order": Mistake(
        Wrong("Quote", reversed_items("results")),
        "queries-are-answered-in-order",
        "mint_in",
        {
            "more-in-is-more-out",
            "a-larger-swap-moves-the-price-further",
            "there-and-back-never-pays",
        },
    ),
    "neither quote nor refusal": Mistake(
        Wrong("Quote", each("results", empty)),
        "queries-are-answered-in-order",
        "neither",
        {
            "pools-are-quoted-both-ways",
            "an-unknown-pair-has-no-pool",
            "nothing-is-invalid",
            "too-much-is-not-promised",
        },
    ),
    "another token": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "mint_out", STRANGER))),
        "queries-are-answered-in-order",
        STRANGER,
        {"quotes-name-a-listed-pool", "what-is-quoted-can-be-built"},
    ),
    "another amount": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "amount_in", a.amount_in - 1))),
        "queries-are-answered-in-order",
        "amount_in",
    ),
    "one direction only": Mistake(
        Wrong("Quote", all_liquidity_refused),
        "pools-are-quoted-both-ways",
        "NO_POOL",
        {"too-much-is-not-promised"},
    ),
    "nothing paid": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "amount_out", 0))),
        "quotes-pay-something",
        "above 0",
    ),
    "everything as the fee": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "fee", a.amount_in))),
        "quotes-pay-something",
        "a fee below",
    ),
    "an impact beyond all": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "price_impact_ppm", 10**6 + 1))),
        "quotes-pay-something",
        "1000001",
    ),
    "a pool that is not listed": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "pool", STRANGER))),
        "quotes-name-a-listed-pool",
        "not listed",
        {"what-is-quoted-can-be-built"},
    ),
    "expired when made": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a.expire_time, "seconds", 1))),
        "quotes-stand-for-a-while",
        "s ago",
    ),
    "no expiry": Mistake(
        Wrong("Quote", each_quote(lambda q, a: a.ClearField("expire_time"))),
        "quotes-stand-for-a-while",
        "none",
    ),
    "quotes of no slot": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "slot", 0))),
        "quotes-stand-for-a-while",
        "slot",
    ),
    "a bad query spoils all": Mistake(
        Wrong("Quote", all_or_nothing),
        "a-bad-query-is-refused-alone",
        "NO_POOL",
    ),
    "nonsense is quoted": Mistake(
        Wrong("Quote", answering_nonsense),
        "a-bad-query-is-refused-alone",
        "a quote",
    ),
    "refusals without a good reason": Mistake(
        Wrong("Quote", refusing_as(pb.REFUSAL_REASON_UNAVAILABLE)),
        "an-unknown-pair-has-no-pool",
        "UNAVAILABLE",
        {"nothing-is-invalid", "too-much-is-not-promised"},
    ),
    "nothing is quoted as something": Mistake(
        Wrong("Quote", nothing_is_something),
        "nothing-is-invalid",
        "a quote",
    ),
    "more than the pool has": Mistake(
        Wrong("Quote", the_largest_for_the_largest, little_for_the_largest),
        "too-much-is-not-promised",
        "that the pool holds",
    ),
    "501 queries": Mistake(
        Wrong("Quote", request=first_only("queries")),
        "five-hundred-queries-and-no-more",
        "INVALID_ARGUMENT",
    ),
    "more pays less": Mistake(
        Wrong("Quote", each_quote(Shrinking())),
        "more-in-is-more-out",
        "while",
        {"there-and-back-never-pays"},
    ),
    "impact upside down": Mistake(
        Wrong("Quote", each_quote(no_impact_for_large_ones)),
        "a-larger-swap-moves-the-price-further",
        "ppm",
    ),
    "a free lunch": Mistake(
        Wrong(
            "Quote", each_quote(lambda q, a: setattr(a, "amount_out", a.amount_out * 102 // 100))
        ),
        "there-and-back-never-pays",
        "back for",
        {"too-much-is-not-promised"},
    ),
    "slots that go back": Mistake(
        Wrong("Quote", GoingBack()),
        "slots-do-not-go-back",
        "slot",
    ),
    "too few builds": Mistake(
        Wrong("BuildSwap", forgetting_the_last("results")),
        "swaps-are-answered-in-order",
        "results",
        {"five-hundred-swaps-and-no-more"},
    ),
    "builds in another order": Mistake(
        Wrong("BuildSwap", reversed_items("results")),
        "the-engine-reads-the-swap-back",
        "as asked",
    ),
    "neither instructions nor refusal": Mistake(
        Wrong("BuildSwap", each("results", empty)),
        "swaps-are-answered-in-order",
        "neither",
        {"what-is-quoted-can-be-built"},
    ),
    "no instructions": Mistake(
        Wrong("BuildSwap", each_swap(lambda swap: swap.ClearField("instructions"))),
        "what-is-quoted-can-be-built",
        "none",
        {"only-the-wallet-signs", "the-engine-reads-the-swap-back"},
    ),
    "malformed addresses": Mistake(
        Wrong("BuildSwap", each_swap(lambda s: setattr(s.instructions[0], "program", "raydium"))),
        "what-is-quoted-can-be-built",
        "'raydium'",
    ),
    "another signer": Mistake(
        Wrong("BuildSwap", each_swap(cosigned)),
        "only-the-wallet-signs",
        "as well",
        {"the-engine-reads-the-swap-back"},
    ),
    "no signer": Mistake(
        Wrong("BuildSwap", each_swap(unsigned)),
        "only-the-wallet-signs",
        "no signer",
        {"the-engine-reads-the-swap-back"},
    ),
    "a memo of the venue's": Mistake(
        Wrong("BuildSwap", each_swap(with_memo)),
        "budget-and-memo-are-the-executors",
        "a memo instruction",
        {"the-engine-reads-the-swap-back"},
    ),
    "a program that nobody knows": Mistake(
        Wrong("BuildSwap", each_swap(with_stranger)),
        "the-engine-reads-the-swap-back",
        STRANGER,
    ),
    "a pool that tells another config": Mistake(
        Wrong("WatchPools", another_config),
        "what-pools-tell-builds-the-same",
        "config 9",
    ),
    "never twice the same": Mistake(
        Wrong("BuildSwap", each_swap(Fresh())),
        "building-twice-builds-the-same",
        "others the second time",
        {"the-engine-reads-the-swap-back"},
    ),
    "a bad swap spoils all": Mistake(
        Wrong("BuildSwap", all_or_nothing),
        "an-unknown-pool-is-refused-alone",
        "around",
        {"a-senseless-swap-is-refused-alone"},
    ),
    "nonsense is built": Mistake(
        Wrong("BuildSwap", answering_nonsense),
        "an-unknown-pool-is-refused-alone",
        "instructions",
        {"a-senseless-swap-is-refused-alone"},
    ),
    "another program for larger swaps": Mistake(
        Wrong("BuildSwap", another_program_for_half),
        "all-swaps-call-the-same-program",
        STRANGER,
        {"the-engine-reads-the-swap-back", "building-twice-builds-the-same"},
    ),
    "a swap of nothing": Mistake(
        Wrong("BuildSwap", request=nothing_is_one),
        "a-senseless-swap-is-refused-alone",
        "amount_in 0",
    ),
    "501 swaps": Mistake(
        Wrong("BuildSwap", request=first_only("swaps")),
        "five-hundred-swaps-and-no-more",
        "INVALID_ARGUMENT",
    ),
}
