"""Migrations against a real PostgreSQL: each once, whoever else migrates at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from engine import migrate as module
from engine import wire
from engine.attempt import Resolution
from engine.errors import StartupError
from engine.lifecycle import EventType, Status
from engine.migrate import migrate
from engine.order import Order
from engine.route import Leg, Route
from engine.store import Store, open_store
from gateway.explanation import explain
from oee.postgres import Postgres
from tests import builders

SCRIPTS = Path(module.__file__).parent / "migrations"
SHIPPED = sorted(path.name for path in SCRIPTS.glob("*.sql"))
# Orders in every status, as the code wrote them when a route was one pool; see its README.
DATA = Path(__file__).parents[1] / "data"
BEFORE_LEGS = DATA / "orders_before_legs.sql"
# The script as it was released, and as it was edited afterwards: some databases ran that one.
FACTS_AS_WRITTEN = {
    "released": (SCRIPTS / "0009_facts_as_written.sql").read_text(),
    "edited": (DATA / "0009_facts_as_edited.sql").read_text(),
}


async def ask(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        found: list[asyncpg.Record] = await connection.fetch(statement)
        return found
    finally:
        await connection.close()


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[str]:
    """A schema without a single table."""
    await ask(postgres.dsn, "CREATE SCHEMA fresh")
    yield f"{postgres.dsn}&search_path=fresh"
    await ask(postgres.dsn, "DROP SCHEMA fresh CASCADE")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose scripts are the package's migrations."""
    (tmp_path / "migrations").mkdir()
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    return tmp_path / "migrations"


async def names(dsn: str) -> list[str]:
    return [row["name"] for row in await ask(dsn, "SELECT name FROM migrations ORDER BY name")]


async def test_an_empty_database_is_ready_after_migrating(empty: str) -> None:
    assert await migrate(empty) == SHIPPED

    async with open_store(empty) as store:
        assert {"SOL", "USDC"} <= {token.symbol for token in store.tokens.all}


async def test_migrating_twice_is_migrating_once(empty: str) -> None:
    await migrate(empty)

    assert await migrate(empty) == []
    assert await names(empty) == SHIPPED


async def test_of_many_at_once_one_migrates_and_the_others_wait_for_it(empty: str) -> None:
    applied = await asyncio.gather(*(migrate(empty) for _ in range(4)))

    assert sorted(applied) == [[], [], [], SHIPPED]
    assert await names(empty) == SHIPPED


async def test_scripts_run_by_name_and_only_those_that_are_missing(empty: str, shelf: Path) -> None:
    (shelf / "0002_second.sql").write_text("INSERT INTO steps VALUES ('second')")
    (shelf / "0001_first.sql").write_text("CREATE TABLE steps (name text)")
    (shelf / "README.md").write_text("not a script")
    assert await migrate(empty) == ["0001_first.sql", "0002_second.sql"]
    (shelf / "0003_third.sql").write_text("INSERT INTO steps VALUES ('third')")

    assert await migrate(empty) == ["0003_third.sql"]

    assert [row["name"] for row in await ask(empty, "SELECT name FROM steps")] == [
        "second",
        "third",
    ]


def test_no_script_alters_a_type_that_running_services_write_with() -> None:
    # asyncpg keeps what it knows of a type: each row in the old shape would be refused. Those
    # before 0010 did.
    altering = [n for n in SHIPPED if "ALTER TYPE" in (SCRIPTS / n).read_text().upper()]
    assert [name for name in altering if name >= "0010"] == []
    assert altering


