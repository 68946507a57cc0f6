"""What the gateway refuses at its door, over the wire."""

from __future__ import annotations

from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from engine.v1 import orders_pb2 as pb
from gateway.fields import shown
from oee.postgres import Postgres
from tests import builders
from tests.conftest import new_database
from tests.gateway.running import NO_NATS, Gateway, refusal, running, stored, swap, violations

# Every request here is refused, so one gateway serves them all.
pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = "choose from BONK, JUP, RAY, SOL, USDC, USDT"
SHAPE = 'write plain decimal digits such as "1.5", without sign, exponent or spaces'
KEY = "must be 1 to 64 of [A-Za-z0-9_.:-]"
VENUE = "must be 1 to 64 of [A-Za-z0-9_.+-]"
YEARS = "is not a time: it must lie in years 1 to 9999, with 0 to 999999999 ns"
NOT_A_PAGE = (
    "is not a page token: pass on next_page_token unchanged, or ask for the first page again"
)
NOT_AN_ID = "is not an order id: it is a UUID, as SubmitOrder returned it"
AN_ID = "0198c0de-0000-7000-8000-000000000000"
ASCII = "".join(map(chr, range(0x20, 0x7F)))
YEAR_10000 = Timestamp(seconds=253_402_300_800)


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dsn(postgres: Postgres, migrated: str) -> AsyncIterator[str]:
    async with new_database(postgres, migrated) as own:
        yield own


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(dsn: str) -> AsyncIterator[Gateway]:
    async with running(dsn, NO_NATS) as started:
        yield started


SIGNS = ["-1.5", "+1", "NaN", "Infinity", "1e5", "0x1", "1_000"]
SPACES = [" 1", "1 ", "1\n", "1,5", "1.", ".5", "\x00"]
NOT_AMOUNTS = [*SIGNS, *SPACES, "１", "٣"]

SWAPS: list[Any] = [
    pytest.param({"token_in": "DOGE"}, "token_in", f"'DOGE' is not a known token: {TOKENS}"),
    pytest.param({"token_in": "sol"}, "token_in", f"'sol' is not a known token: {TOKENS}"),
    pytest.param(
        {"token_in": ""}, "token_in", "is missing: name a token by symbol or mint address"
    ),
    pytest.param({"token_out": "x" * 90}, "token_out", f"'{'x' * 61}...' is not a known token"),
    pytest.param({"token_out": "x" * 64}, "token_out", f"'{'x' * 64}' is not a known token"),
    pytest.param({"token_out": "SOL"}, "token_out", "SOL is also token_in: name another token"),
    pytest.param(
        {"token_out": builders.SOL}, "token_out", "SOL is also token_in: name another token"
    ),
    pytest.param({"amount_in": ""}, "amount_in", "is missing: give an amount in whole tokens"),
    pytest.param({"amount_in": "0"}, "amount_in", "'0' is zero: it must be at least 0.000000001"),
    pytest.param({"amount_in": "0.000"}, "amount_in", "'0.000' is zero: it must be at least"),
    *(
        pytest.param({"amount_in": text}, "amount_in", f"{text!r} is not an amount: {SHAPE}")
        for text in NOT_AMOUNTS
    ),
    pytest.param(
        {"amount_in": "0.0000000001"},
        "amount_in",
        "'0.0000000001' has 10 decimal places: SOL has 9",
    ),
    pytest.param(
        {"amount_in": "18446744073.709551616"},
        "amount_in",
        "'18446744073.709551616' is too large: at most 18446744073.709551615 SOL",
    ),
    pytest.param({"amount_in": "9" * 21}, "amount_in", f"'{'9' * 21}' is too large: at most"),
    pytest.param(
        {"amount_in": "9" * 5000},
        "amount_in",
        f"'{'9' * 37}...' is too long: at most 40 digits before the point and as many after it",
    ),
    pytest.param(
        {"min_amount_out": "0.0000001"}, "min_amount_out", "has 7 decimal places: USDC has 6"
    ),
    pytest.param({"min_amount_out": "0"}, "min_amount_out", "'0' is zero"),
    pytest.param(
        {"min_amount_out": "18446744073709.551616"},
        "min_amount_out",
        "at most 18446744073709.551615 USDC",
    ),
    pytest.param({"slippage_bps": 5001}, "slippage_bps", "5001 must be 0 to 5000 basis points"),
    pytest.param({"slippage_bps": 2**32 - 1}, "slippage_bps", "4294967295 must be 0 to 5000"),
    pytest.param(
        {"slippage_bps": 100, "min_amount_out": "200"},
        "slippage_bps",
        "100 cannot stand beside min_amount_out: give one of them",
    ),
    pytest.param(
        {"slippage_bps": 0, "min_amount_out": "200"},
        "slippage_bps",
        "0 cannot stand beside min_amount_out: give one of them",
    ),
    pytest.param(
        {"venues": ["raydium", "orca", "phoenix"]},
        "venues",
        "'orca', 'phoenix' are not known: choose from meteora, raydium",
    ),
    pytest.param(
        {"venues": ["a", "b", "a", "c, d", "e", "f"]},
        "venues",
        "'a', 'b', 'c, d' and 2 more are not known: choose from meteora, raydium",
    ),
    pytest.param({"venues": [""]}, "venues", "'' is not known: choose from meteora, raydium"),
]

