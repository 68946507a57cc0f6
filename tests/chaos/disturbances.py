"""Carrying out what the schedule says, on a running stack."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import grpc

from engine.v1 import sim_pb2 as pb
from engine.v1.sim_pb2_grpc import SimControlServiceStub
from oee.nats import Nats
from oee.postgres import Postgres
from oee.stack import Stack
from tests.chaos.schedule import Action, Verb, lasting

if TYPE_CHECKING:
    from engine.v1.sim_pb2_grpc import SimControlServiceAsyncStub

INJECT_SECONDS: Final = 2.0
CLEAR_SECONDS: Final = 30.0


class Disturbances:
    """Does one action after the other, or side by side; `say` hears of each."""

    def __init__(self, stack: Stack, control: grpc.aio.Channel, say: Callable[[str], None]) -> None:
        if stack.postgres is None or stack.nats is None:
            raise ValueError("only servers of our own may be disturbed")
        self._stack = stack
        self._postgres: Postgres = stack.postgres
        self._nats: Nats = stack.nats
        self._control: SimControlServiceAsyncStub = SimControlServiceStub(control)
        self._say = say
        # A server is not killed before it is up again from the last time.
        self._nats_turn, self._postgres_turn = asyncio.Lock(), asyncio.Lock()
        self.done: Counter[str] = Counter()
        # How often each kind of fault struck, since the simulator was last killed.
        self.hits: Counter[str] = Counter()

    async def follow(self, plan: Sequence[Action]) -> None:
        """Carry out each action at its time, counted from now; returns when the last is over."""
        started = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as under_way:
            for action in plan:
                wait = started + action.at_seconds - asyncio.get_running_loop().time()
                await asyncio.sleep(max(0.0, wait))
                self._say(str(action))
                under_way.create_task(self._carry_out(action))

    async def kill(self, *names: str) -> None:
        """kill -9 these services at once; they are started again."""
        self.done.update(f"kill {name}" for name in names)
        await asyncio.gather(*(self._stack.kill(name) for name in names))

    async def restart_nats(self, down_seconds: float, *, wipe: bool) -> None:
        """kill -9 nats-server, and start it again with its store or without."""
        async with self._nats_turn:
            self.done["wipe nats" if wipe else "restart nats"] += 1
            await _in_thread(self._nats.kill)
            if wipe:
                await _in_thread(self._nats.wipe)
            await asyncio.sleep(down_seconds)
            await _in_thread(self._nats.start)

    async def restart_postgres(self) -> None:
        """kill -9 postmaster and backends, and start again."""
        async with self._postgres_turn:
            self.done["restart postgres"] += 1
            await _in_thread(self._postgres.restart)

    async def calm(self) -> None:
        """Once `follow` is over: returns when all services are SERVING and no fault is left."""
        for name in self._stack.services:
            await self._stack.serving(name)
        cleared = await self._control.ClearFaults(
            pb.ClearFaultsRequest(), timeout=CLEAR_SECONDS, wait_for_ready=True
        )
        for report in cleared.reports:
            self.hits[_effect(report.fault)] += report.hits

    async def _carry_out(self, action: Action) -> None:
        match action.verb:
            case Verb.KILL:
                await self.kill(action.target)
            case Verb.PAUSE:
                await self._pause(action.target, action.lasts_seconds)
            case Verb.INJECT:
                await asyncio.gather(*(self._inject(fault) for fault in lasting(action)))
            case Verb.RESTART if action.target == "postgres":
                await self.restart_postgres()
            case Verb.RESTART | Verb.WIPE:
                await self.restart_nats(action.lasts_seconds, wipe=action.verb is Verb.WIPE)

    async def _pause(self, name: str, seconds: float) -> None:
        try:
            self._stack.pause(name)
        except RuntimeError:
            self._say(f"{name} is between two processes and is not paused")
            return
        self.done[f"pause {name}"] += 1
        await asyncio.sleep(seconds)
        self._stack.resume(name)
        self._say(f"{name} wakes up")

    async def _inject(self, fault: pb.Fault) -> None:
        try:
            await self._control.InjectFault(
                pb.InjectFaultRequest(fault=fault), timeout=INJECT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise
            self._say(f"the simulator is away: no fault ({error.code().name})")
            return
        self.done[f"inject {_effect(fault)}"] += 1


def _effect(fault: pb.Fault) -> str:
    return fault.WhichOneof("effect") or ""


async def _in_thread(work: Callable[[], object]) -> None:
    """Run it in a thread, to its end: who is cancelled waits, so that nothing overtakes it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
