"""The pool of handlers: the bound, the order, the backlog, and workers that others cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from evbus.engine.handling import scheduler
from evbus.engine.handling.pool import SLICE, WorkerPool
from evbus.errors import DispatcherStopped
from tests.dispatch.rig import caught, turns, until, within

WHERE: ContextVar[str] = ContextVar("where", default="nowhere")


class Job:
    """Handlers that are all the same function; it returns what to await, or None."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, None] | None], count: int = 1) -> None:
        self.left = count
        self.dropped = 0
        self._function = function

    def begin(self, most: int) -> Coroutine[Any, Any, None] | None:
        for _ in range(min(most, self.left)):
            self.left -= 1
            rest = self._function()
            if rest is not None:
                return rest
        return None

    def drop(self) -> None:
        self.dropped, self.left = self.left, 0


def free() -> None:
    pass


def pool_of(limit: int = 0, backlog: int = 0, on_free: Callable[[], None] = free) -> WorkerPool:
    made = WorkerPool(on_free)
    made.bound(limit, backlog)
    return made


async def ended(made: WorkerPool) -> None:
    await until(lambda: not made.active and not len(made) and not made._workers)


# The bound


@pytest.mark.parametrize(("limit", "backlog", "name"), [(-1, 0, "engine_workers"), (1, -5, "backlog")])
def test_a_bound_below_none_is_refused(limit: int, backlog: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is a whole number, or 0 for no bound, and not -"):
        WorkerPool(free).bound(limit, backlog)
    for value in (1.5, True, "many"):
        with pytest.raises(ValueError, match="engine_workers is a whole number"):
            WorkerPool(free).bound(value, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_no_more_run_than_there_are_slots(limit: int) -> None:
    made = pool_of(limit)
    now = most = done = 0

    async def work() -> None:
        nonlocal now, most, done
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        done += 1

    async def caller() -> None:
        await made.enter()
        try:
            await work()
        finally:
            made.leave()

    callers = []
    for number in range(60):
        if number % 3:
            made.submit(Job(work, 2))
        else:
            callers.append(asyncio.ensure_future(caller()))
    await within(asyncio.gather(*callers))
    await ended(made)
    assert (most, done) == (limit, 20 + 40 * 2)


async def test_callers_and_jobs_go_in_the_order_in_which_they_came() -> None:
    made, order = pool_of(1), []
    assert made.try_enter()

    async def caller(name: str) -> None:
        await made.enter()
        order.append(name)
        made.leave()

    tasks = []
    for name in "abcdef":
        if name in "bce":
            made.submit(Job(lambda name=name: order.append(name)))  # type: ignore[misc]
        else:
            tasks.append(asyncio.ensure_future(caller(name)))
            await turns(1)
    assert not made.try_enter()
    made.leave()
    await within(asyncio.gather(*tasks))
    await ended(made)
    assert order == list("abcdef")


async def test_nobody_overtakes_who_waits() -> None:
    made = pool_of(2)
    assert made.try_enter()
    made.submit(Job(lambda: None))
    assert not made.try_enter()
    made.leave()
    await ended(made)
    assert made.try_enter()
    made.leave()


async def test_the_handlers_of_one_job_run_at_once() -> None:
    made, open_, count = pool_of(10), asyncio.Event(), 0

    async def work() -> None:
        nonlocal count
        count += 1
        await open_.wait()

    made.submit(Job(work, 30))
    await until(lambda: count == 10)
    await turns(20)
    assert (count, made.active) == (10, 10)
    open_.set()
    await ended(made)
    assert count == 30


# Callers that give up


async def test_a_caller_that_is_cancelled_while_it_waits_takes_no_slot() -> None:
    freed: list[int] = []
    made = pool_of(1, on_free=lambda: freed.append(len(made)))
    assert made.try_enter()
    waiting = asyncio.ensure_future(made.enter())
    await turns(2)
    waiting.cancel()
    assert isinstance(await caught(waiting), asyncio.CancelledError)
    made.leave()
    await ended(made)
    # Whoever waits for the last to leave is told, though the last in the queue takes no slot.
    assert freed[-1:] == [0]
    assert made.try_enter()


async def test_a_caller_that_is_cancelled_with_its_turn_passes_the_slot_on() -> None:
    made = pool_of(1)
    assert made.try_enter()
    first, second = (asyncio.ensure_future(made.enter()) for _ in range(2))
    await turns(2)
    made.leave()
    await turns(1)
    assert made.active == 1
    first.cancel()
    assert isinstance(await caught(first), asyncio.CancelledError)
    await within(second)
    assert made.active == 1
    made.leave()
    await ended(made)


# The backlog


async def test_senders_are_let_in_when_half_of_the_backlog_is_left() -> None:
    made, gate = pool_of(1, 4), asyncio.Event()
    for _ in range(5):
        made.submit(Job(gate.wait))  # type: ignore[arg-type]
    await until(lambda: len(made) == 4)
    assert made.full()
    room = asyncio.ensure_future(made.room())
    await turns(5)
    assert not room.done()
    gate.set()
    await within(room)
    await ended(made)
    assert not made.full()


async def test_senders_are_let_in_when_only_callers_were_ahead_of_them() -> None:
    made = pool_of(1, 2)
    assert made.try_enter()
    callers = [asyncio.ensure_future(made.enter()) for _ in range(2)]
    await turns(2)
    room = asyncio.ensure_future(made.room())
    for caller in callers:
        made.leave()
        await within(caller)
    await within(room)
    made.leave()


async def test_what_waits_for_its_key_is_part_of_the_backlog() -> None:
    made = pool_of(1, 4)
    made.behind = 4
    assert made.full()
    room = asyncio.ensure_future(made.room())
    made.submit(Job(lambda: None))
    await ended(made)
    assert not room.done()
    made.behind = 1
    made.submit(Job(lambda: None))
    await within(room)


# Turns


@pytest.mark.parametrize("busy", [0, 60])
async def test_the_loop_has_its_turn_after_some_hundred_handlers(busy: int) -> None:
    made, gate = pool_of(0), asyncio.Event()
    called = most = 0

    async def wait() -> None:
        await gate.wait()

    def count() -> None:
        nonlocal called
        called += 1

    for _ in range(busy):
        made.submit(Job(wait))
    await until(lambda: made._busy == busy)
    for _ in range(5_000):
        made.submit(Job(count))
    made.submit(Job(count, 5_000))
    gate.set()
    while called < 10_000:
        before = called
        await asyncio.sleep(0)
        most = max(most, called - before)
    assert 0 < most <= 2 * SLICE
    await ended(made)


async def test_a_worker_knows_nothing_of_who_woke_it() -> None:
    made, seen = pool_of(1), []
    WHERE.set("sender")
    made.submit(Job(lambda: seen.append(WHERE.get())))
    await ended(made)
    assert seen == ["nowhere"]


# Workers that end before their time


async def test_another_worker_takes_the_place_of_one_that_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "PAUSE", 0)

    made, gate, count = pool_of(1), asyncio.Event(), 0

    async def wait() -> None:
        nonlocal count
        count += 1
        await gate.wait()

    for _ in range(3):
        made.submit(Job(wait))
    await until(lambda: count == 1)
    (worker,) = made._workers
    worker.cancel()
    await until(lambda: count == 2)
    assert made.active == 1
    gate.set()
    await ended(made)
    # Before its first step, nothing of its coroutine runs.
    made.submit(Job(wait))
    await turns(1)
    (worker,) = made._workers
    worker.cancel()
    await ended(made)
    assert count == 4


async def test_a_worker_ends_when_it_is_cancelled_though_its_job_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "PAUSE", 0)

    made, gate, seen = pool_of(1), asyncio.Event(), []

    async def stubborn() -> None:
        seen.append(asyncio.current_task())
        try:
            await gate.wait()
        except asyncio.CancelledError:
            seen.append("cancelled")

    made.submit(Job(stubborn))
    made.submit(Job(stubborn))
    await until(lambda: seen)
    seen[0].cancel()
    await until(lambda: len(seen) == 3)
    assert seen[1] == "cancelled"
    assert seen[2] is not seen[0]
    gate.set()
    await ended(made)