SUBMITS: list[Any] = [
    *SWAPS,
    pytest.param({"order_type": 2}, "order_type", "2 is not offered: use ORDER_TYPE_MARKET"),
    pytest.param({"order_type": 9999}, "order_type", "9999 is not offered: use ORDER_TYPE_MARKET"),
    pytest.param({"order_type": -1}, "order_type", "-1 is not offered: use ORDER_TYPE_MARKET"),
    *(
        pytest.param({"client_order_id": key}, "client_order_id", f"{key!r} {KEY}")
        for key in ("a b", "a/b", "é", "a\n", "\x00", "ａ")
    ),
    pytest.param({"client_order_id": "a" * 65}, "client_order_id", f"aaa...' {KEY}"),
    pytest.param({"expire_time": YEAR_10000}, "expire_time", f"253402300800 s and 0 ns {YEARS}"),
    pytest.param({"expire_time": Timestamp(seconds=-62_135_596_801)}, "expire_time", YEARS),
    pytest.param({"expire_time": Timestamp(nanos=-1)}, "expire_time", "0 s and -1 ns"),
    pytest.param(
        {"expire_time": Timestamp(seconds=4_000_000_000, nanos=2_000_000_000)},
        "expire_time",
        "4000000000 s and 2000000000 ns",
    ),
    pytest.param({"expire_time": Timestamp(seconds=1)}, "expire_time", "has passed"),
    pytest.param(
        {"expire_time": Timestamp(seconds=1), "validate_only": True}, "expire_time", "has passed"
    ),
]


@pytest.mark.parametrize(("fields", "field", "description"), SUBMITS)
async def test_a_malformed_order_is_refused_by_field_value_and_remedy(
    gateway: Gateway, fields: dict[str, Any], field: str, description: str
) -> None:
    request = swap(**({"client_order_id": "refused"} | fields))

    [(named, why)] = violations(await refusal(gateway.client.SubmitOrder(request)))
    assert (named, description in why) == (field, True), why
    assert await stored(gateway) == []


@pytest.mark.parametrize(("fields", "field", "description"), SWAPS)
async def test_a_preview_is_held_to_the_same_rules_as_an_order(
    gateway: Gateway, fields: dict[str, Any], field: str, description: str
) -> None:
    facts = {"token_in": "SOL", "token_out": "USDC", "amount_in": "1.5"} | fields

    request = pb.PreviewOrderRequest(**facts)
    [(named, why)] = violations(await refusal(gateway.client.PreviewOrder(request)))
    assert (named, description in why) == (field, True), why


async def test_everything_wrong_with_an_order_is_told_at_once(gateway: Gateway) -> None:
    request = pb.SubmitOrderRequest(
        client_order_id="a b",
        order_type=7,  # type: ignore[arg-type]
        token_in="DOGE",
        token_out="SHIB",
        amount_in="1e5",
        slippage_bps=6000,
        min_amount_out="NaN",
        venues=["orca"],
        expire_time=YEAR_10000,
    )

    status = await refusal(gateway.client.SubmitOrder(request))
    named = [field for field, _ in violations(status)]
    assert status.message.endswith(
        "; also wrong: order_type, expire_time, token_in, token_out, amount_in, min_amount_out, "
        "slippage_bps, venues"
    )
    assert sorted(named) == [
        "amount_in",
        "client_order_id",
        "expire_time",
        "min_amount_out",
        "order_type",
        "slippage_bps",  # beside min_amount_out
        "slippage_bps",  # too much
        "token_in",
        "token_out",
        "venues",
    ]
    assert await stored(gateway) == []


