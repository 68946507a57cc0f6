"""Child processes, and what is left of them when their parent was killed.

Every child is on record in a file beside its data: pid and start time. Whoever starts the
same thing next ends what the record names, and nobody else: a pid alone may long belong to a
stranger. A lock, which the kernel releases when its holder dies, tells a killed predecessor
from one that is still running.

PR_SET_PDEATHSIG is not used: it fires when the *thread* that forked ends, and children are
started from worker threads that end long before the process does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from engine.errors import StartupError
from engine.scheduling import wait_your_turn

# The kernel's boot time, which start times are counted from, is slewed by clock corrections.
SAME_START_SECONDS: Final = 1.0
KILL_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.01
LOG_TAIL_LINES: Final = 5


@dataclass(frozen=True, slots=True)
class User:
    """Whom a child runs as when that is not ourselves."""

    uid: int
    gid: int

    def may_enter(self, directory: Path) -> bool:
        """Whether this user reaches into the directory, asked of the kernel as that user."""
        return run(["test", "-x", str(directory)], user=self).returncode == 0


def run(
    command: Sequence[str],
    *,
    user: User | None = None,
    env: Mapping[str, str] | None = None,
    text: str = "",
    timeout_seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as `user`, with `text` as its input; both outputs are in stdout."""
    return subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd="/",
        env=env,
        timeout=timeout_seconds,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


class Lock:
    """The right to run something in a directory; released by `release` or by our death."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is ours now."""
        return self._file is not None

    def acquire(self) -> None:
        """Take it; StartupError when another process (or another object of ours) holds it."""
        if self._file is not None:
            raise StartupError(f"{self._path.parent} is already in use by this process")
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise StartupError(
                f"{self._path.parent} is already in use; stop the other run or choose"
                " another directory"
            ) from None
        self._file = file

    def release(self) -> None:
        """Give it back; safe to repeat."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def record(path: Path, pid: int) -> None:
    """Put a running child on record."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"pid": pid, "started": started}))
    draft.replace(path)


def forget(path: Path) -> None:
    """Take a child that has ended off the record; safe to repeat."""
    path.unlink(missing_ok=True)


def end_leftover(path: Path, stop_signal: signal.Signals, grace_seconds: float) -> bool:
    """End the recorded child of a killed predecessor, if it still runs; tells whether it did.

    Call only while holding the lock of its directory.
    """
    process = _recorded(path)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(stop_signal)
        # A paused process takes its signal only when it is resumed.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
        if not _all_end([process], grace_seconds):
            kill_tree(process.pid)
    forget(path)
    return process is not None


def _recorded(path: Path) -> psutil.Process | None:
    try:
        noted = json.loads(path.read_text())
        process = psutil.Process(noted["pid"])
        same = abs(process.create_time() - noted["started"]) < SAME_START_SECONDS
    except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
        return None
    return process if same else None


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all its descendants; returns once all of them are gone.

    The root goes first, so that it can neither restart nor report a child of its own.
    """
    try:
        root = psutil.Process(pid)
        doomed = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _all_end(doomed, KILL_SECONDS)


def _all_end(processes: Sequence[psutil.Process], within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while any(map(is_alive, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. A zombie does not: it holds nothing any more, and who has to reap
    it (in a container: pid 1) may never do so."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server:
    """One long-running child process in a session of its own, writing to a log file.

    A session of its own keeps the terminal's Ctrl-C away from it: we stop it when its turn is.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._record = directory / f"{name}.pid.json"
        self._log = directory / f"{name}.log"
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    @property
    def has_crashed(self) -> bool:
        """Whether it has ended though nobody asked it to."""
        return self._wanted and self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Its process id; RuntimeError when it was not started or has been stopped."""
        if self._process is None:
            raise RuntimeError(f"{self._name} is not running")
        return self._process.pid

    def start(
        self,
        command: Sequence[str],
        *,
        user: User | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, without waiting until it is ready."""
        self._log.touch(mode=0o600)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=env,
                start_new_session=True,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=[] if user else None,
            )
        wait_your_turn(self._process.pid)
        record(self._record, self._process.pid)
        self._wanted = True

    def end_leftover(self, stop_signal: signal.Signals, grace_seconds: float) -> None:
        """End what a killed predecessor left running."""
        end_leftover(self._record, stop_signal, grace_seconds)

    def check(self) -> None:
        """StartupError, with the last lines of its log, when it has exited."""
        if self._process is not None and self._process.poll() is not None:
            raise StartupError(
                f"{self._name} exited with {self._process.returncode}: {self.log_tail()}"
            )

    def log_tail(self) -> str:
        """The last lines of its log, on one line."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-LOG_TAIL_LINES:])

    def stop(self, stop_signal: signal.Signals, grace_seconds: float) -> None:
        """Ask it to end; kill it when the grace is over. Safe to repeat."""
        self._wanted = False
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(stop_signal)
            self._process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it and all its descendants, without warning. Safe to repeat."""
        self._wanted = False
        if self._process is None:
            return
        if self._process.poll() is None:
            kill_tree(self._process.pid)
        self._process.wait(KILL_SECONDS)
        self._process = None
        forget(self._record)


@contextlib.contextmanager
def killed_on_error(server: Server, lock: Lock) -> Iterator[None]:
    """Leave neither process nor lock behind when a start fails half way."""
    try:
        yield
    except BaseException:
        server.kill()
        lock.release()
        raise
