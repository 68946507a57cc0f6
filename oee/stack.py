"""The whole stack, kept running: database, queue, simulator and the three services."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import grpc

import oee
from engine.errors import StartupError
from oee.nats import Nats
from oee.ports import HOST, Ports, free_ports, require_free
from oee.postgres import Postgres
from oee.processes import Lock, end_leftover, forget, record
from oee.service import Service
from oee.wallet import Wallet, development_wallet, fund

__all__ = ["COMMANDS", "Ports", "Stack", "default_directory"]

SERVING_SECONDS: Final = 60.0
MIGRATE_SECONDS: Final = 120.0
STOP_SECONDS: Final = 15.0
WATCH_SECONDS: Final = 0.5
RESTART_SECONDS: Final = 5.0

# -P: only our own code is imported, whatever lies in the caller's directory.
COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    name: (sys.executable, "-P", "-m", module)
    for name, module in {
        "migrate": "engine.migrate",
        "gateway": "gateway",
        "router": "router_svc",
        "executor": "executor_svc",
        "reconcile": "executor_svc.reconcile",
        "dex_sim": "dex_sim",
    }.items()
}


# On one machine, whoever answers clients goes first: those behind then find more to do at once, and
# do it together.
NICENESS: Final = {"gateway": "0", "router": "4", "executor": "8", "dex_sim": "12"}


def default_directory() -> Path:
    """Where `oee` keeps its data unless told otherwise: $OEE_HOME, or .oee here."""
    return Path(os.environ.get("OEE_HOME") or ".oee")


class Stack:
    """Everything one engine needs, as processes of ours, with its data in `directory`.

    `async with` it: inside, every service is SERVING and the wallet is funded; afterwards all
    of it is drained. Services are named gateway, router, executor and dex_sim; further ones
    gateway-2, gateway-3 …; there may be none of a kind. A crashed one is started again.
    NATS_URL or POSTGRES_DSN in `environment` (default: our own) replace the embedded servers;
    the rest of it reaches every service, and `settings` has more for one kind of them. What a
    killed run left in `directory` is ended first. Raises StartupError, in one line, when the
    directory or a port is in use or something does not come up.
    """

    def __init__(
        self,
        directory: Path,
        ports: Ports,
        environment: Mapping[str, str] | None = None,
        *,
        gateways: int = 1,
        routers: int = 1,
        executors: int = 1,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        commands: Mapping[str, Sequence[str]] = COMMANDS,
        show: Callable[[str, str], None] = lambda source, line: None,
    ) -> None:
        self.directory = directory.resolve()
        self.ports = ports
        self._environment = dict(os.environ if environment is None else environment)
        self._copies = {"executor": executors, "router": routers, "gateway": gateways}
        self._settings = settings or {}
        self._commands = commands
        self._show = show
        self._lock = Lock(self.directory / "lock")
        self._pid_files = self.directory / "run"
        self._services: dict[str, Service] = {}
        self._drain = AsyncExitStack()
        external = self._environment.get
        self.postgres = None if external("POSTGRES_DSN") else Postgres(self.directory / "postgres")
        self.nats = None if external("NATS_URL") else Nats(self.directory / "nats")

    @property
    def address(self) -> str:
        """Where the (first) gateway serves."""
        return f"{HOST}:{self.ports.gateway}"

    @property
    def chain_address(self) -> str:
        """Where the simulated chain and its control service are."""
        return f"{HOST}:{self.ports.chain}"

    @property
    def postgres_dsn(self) -> str:
        """The database the services use."""
        return self.postgres.dsn if self.postgres else self._environment["POSTGRES_DSN"]

    @property
    def nats_url(self) -> str:
        """The queue server the services use; known once it runs."""
        return self.nats.url if self.nats else self._environment["NATS_URL"]

    @property
    def wallet(self) -> Wallet:
        """The wallet that pays for the swaps; created when there is none."""
        return development_wallet(self.directory / "wallet.json")

    @property
    def services(self) -> Mapping[str, Service]:
        """Every service by its name, in the order of starting."""
        return self._services

    def pid(self, name: str) -> int:
        """A service's process id; RuntimeError while it has none."""
        return self._services[name].pid

    async def start(self, name: str) -> None:
        """Start a stopped or killed service; returns once it is SERVING."""
        await self._services[name].start()
        await self._services[name].serving(SERVING_SECONDS)

    async def serving(self, name: str) -> None:
        """Return once a service, killed or crashed before, is SERVING again."""
        await self._services[name].serving(SERVING_SECONDS)

    async def stop(self, name: str) -> None:
        """Drain one service; it stays down. Safe to repeat."""
        await self._services[name].stop()

    async def kill(self, name: str, *, restart: bool = True) -> None:
        """SIGKILL one service; returns once it is gone, before it is started again."""
        await self._services[name].kill(restart=restart)

    def pause(self, name: str) -> None:
        """SIGSTOP one service."""
        self._services[name].pause()

    def resume(self, name: str) -> None:
        """SIGCONT one service."""
        self._services[name].resume()

    async def reconcile(self) -> tuple[int, str]:
        """Bring a restored database up to the chain; the exit code and the report, one JSON line.

        Only between `async with`. Takes as long as blockhashes live, and may be repeated.
        """
        process = await asyncio.create_subprocess_exec(
            *self._commands["reconcile"],
            env=self._passed_on() | self._record() | self._chain(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        pid_file = self._pid_files / "reconcile.json"
        record(pid_file, process.pid)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            report = asyncio.create_task(process.stdout.read())
            async for line in process.stderr:
                self._show("reconcile", line.decode(errors="replace").rstrip())
            return await process.wait(), (await report).decode().strip()
        finally:
            # It may be ended anywhere, and repeated.
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            forget(pid_file)

    async def wipe(self) -> None:
        """Forget everything: orders, queues, chain and wallet. Only while not running.

        Raises StartupError when the orders are not ours to delete.
        """
        if self.postgres is None:
            raise StartupError(
                "a fresh start cannot empty the database of POSTGRES_DSN, and its orders belong"
                " to the old chain; unset POSTGRES_DSN"
            )
        if not self.directory.exists():
            return
        self._lock.acquire()
        try:
            await self._end_leftovers()
            await _in_thread(self.postgres.wipe)
            for folder in ("postgres", "nats", "chain"):
                shutil.rmtree(self.directory / folder, ignore_errors=True)
            (self.directory / "wallet.json").unlink(missing_ok=True)
        finally:
            self._lock.release()

    async def __aenter__(self) -> Stack:
        async with AsyncExitStack() as drain:
            await self._open(drain)
            self._drain = drain.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._drain.aclose()

    async def _open(self, drain: AsyncExitStack) -> None:
        # Drained from the bottom: who asks stops before who answers.
        self._pid_files.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        drain.callback(self._lock.release)
        await self._end_leftovers()
        require_free(self.ports.names())
        wallet = self.wallet
        servers = {"postgres": self.postgres, "nats": self.nats}
        embedded = {name: server for name, server in servers.items() if server is not None}
        for server in embedded.values():
            drain.push_async_callback(_in_thread, server.stop)
        await _together(*(_in_thread(server.start) for server in embedded.values()))
        await self._migrate()
        self._services = self._all_services()
        for service in self._services.values():
            drain.push_async_callback(service.stop)
            await service.start()
        await _together(
            *(service.serving(SERVING_SECONDS) for service in self._services.values()),
            self._fund(wallet),
        )
        for name, server in embedded.items():
            keeper = asyncio.create_task(self._keep_running(name, server))
            drain.push_async_callback(_cancelled, keeper)

    async def _end_leftovers(self) -> None:
        await _together(
            *(
                _in_thread(end_leftover, pid_file, signal.SIGTERM, STOP_SECONDS)
                for pid_file in self._pid_files.glob("*.json")
            )
        )

    async def _migrate(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._commands["migrate"],
            env=self._passed_on() | self._record(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), MIGRATE_SECONDS)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        text = output.decode(errors="replace").strip()
        if process.returncode != 0:
            raise StartupError(f"the database cannot be migrated: {' | '.join(text.splitlines())}")
        for line in text.splitlines():
            self._show("migrate", line)

    async def _fund(self, wallet: Wallet) -> None:
        try:
            await asyncio.wait_for(fund(wallet, self.chain_address), SERVING_SECONDS)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            raise StartupError(f"the development wallet cannot be funded: {error}") from None

    def _all_services(self) -> dict[str, Service]:
        record = self._record() | {"NATS_URL": self.nats_url}
        venues = {
            "VENUES": f"raydium={HOST}:{self.ports.raydium},meteora={HOST}:{self.ports.meteora}"
        }
        simulator = {
            "DATA_DIRECTORY": str(self.directory / "chain"),
            "CHAIN_LISTEN_ADDRESS": self.chain_address,
            "VENUE_LISTEN_ADDRESSES": venues["VENUES"],
            "CONTROL_ENABLED": "true",
        }
        simulated = [self.ports.chain, self.ports.raydium, self.ports.meteora]
        services = {"dex_sim": self._service("dex_sim", "dex_sim", simulator, simulated)}
        for kind, first_port, settings in (
            ("executor", self.ports.executor, record | venues | self._chain()),
            ("router", self.ports.router, record | venues),
            ("gateway", self.ports.gateway, record | venues),
        ):
            copies = self._copies[kind]
            further = free_ports(max(0, copies - 1))
            for number, port in enumerate([first_port, *further][:copies], start=1):
                name = kind if number == 1 else f"{kind}-{number}"
                listen = {"LISTEN_ADDRESS": f"{HOST}:{port}"}
                services[name] = self._service(name, kind, settings | listen, [port])
        return services

    def _record(self) -> dict[str, str]:
        return {"POSTGRES_DSN": self.postgres_dsn}

    def _chain(self) -> dict[str, str]:
        return {"CHAIN_ADDRESS": self.chain_address, "WALLET_KEY_FILE": str(self.wallet.key_file)}

    def _service(
        self, name: str, kind: str, settings: Mapping[str, str], ports: Sequence[int]
    ) -> Service:
        return Service(
            name,
            self._commands[kind],
            {
                "NICENESS": NICENESS[kind],
                **self._passed_on(),
                **settings,
                **self._settings.get(kind, {}),
            },
            [f"{HOST}:{port}" for port in ports],
            self._pid_files / f"{name}.json",
            self._show,
        )

    def _passed_on(self) -> dict[str, str]:
        """The caller's environment, for a child that imports the very code we are."""
        code = str(Path(oee.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (code, self._environment.get("PYTHONPATH"))))
        passed_on = {**self._environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        # Our own wallet pays, and a key that is not ours is nobody's business here.
        passed_on.pop("WALLET_KEY", None)
        # A service tells of refused certificates by what gRPC writes at its default, and drops the
        # rest; what keeps our own terminal quiet is not meant for it.
        if passed_on.get("GRPC_VERBOSITY") in ("ERROR", "NONE"):
            del passed_on["GRPC_VERBOSITY"]
        return {**passed_on, "no_grpc_proxy": HOST}

    async def _keep_running(self, name: str, server: Postgres | Nats) -> None:
        """Start an embedded server again that ended without being told to."""
        is_down = False
        while True:
            await asyncio.sleep(RESTART_SECONDS if is_down else WATCH_SECONDS)
            if not is_down and server.has_crashed:
                is_down = True
                self._show(name, "crashed; is started again")
            if is_down:
                try:
                    await _in_thread(server.restart)
                    is_down = False
                    self._show(name, "serves again")
                except StartupError as error:
                    self._show(name, str(error))


async def _in_thread(function: Callable[..., object], *arguments: object) -> None:
    """Run it in a thread, to its end: who is cancelled waits, so nothing overtakes it."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


async def _together(*work: Coroutine[Any, Any, object]) -> None:
    """Do it side by side; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