@pytest.mark.parametrize("character", ["x", "\n", "\N{PILE OF POO}", "\N{LANGUAGE TAG}"])
async def test_a_refusal_fits_into_trailers_however_long_the_wrong_values_are(
    gateway: Gateway, character: str
) -> None:
    long = character * 10_000
    request = pb.SubmitOrderRequest(
        client_order_id=long,
        token_in=long,
        token_out=long,
        amount_in=long,
        min_amount_out=long,
        slippage_bps=6000,
        venues=[f"{name}{long}" for name in range(10)],
        order_type=7,  # type: ignore[arg-type]
        expire_time=YEAR_10000,
    )

    status = await refusal(gateway.client.SubmitOrder(request))
    assert len(violations(status)) == 10
    # Beyond 8 KiB a client may refuse them, and some do so at random.
    in_trailers = len(b64encode(status.SerializeToString())) + len(quote(status.message, ASCII))
    assert in_trailers < 7500


IDS: list[Any] = [
    pytest.param({}, "order_id", "is missing: set order_id or client_order_id"),
    pytest.param({"order_id": ""}, "order_id", f"'' {NOT_AN_ID}"),
    pytest.param({"order_id": "7"}, "order_id", f"'7' {NOT_AN_ID}"),
    pytest.param({"order_id": AN_ID.replace("-", "")}, "order_id", NOT_AN_ID),
    pytest.param({"order_id": f"{{{AN_ID}}}"}, "order_id", NOT_AN_ID),
    pytest.param({"order_id": f"{AN_ID}\n"}, "order_id", NOT_AN_ID),
    pytest.param({"client_order_id": ""}, "client_order_id", f"'' {KEY}"),
    pytest.param({"client_order_id": "a b"}, "client_order_id", f"'a b' {KEY}"),
    pytest.param({"client_order_id": "\x00"}, "client_order_id", KEY),
]


@pytest.mark.parametrize(("fields", "field", "description"), IDS)
async def test_a_malformed_id_is_refused_wherever_an_order_is_named(
    gateway: Gateway, fields: dict[str, Any], field: str, description: str
) -> None:
    client = gateway.client
    calls = [
        client.GetOrder(pb.GetOrderRequest(**fields)),
        client.CancelOrder(pb.CancelOrderRequest(**fields)),
        client.ListOrderEvents(pb.ListOrderEventsRequest(**fields)),
        anext(aiter(client.WatchOrder(pb.WatchOrderRequest(**fields)))),
    ]

    for call in calls:
        [(named, why)] = violations(await refusal(call))
        assert (named, description in why) == (field, True), why


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        (Duration(), "0s"),
        (Duration(seconds=-5), "-5s"),
        (Duration(nanos=999_000_000), "0.999s"),
        (Duration(seconds=60, nanos=1_000_000), "60.001s"),
        (Duration(nanos=999_999_999), "0.999999999s"),
        (Duration(seconds=60, nanos=1), "60.000000001s"),
        (Duration(seconds=60, nanos=999_999_990), "60.99999999s"),
        (Duration(seconds=315_576_000_000), "315576000000s"),
    ],
)
async def test_a_heartbeat_too_short_or_too_long_is_refused_with_the_rest(
    gateway: Gateway, interval: Duration, shown: str
) -> None:
    request = pb.WatchOrderRequest(order_id="7", heartbeat_interval=interval)

    found = violations(await refusal(anext(aiter(gateway.client.WatchOrder(request)))))
    assert found == [
        ("order_id", f"'7' {NOT_AN_ID}"),
        ("heartbeat_interval", f"{shown} must be 1s to 60s"),
    ]


async def test_a_resume_token_that_is_none_is_shown(gateway: Gateway) -> None:
    request = pb.WatchOrdersRequest(resume_token="Mw==")

    call = anext(aiter(gateway.client.WatchOrders(request)))
    assert violations(await refusal(call)) == [
        ("resume_token", "'Mw==' is none: pass on the last one received, unchanged")
    ]