async def test_a_script_may_take_longer_than_a_statement(
    empty: str, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_SECONDS", 0.5)
    (shelf / "0001_first.sql").write_text("SELECT pg_sleep(0.8)")

    assert await migrate(empty) == ["0001_first.sql"]


@pytest.mark.parametrize(
    "flaw",
    [
        "SELECT nonsense",
        # Runs, and can then not be noted down.
        "INSERT INTO migrations (name) VALUES ('0002_second.sql')",
    ],
)
async def test_a_script_that_fails_leaves_nothing_and_can_be_repeated(
    empty: str, shelf: Path, flaw: str
) -> None:
    (shelf / "0001_first.sql").write_text("CREATE TABLE one (name text)")
    broken = shelf / "0002_second.sql"
    broken.write_text(f"CREATE TABLE two (name text); {flaw}")

    with pytest.raises(asyncpg.PostgresError):
        await migrate(empty)

    assert await names(empty) == ["0001_first.sql"]
    broken.write_text("CREATE TABLE two (name text)")
    assert await migrate(empty) == ["0002_second.sql"]


async def test_a_service_refuses_a_database_that_was_never_migrated(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.connections.OPEN_SECONDS", 0)

    with pytest.raises(StartupError, match=r"python -m engine\.migrate"):
        async with open_store(empty):
            pass


def put(shelf: Path, *, before: str = "9999") -> None:
    """Have the shipped scripts on the shelf, those before this one only."""
    for name in SHIPPED:
        if name < before:
            (shelf / name).write_text((SCRIPTS / name).read_text())


# How each script's SHA-256 begins. A database that has a script is not given its
# later wording: what has to be otherwise is a further script, with a further line here.
RELEASED: Final = {
    "0001_orders.sql": "6455c1d24bbd5e96",
    "0002_restore.sql": "288282968746ba83",
    "0003_batches.sql": "2b04288209549500",
    "0004_accounts.sql": "f29038b6f9469970",
    "0005_legs.sql": "8cab815b080c6ac4",
    "0006_adopted_tokens.sql": "c3e1be380943fe71",
    "0007_amounts_as_digits.sql": "14a8ff7bee44dd07",
    "0008_lighter_rows.sql": "686303fd125a72c3",
    "0009_facts_as_written.sql": "9783b52b5f6485e2",
    "0010_written_rows.sql": "3acc3b51c480ab9f",
    "0011_copy_in_the_same_server.sql": "c5e60e9f90b7abe8",
    "0012_truncated_log.sql": "15807337022f536e",
}


def test_a_released_script_stays_as_it_is() -> None:
    found = {name: sha256((SCRIPTS / name).read_bytes()).hexdigest()[:16] for name in SHIPPED}

    assert found == RELEASED


async def types(dsn: str) -> set[tuple[str, int, str]]:
    """The types of rows, each with its identity and all its attributes."""
    found = await ask(
        dsn,
        "SELECT t.typname AS name, t.oid, string_agg("
        "           a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', '"
        "           ORDER BY a.attnum) AS attributes"
        "  FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'"
        "  JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE t.typnamespace = current_schema()::regnamespace GROUP BY t.oid",
    )
    return {(row["name"], row["oid"], row["attributes"]) for row in found}


@pytest.mark.parametrize("script", FACTS_AS_WRITTEN)
async def test_either_database_of_before_is_written_to_and_serves_those_who_do_already(
    empty: str, shelf: Path, script: str
) -> None:
    put(shelf, before="0009")
    (shelf / "0009_facts_as_written.sql").write_text(FACTS_AS_WRITTEN[script])
    await migrate(empty)
    before = await types(empty)

    put(shelf)
    await migrate(empty)

    assert {name for name, *_ in before} >= {"order_move", "signed_attempt", "resolved_attempt"}
    assert before <= await types(empty)
    async with open_store(empty) as store:
        order = await builders.stored(store, Status.CONFIRMED)
        settled = (await store.save(order.finalize(builders.EVIDENCE))).order
        read = await store.get(order.order_id)
    assert read is not None
    assert read.route == builders.route()
    assert read.attempts == settled.attempts
    assert [attempt.evidence for attempt in read.attempts] == [builders.EVIDENCE]


@pytest.fixture
async def aged(empty: str, shelf: Path) -> AsyncIterator[Store]:
    """A database whose orders were written before routes had legs."""
    put(shelf, before="0005")
    await migrate(empty)
    connection = await asyncpg.connect(empty, timeout=10)
    await connection.execute(BEFORE_LEGS.read_text())
    await connection.close()
    put(shelf)
    await migrate(empty)
    async with open_store(empty) as store:
        yield store


async def keyed(store: Store, key: str) -> Order:
    order = await store.get_by_client_order_id("default", key)
    assert order is not None
    return order


async def test_orders_of_every_status_are_read_and_shown_after_routes_became_legs(
    aged: Store,
) -> None:
    orders = await aged.list_orders("default", limit=100)

    assert {order.status for order in orders} == set(Status)
    kinds: set[EventType] = set()
    for order in orders:
        events = await aged.events([(order.order_id, 0)], 100)
        assert [event.sequence for event in events] == list(range(1, order.sequence + 1))
        shown = [wire.event(order, event, aged.tokens) for event in events]
        assert shown[-1].status == wire.order(order, aged.tokens).status
        assert explain(order, events, aged.tokens).summary
        kinds.update(event.type for event in events)
    assert kinds == set(EventType)


@pytest.mark.parametrize(
    ("key", "venue", "pool", "kind", "quoted", "floor"),
    [
        ("routed", "raydium", "pool", "raydium_cpmm", 225_000_000, 222_750_000),
        ("building", "raydium", "pool", "raydium_cpmm", 225_000_000, 222_750_000),
        ("second-attempt", "meteora", "other pool", "meteora_dlmm", 226_000_000, 222_750_000),
        ("adopted-when-pending", "unknown", "unknown", "", 224_000_000, 224_000_000),
    ],
)
async def test_a_route_of_one_pool_becomes_one_leg_for_the_whole_order(
    aged: Store, key: str, venue: str, pool: str, kind: str, quoted: int, floor: int
) -> None:
    order = await keyed(aged, key)
    events = await aged.events([(order.order_id, 0)], 100)

    leg = Leg(
        venue, pool, kind, builders.SOL, builders.USDC, order.request.amount_in, quoted, floor
    )
    assert order.route == Route((leg,), quoted)
    assert order.min_amount_out == floor
    assert order.route.least_changes() == {
        builders.SOL: -order.request.amount_in,
        builders.USDC: order.min_amount_out,
    }
    decided = [event.detail.route for event in events if event.type is EventType.ROUTE_CHOSEN]
    assert decided[-1] is not None
    assert (decided[-1].route, decided[-1].venue) == (order.route, venue)
    signed = [event.detail.attempt for event in events if event.detail.attempt is not None]
    assert [attempt.legs for attempt in order.attempts] == [
        attempt.legs for attempt in signed if attempt.resolution is None
    ]
    if signed:
        assert order.attempts[-1].legs == (leg,)


async def test_the_largest_amounts_survive_as_the_integers_that_they_are(aged: Store) -> None:
    order = await keyed(aged, "largest")

    assert order.route is not None
    [leg] = order.route.legs
    most = 2**64 - 1
    assert (leg.amount_in, leg.quoted_amount_out, leg.min_amount_out) == (most, most, most)


async def test_orders_from_before_legs_go_on_where_they_stood(aged: Store) -> None:
    routed = await keyed(aged, "routed")
    building = (await aged.save(routed.start_building())).order
    signed = (await aged.save(building.sign(builders.attempt(building)))).order
    submitted, confirmed = await keyed(aged, "submitted"), await keyed(aged, "confirmed")
    fill = builders.fill(submitted)

    filled = (await aged.save(submitted.confirm(fill))).order
    for order in (filled, confirmed):
        await aged.save(order.finalize(builders.EVIDENCE))

    assert (await keyed(aged, "routed")).live_attempt == signed.attempts[-1]
    for key in ("submitted", "confirmed"):
        order = await keyed(aged, key)
        assert order.settled
        assert [attempt.resolution for attempt in order.attempts] == [Resolution.LANDED]


async def test_a_copy_in_the_same_server_may_not_sign_and_its_original_goes_on(dsn: str) -> None:
    """CREATE DATABASE ... TEMPLATE copies the oids of tables as well."""
    server = urlsplit(dsn)._replace(path="/oee").geturl()
    original = urlsplit(dsn).path.removeprefix("/")
    copy = f"{original}_copy"
    await ask(server, f"CREATE DATABASE {copy} TEMPLATE {original}")
    try:
        allowed = "SELECT coalesce(signing_allowed(), false) AS allowed"
        [there] = await ask(urlsplit(dsn)._replace(path=f"/{copy}").geturl(), allowed)
        [here] = await ask(dsn, allowed)
    finally:
        await ask(server, f"DROP DATABASE {copy}")

    assert (here["allowed"], there["allowed"]) == (True, False)


async def test_to_tell_copies_apart_moves_no_home_and_breaks_no_resume_token(
    empty: str, shelf: Path
) -> None:
    put(shelf, before="0011")
    await migrate(empty)
    homes = "SELECT s.home AS signs_at, l.home AS logs_at FROM signing s, event_log l"
    before = await ask(empty, homes)

    put(shelf)
    await migrate(empty)

    assert await ask(empty, homes) == before
    [row] = await ask(empty, "SELECT signing_home() AS home, signing_allowed() AS allowed")
    assert (row["home"], row["allowed"]) == (before[0]["signs_at"], True)
