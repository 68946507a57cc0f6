"""Natural batching: alone at once, together under load, and nobody is ever left waiting."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Hashable, Sequence

import pytest

from engine.batch import Batcher, Meeting
from engine.errors import Overloaded

PATIENCE_SECONDS = 10
NEVER_SECONDS = 3600


class Press:
    """A flush that a test holds open: each batch answers its items' squares once let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Semaphore(0)
        self.running = 0
        self.most_running = 0
        self._started = asyncio.Condition()

    async def __call__(self, items: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        async with self._started:
            self._started.notify_all()
        try:
            await self.gate.acquire()
        finally:
            self.running -= 1
        return [item * item for item in items]

    async def batch(self, number: int) -> list[int]:
        """The number-th batch, once it has been handed over."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._started:
            await self._started.wait_for(lambda: len(self.batches) >= number)
        return self.batches[number - 1]

    def let_go(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.gate.release()


async def queued(calls: int) -> None:
    """Let the calls just started run up to where they wait."""
    for _ in range(calls + 3):
        await asyncio.sleep(0)


async def answers(calls: Sequence[asyncio.Task[int]]) -> list[int]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*calls)


def submit(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def test_a_lone_item_goes_at_once() -> None:
    press = Press()
    batcher = Batcher(press, limit=10, in_flight=1)

    calls = submit(batcher, 3)

    assert await press.batch(1) == [3]
    press.let_go()
    assert await answers(calls) == [9]


async def test_what_arrives_while_a_call_is_in_flight_goes_into_the_next_together() -> None:
    press = Press()
    batcher = Batcher(press, limit=10, in_flight=1)
    first = submit(batcher, 1)
    await press.batch(1)

    rest = submit(batcher, 2, 3, 4)
    await queued(3)
    press.let_go(2)

    assert await answers(first + rest) == [1, 4, 9, 16]
    assert press.batches == [[1], [2, 3, 4]]


async def test_a_batch_holds_at_most_the_limit_and_keeps_the_order_of_arrival() -> None:
    press = Press()
    batcher = Batcher(press, limit=2, in_flight=1)
    first = submit(batcher, 1)
    await press.batch(1)

    rest = submit(batcher, 2, 3, 4, 5, 6)
    await queued(5)
    press.let_go(4)

    assert await answers(first + rest) == [1, 4, 9, 16, 25, 36]
    assert press.batches == [[1], [2, 3], [4, 5], [6]]


async def test_no_more_calls_run_at_once_than_allowed_though_more_items_wait() -> None:
    press = Press()
    batcher = Batcher(press, limit=1, in_flight=3)
    calls = submit(batcher, *range(8))
    await press.batch(3)
    await queued(8)

    assert press.running == 3, "five more wait, and no fourth call has begun"
    press.let_go(8)
    assert await answers(calls) == [n * n for n in range(8)]
    assert press.most_running == 3


async def test_with_patience_a_second_call_waits_for_the_first_to_be_slow() -> None:
    press = Press()
    batcher = Batcher(press, limit=10, in_flight=3, patience_seconds=3600)
    first = submit(batcher, 1)
    await press.batch(1)
    rest = submit(batcher, 2, 3)
    await queued(2)

    assert press.batches == [[1]]
    press.let_go(2)
    assert await answers(first + rest) == [1, 4, 9]
    assert press.batches == [[1], [2, 3]]


async def test_patience_ends_though_no_call_does_until_all_may_run() -> None:
    press = Press()
    batcher = Batcher(press, limit=2, in_flight=3, patience_seconds=0.001)
    calls = submit(batcher, *range(8))

    assert await press.batch(3) == [4, 5]
    await queued(8)
    assert press.running == 3
    press.let_go(4)
    assert await answers(calls) == [n * n for n in range(8)]


async def test_items_of_one_key_never_share_a_batch_and_keep_their_order() -> None:
    press = Press()

    def parity(item: int) -> Hashable:
        return item % 2

    batcher = Batcher(press, limit=10, in_flight=1, key=parity)
    first = submit(batcher, 0)
    await press.batch(1)

    rest = submit(batcher, 1, 3, 2, 5)
    await queued(4)
    press.let_go(4)

    assert await answers(first + rest) == [0, 1, 9, 4, 25]
    assert press.batches == [[0], [1, 2], [3], [5]]


async def test_an_item_that_fails_fails_alone() -> None:
    async def flush(items: Sequence[int]) -> list[int | BaseException]:
        bad = ValueError("one is bad")
        return [{1: bad}.get(item, item) for item in items]

    batcher: Batcher[int, int] = Batcher(flush, limit=10, in_flight=1)

    results = await asyncio.gather(*submit(batcher, 0, 1, 2), return_exceptions=True)

    assert [results[0], results[2]] == [0, 2]
    with pytest.raises(ValueError, match="one is bad"):
        await batcher.submit(1)


async def test_an_exception_out_of_the_call_is_raised_to_everybody_in_it_and_nobody_else() -> None:
    async def flush(items: Sequence[int]) -> list[int | BaseException]:
        [*_, last] = items
        return [last // item for item in items]

    batcher: Batcher[int, int] = Batcher(flush, limit=10, in_flight=1)

    broken = await asyncio.gather(*submit(batcher, 0, 1, 2), return_exceptions=True)

    assert [type(result) for result in broken] == [ZeroDivisionError] * 3
    assert await batcher.submit(7) == 1


@pytest.mark.parametrize("answers_given", [0, 1, 3])
async def test_a_call_with_the_wrong_number_of_answers_leaves_nobody_waiting(
    answers_given: int,
) -> None:
    async def flush(items: Sequence[int]) -> list[int | BaseException]:
        return [0] * answers_given

    batcher: Batcher[int, int] = Batcher(flush, limit=10, in_flight=1)

    async with asyncio.timeout(PATIENCE_SECONDS):
        results = await asyncio.gather(*submit(batcher, 1, 2), return_exceptions=True)

    assert [type(result) for result in results] == [RuntimeError] * 2


async def test_a_caller_who_gives_up_while_waiting_is_not_carried_out() -> None:
    press = Press()
    batcher = Batcher(press, limit=10, in_flight=1)
    first = submit(batcher, 1)
    await press.batch(1)
    gone, stays = submit(batcher, 2, 3)
    await queued(2)

    gone.cancel()
    await queued(1)
    press.let_go(2)

    assert await answers([*first, stays]) == [1, 9]
    assert press.batches == [[1], [3]]
    assert gone.cancelled()


async def test_a_caller_who_gives_up_while_in_flight_does_not_disturb_the_others() -> None:
    press = Press()
    batcher = Batcher(press, limit=10, in_flight=1)
    gone, stays = submit(batcher, 2, 3)
    assert await press.batch(1) == [2, 3]

    gone.cancel()
    await queued(1)
    press.let_go()

    assert await answers([stays]) == [9]


async def test_one_item_too_many_is_refused_at_once_and_the_others_are_served() -> None:
    press = Press()
    batcher = Batcher(press, limit=10, in_flight=1, waiting=2)
    first = submit(batcher, 1)
    await press.batch(1)
    waiting = submit(batcher, 2, 3)
    await queued(2)

    with pytest.raises(Overloaded):
        await batcher.submit(4)

    press.let_go(2)
    assert await answers(first + waiting) == [1, 4, 9]


async def test_closing_waits_for_every_answer() -> None:
    press = Press()
    batcher = Batcher(press, limit=1, in_flight=1)
    calls = submit(batcher, 1, 2, 3)
    await press.batch(1)

    closing = asyncio.create_task(batcher.close())
    await queued(3)
    assert not closing.done()
    press.let_go(3)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await closing

    assert [call.result() for call in calls] == [1, 4, 9]


@pytest.mark.parametrize("seed", range(5))
async def test_whoever_does_not_give_up_gets_an_answer_under_any_disturbance(seed: int) -> None:
    chance = random.Random(seed)

    async def flush(items: Sequence[int]) -> list[int | BaseException]:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            raise RuntimeError("the whole call")
        return [ValueError(str(item)) if chance.random() < 0.5 else item for item in items]

    batcher: Batcher[int, int] = Batcher(flush, limit=7, in_flight=3, key=lambda item: item % 11)
    calls: list[asyncio.Task[int]] = []
    given_up: set[asyncio.Task[int]] = set()
    for item in range(2000):
        calls += submit(batcher, item)
        for call in chance.sample(calls[-5:], chance.choice([0, 0, 0, 1, 2]) if item > 5 else 0):
            given_up.add(call)
            call.cancel()
        for _ in range(chance.choice([0, 0, 0, 1, 5])):
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE_SECONDS):
        results = await asyncio.gather(*calls, return_exceptions=True)

    kinds = Counter(type(result) for result in results)
    assert set(kinds) == {int, ValueError, RuntimeError, asyncio.CancelledError}
    answered = {item: r for item, r in enumerate(results) if isinstance(r, int)}
    assert answered == {item: item for item in answered}
    cancelled = {
        c for c, r in zip(calls, results, strict=True) if isinstance(r, asyncio.CancelledError)
    }
    assert cancelled <= given_up


@pytest.mark.parametrize(
    ("came", "parts"), [(4, [4]), (5, [5]), (6, [3, 3]), (7, [4, 3]), (13, [5, 4, 4])]
)
async def test_much_that_came_together_goes_in_equal_parts_and_a_little_more_stays_whole(
    came: int, parts: list[int]
) -> None:
    press = Press()
    batcher = Batcher(press, limit=100, in_flight=1, patience_seconds=NEVER_SECONDS)
    batcher.undivided = 4

    calls = submit(batcher, *range(came))
    await queued(came)
    press.let_go(len(parts))

    assert await answers(calls) == [item * item for item in range(came)]
    assert [len(batch) for batch in press.batches] == parts


# ── meetings ──────────────────────────────────────────────────────────────────────────────────


async def test_who_is_back_goes_on_with_those_that_were_still_away() -> None:
    meeting, gone_on = Meeting(NEVER_SECONDS), []
    ways = {name: asyncio.Event() for name in "abc"}

    async def go(name: str) -> None:
        async with meeting.away():
            await ways[name].wait()
            if name == "b":
                raise ValueError(name)
        gone_on.append(name)

    tasks = [asyncio.create_task(go(name)) for name in ways]
    await queued(3)
    ways["a"].set()
    await queued(1)
    assert gone_on == []
    ways["b"].set()
    await queued(1)
    assert gone_on == []
    ways["c"].set()

    async with asyncio.timeout(PATIENCE_SECONDS):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(gone_on) == ["a", "c"]
    assert [type(result) for result in results] == [type(None), ValueError, type(None)]


async def test_nobody_waits_for_one_that_stays_away() -> None:
    meeting = Meeting(patience_seconds=0.001)
    never = asyncio.Event()

    async def go(way: asyncio.Event) -> None:
        async with meeting.away():
            await way.wait()

    lost = asyncio.create_task(go(never))
    await queued(1)
    at_once = asyncio.Event()
    at_once.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(go(at_once), go(at_once))
        await go(at_once)
        never.set()
        await lost