NOT_BASE64 = ["x", "====", "!!!!", "é", "Mw", "Mw==!", "Mx==", "//8="]
# Of earlier releases: a number, an id, and an id of the other order.
OLD = [encoded(text) for text in ("3", AN_ID, f"oldest:{AN_ID}")]
# A number that is negative, broken, too long, or none; half an id; too little, and too much.
NOT_PLACES = [
    encoded(f"{method}/{rest}")
    for method, of in (("ListTokens", ""), ("ListOrderEvents", f"{AN_ID}/"))
    for rest in (of, *(f"{of}{last}" for last in ("-1", "1.5", "1000000000", "x", "3\n", "a/3")))
]
NOT_IDS = [
    encoded(f"ListOrders/newest/{rest}")
    for rest in ("", "0f/", "0f/0198c0de", "0f/3", AN_ID, f"0f/0f/{AN_ID}", f"0f/{AN_ID}\n")
]


@pytest.mark.parametrize("token", [*NOT_BASE64, *OLD, encoded("GetOrder/3")])
async def test_a_page_token_that_was_not_handed_out_is_refused_by_every_list(
    gateway: Gateway, token: str
) -> None:
    client = gateway.client
    calls = [
        client.ListOrders(pb.ListOrdersRequest(page_token=token)),
        client.ListTokens(pb.ListTokensRequest(page_token=token)),
        client.ListOrderEvents(pb.ListOrderEventsRequest(order_id=AN_ID, page_token=token)),
    ]

    for call in calls:
        assert violations(await refusal(call)) == [("page_token", f"{shown(token)} {NOT_A_PAGE}")]


@pytest.mark.parametrize("token", [*NOT_PLACES, *NOT_IDS])
async def test_a_page_token_that_leads_nowhere_is_refused(gateway: Gateway, token: str) -> None:
    method = b64decode(token).decode().partition("/")[0]
    requests: dict[str, Any] = {
        "ListOrders": pb.ListOrdersRequest(page_token=token),
        "ListTokens": pb.ListTokensRequest(page_token=token),
        "ListOrderEvents": pb.ListOrderEventsRequest(order_id=AN_ID, page_token=token),
    }

    call = getattr(gateway.client, method)(requests[method])
    assert violations(await refusal(call)) == [("page_token", f"{shown(token)} {NOT_A_PAGE}")]


@pytest.mark.parametrize("size", [-1, 1001, 2**31 - 1, -(2**31)])
async def test_a_page_size_out_of_range_is_refused_with_the_rest(
    gateway: Gateway, size: int
) -> None:
    client = gateway.client
    calls = [
        client.ListOrders(pb.ListOrdersRequest(page_size=size, page_token="x")),
        client.ListTokens(pb.ListTokensRequest(page_size=size, page_token="x")),
        client.ListOrderEvents(
            pb.ListOrderEventsRequest(order_id=AN_ID, page_size=size, page_token="x")
        ),
    ]

    for call in calls:
        assert violations(await refusal(call)) == [
            ("page_size", f"{size} must be 1 to 1000, or left out"),
            ("page_token", f"'x' {NOT_A_PAGE}"),
        ]


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        (
            {"statuses": [0]},
            "statuses",
            "0 is not a status an order can have: name those of OrderStatus",
        ),
        (
            {"statuses": [1, 9]},
            "statuses",
            "9 is not a status an order can have: name those of OrderStatus",
        ),
        ({"token": "DOGE"}, "token", f"'DOGE' is not a known token: {TOKENS}"),
        ({"venue": "\x00"}, "venue", f"'\\x00' {VENUE}"),
        ({"venue": "ray dium"}, "venue", f"'ray dium' {VENUE}"),
        ({"venue": "r" * 65}, "venue", f"rrr...' {VENUE}"),
        ({"create_time_from": YEAR_10000}, "create_time_from", YEARS),
        ({"create_time_before": YEAR_10000}, "create_time_before", YEARS),
        (
            {"create_time_from": Timestamp(seconds=2), "create_time_before": Timestamp(seconds=2)},
            "create_time_from",
            "1970-01-01T00:00:02+00:00 must be before create_time_before, "
            "1970-01-01T00:00:02+00:00",
        ),
        (
            {"create_time_from": Timestamp(nanos=1000), "create_time_before": Timestamp()},
            "create_time_from",
            "1970-01-01T00:00:00.000001+00:00 must be before create_time_before, ",
        ),
    ],
)
async def test_a_malformed_filter_is_refused(
    gateway: Gateway, fields: dict[str, Any], field: str, description: str
) -> None:
    request = pb.ListOrdersRequest(**fields)

    [(named, why)] = violations(await refusal(gateway.client.ListOrders(request)))
    assert (named, description in why) == (field, True), why