def test_the_end_of_the_loop_ends_workers_and_begins_nothing() -> None:
    begun = 0

    async def main() -> None:
        made = pool_of(1)

        async def forever() -> None:
            nonlocal begun
            begun += 1
            await asyncio.Event().wait()

        for _ in range(3):
            made.submit(Job(forever))
        await until(lambda: begun)

    asyncio.run(main())
    assert begun == 1


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("later", [False, True])
def test_an_interrupt_ends_the_loop_and_nothing_else_is_said(
    problem: type[BaseException], later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        made = pool_of(1)

        async def interrupt() -> None:
            await asyncio.sleep(0)
            raise problem

        def now() -> None:
            raise problem

        made.submit(Job(interrupt if later else now))
        await asyncio.Event().wait()

    with caplog.at_level(logging.DEBUG), pytest.raises(problem):
        asyncio.run(main())
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_an_error_of_a_job_itself_reaches_the_exception_handler_of_the_loop() -> None:
    made, told = pool_of(1), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))

    def bug() -> None:
        raise RuntimeError("a bug")

    made.submit(Job(bug))
    await until(lambda: told)
    assert (told[0]["message"], str(told[0]["exception"])) == ("a worker of the dispatcher failed", "a bug")
    made.drop(DispatcherStopped)
    await ended(made)


# The end


async def test_what_is_dropped_is_told_each_with_an_error_of_its_own() -> None:
    made = pool_of(1, 1)
    assert made.try_enter()
    callers = [asyncio.ensure_future(made.enter()) for _ in range(3)]
    job = Job(lambda: None, 4)
    made.submit(job)
    room = asyncio.ensure_future(made.room())
    await turns(2)
    callers[0].cancel()
    made.drop(DispatcherStopped)
    problems = [await caught(caller) for caller in callers]
    assert [type(problem) for problem in problems] == [
        asyncio.CancelledError,
        DispatcherStopped,
        DispatcherStopped,
    ]
    assert problems[1] is not problems[2]
    assert job.dropped == 4
    await within(room)
    made.leave()
    assert (made.active, len(made)) == (0, 0)


def test_slots_work_in_another_loop_after_the_first_has_ended_too_early() -> None:
    made, seen = pool_of(1), []

    async def early() -> None:
        made.submit(Job(lambda: seen.append("early")))

    async def main() -> None:
        made.drop(DispatcherStopped)
        made.submit(Job(lambda: seen.append("late")))
        await ended(made)

    asyncio.run(early())
    asyncio.run(main())
    assert seen == ["late"]


async def test_workers_are_cancelled_but_for_those_that_are_spared() -> None:
    made, gate, seen = pool_of(0), asyncio.Event(), []

    async def wait() -> None:
        seen.append(asyncio.current_task())
        await gate.wait()

    made.submit(Job(wait))
    made.submit(Job(wait))
    await until(lambda: len(seen) == 2)
    await within(made.cancel(10, {seen[0]}))
    assert [task.done() for task in seen] == [False, True]
    assert repr(made) == "<WorkerPool the dispatcher active=1 ready=0>"
    gate.set()
    await ended(made)
    await made.cancel(10)
