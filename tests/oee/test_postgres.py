from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import asyncpg
import psutil
import pytest

import oee
from engine.errors import StartupError
from oee.postgres import Postgres
from oee.processes import is_alive

ROOT: Final = Path(oee.__file__).parents[1]
OWNER: Final = """
import os, signal, sys
from pathlib import Path
from oee.postgres import Postgres
server = Postgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def postgres(home: Path) -> Iterator[Postgres]:
    server = Postgres(home / "postgres")
    yield server
    server.stop()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def query(postgres: Postgres, sql: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(postgres.dsn, timeout=10, command_timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_it_serves_its_own_database_and_role(postgres: Postgres) -> None:
    postgres.start()

    assert query(postgres, "SELECT current_database() || '/' || current_user") == "oee/oee"


def test_what_was_committed_survives_sigkill(postgres: Postgres) -> None:
    postgres.start()
    query(postgres, "CREATE TABLE kept AS SELECT 1 AS number")

    postgres.kill()
    postgres.start()

    assert query(postgres, "SELECT number FROM kept") == 1


def test_sigkill_leaves_no_backend_behind_not_even_a_busy_one(postgres: Postgres) -> None:
    postgres.start()
    with ThreadPoolExecutor() as threads:
        # Idle backends go by themselves when the postmaster is gone; this one does not look.
        busy = threads.submit(query, postgres, "DO $$ BEGIN LOOP END LOOP; END $$")
        while query(postgres, "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^DO'") == 0:
            pass
        backends = psutil.Process(postgres.pid).children(recursive=True)

        postgres.kill()

        alive = [p for p in backends if is_alive(p)]
        assert isinstance(busy.exception(), asyncpg.PostgresError | OSError)
    assert len(backends) > 5
    assert alive == []


def test_it_listens_on_its_socket_only(postgres: Postgres) -> None:
    postgres.start()

    assert psutil.Process(postgres.pid).net_connections("inet") == []


def test_durability_is_on_and_cannot_be_set(postgres: Postgres, home: Path) -> None:
    postgres.start()

    with pytest.raises(ValueError, match="fsync"):
        Postgres(home / "other", {"fsync": "off"})
    assert query(postgres, "SHOW fsync") == "on"
    assert query(postgres, "SHOW synchronous_commit") == "on"


def test_settings_of_the_caller_are_taken(home: Path) -> None:
    postgres = Postgres(home / "postgres", {"max_connections": "17"})
    postgres.start()
    try:
        assert query(postgres, "SHOW max_connections") == "17"
    finally:
        postgres.stop()


def test_a_port_in_the_callers_environment_misleads_nobody(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    postgres.start()

    assert query(postgres, "SELECT 1") == 1


def test_a_second_owner_is_refused_while_the_first_lives(postgres: Postgres, home: Path) -> None:
    postgres.start()

    with pytest.raises(StartupError, match="already in use"):
        Postgres(home / "postgres").start()
    Postgres(home / "postgres").stop()

    assert query(postgres, "SELECT 1") == 1


def test_the_next_start_ends_what_a_killed_owner_left(postgres: Postgres, home: Path) -> None:
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, home / "postgres"],
        stdout=subprocess.PIPE,
        check=False,
        cwd=ROOT,
    )
    left = psutil.Process(int(owner.stdout))

    postgres.start()

    assert owner.returncode == -signal.SIGKILL
    assert not is_alive(left)
    assert query(postgres, "SELECT 1") == 1


def test_a_stranger_with_the_recorded_pid_is_left_alone(
    postgres: Postgres, home: Path, stranger: subprocess.Popen[bytes]
) -> None:
    record = home / "postgres" / "postgres.pid.json"
    record.parent.mkdir()
    started = psutil.Process(stranger.pid).create_time() - 60
    record.write_text(json.dumps({"pid": stranger.pid, "started": started}))

    postgres.start()

    assert stranger.poll() is None


def test_a_dead_servers_pid_that_went_to_a_stranger_is_no_obstacle(
    postgres: Postgres, home: Path
) -> None:
    postgres.start()
    lock_file = home / "postgres" / "data" / "postmaster.pid"
    lines = lock_file.read_text().splitlines()
    postgres.kill()
    # A process of the very user the server runs as, which PostgreSQL itself would respect.
    stranger = subprocess.Popen(["sleep", "600"], user=lock_file.parent.stat().st_uid)
    try:
        lock_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        postgres.start()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert query(postgres, "SELECT 1") == 1


def test_an_unfinished_cluster_is_begun_again(postgres: Postgres, home: Path) -> None:
    draft = home / "postgres" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18")

    postgres.start()

    assert query(postgres, "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(home: Path) -> None:
    postgres = Postgres(home / "postgres", {"shared_buffers": "nonsense"})

    with pytest.raises(StartupError, match="shared_buffers"):
        postgres.start()

    again = Postgres(home / "postgres")
    again.start()
    again.stop()


def test_several_start_at_once_without_disturbing_each_other(home: Path) -> None:
    servers = [Postgres(home / name) for name in ("one", "two")]
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(Postgres.start, servers))
        assert len({server.dsn for server in servers}) == 2
        assert [query(server, "SELECT 1") for server in servers] == [1, 1]
    finally:
        for server in servers:
            server.stop()


def test_wiping_forgets_everything(postgres: Postgres) -> None:
    postgres.start()
    query(postgres, "CREATE TABLE kept AS SELECT 1 AS number")
    postgres.stop()

    postgres.wipe()
    postgres.start()

    assert query(postgres, "SELECT to_regclass('kept')") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_a_private_folder_of_root_stays_private(home: Path) -> None:
    home.chmod(0o700)
    postgres = Postgres(home / "postgres")
    postgres.start()
    data = home / "postgres" / "data"
    try:
        assert query(postgres, "SELECT 1") == 1
        assert home.stat().st_mode & 0o777 == 0o700
        assert data.resolve().stat().st_mode & 0o777 == 0o700
        assert psutil.Process(postgres.pid).uids().real == data.resolve().stat().st_uid != 0
    finally:
        postgres.stop()
        kept_at = data.resolve()
        postgres.wipe()
    assert not kept_at.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_data_outside_a_private_folder_go_with_the_folder(home: Path) -> None:
    home.chmod(0o700)
    postgres = Postgres(home / "postgres")
    postgres.start()
    query(postgres, "CREATE TABLE kept AS SELECT 1 AS number")
    postgres.stop()

    (home / "postgres" / "data").unlink()
    postgres.start()

    try:
        assert query(postgres, "SELECT to_regclass('kept')") is None
    finally:
        postgres.stop()
        postgres.wipe()
