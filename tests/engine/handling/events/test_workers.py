"""Workers: so many at once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import decimal
import itertools
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from evbus.engine.handling import scheduler
from evbus.engine.handling.events.workers import Workers
from tests.evbus.rig import until
from tests.event.kit import WAIT, Gate, go

VAR: ContextVar[str] = ContextVar("var", default="")


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_at_most_so_many_are_done_at_once_and_begun_in_order(limit: int) -> None:
    gate = Gate()
    workers = Workers(gate.on, limit, "w")
    for number in range(10):
        workers.submit(number)
    first = min(limit, 10)
    assert await gate.entered(first) == list(range(first))
    assert (workers.active, len(workers), workers.idle) == (first, 10 - first, False)
    gate.release(*range(10))
    assert await workers.wait_idle(WAIT)
    assert (sorted(gate.done), gate.most) == (list(range(10)), first)
    assert (workers.active, len(workers), workers.idle) == (0, 0, True)


async def test_one_after_another_in_order_however_many_they_are() -> None:
    done = list[int]()

    async def handle(job: int) -> None:
        if job % 7 == 0:
            await asyncio.sleep(0)
        done.append(job)

    workers = Workers(handle, 1, "w")
    for number in range(3 * scheduler.SLICE):
        workers.submit(number)
    assert await workers.wait_idle(WAIT)
    assert done == list(range(3 * scheduler.SLICE))


async def test_a_job_is_begun_with_the_next_turn_even_if_the_one_before_has_just_ended() -> None:
    done = asyncio.Queue[int]()
    loop, turns = asyncio.get_running_loop(), list[float]()

    async def handle(job: int) -> None:
        done.put_nowait(job)

    workers = Workers(handle, 1, "w")
    workers.submit(0)
    assert await done.get() == 0
    # The task of its worker has ended, and those who are told of that have not been.
    for job in range(1, 5):
        workers.submit(job)
        loop.call_soon(turns.append, job)
        await asyncio.sleep(0)
        assert (done.get_nowait(), turns) == (job, list(range(1, job + 1)))
    assert (workers.active, workers.idle) == (0, True)


async def test_a_worker_that_is_cancelled_while_it_ends_leaves_its_place_to_another_after_a_pause() -> None:
    done, begun = list[int](), asyncio.get_running_loop().time()

    async def handle(job: int) -> None:
        done.append(job)
        if job == 1:
            running = asyncio.current_task()
            assert running is not None
            running.cancel()

    workers = Workers(handle, 1, "w")
    workers.submit(1)
    await asyncio.sleep(0)
    workers.submit(2)
    await until(lambda: done == [1, 2])
    assert asyncio.get_running_loop().time() - begun >= scheduler.PAUSE
    assert await workers.wait_idle(WAIT)
    assert (workers.active, len(workers)) == (0, 0)


async def test_others_get_their_turn_while_there_is_much_to_do() -> None:
    done = list[int]()

    async def handle(job: int) -> None:
        done.append(job)

    workers = Workers(handle, 1, "w")
    for number in range(10 * scheduler.SLICE):
        workers.submit(number)
    turns = [0]
    while len(done) < 10 * scheduler.SLICE:
        await asyncio.sleep(0)
        turns.append(len(done))
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert 0 < max(steps) <= scheduler.SLICE
    assert await workers.wait_idle(WAIT)


@pytest.mark.parametrize("before", [None, decimal.Context(), decimal.Context(prec=50)])
def test_a_worker_goes_on_after_calculating_with_decimals_and_nobody_sees_how_that_was_set(
    before: decimal.Context | None,
) -> None:
    async def main() -> None:
        if before is not None:
            decimal.setcontext(before)
        seen = list[tuple[int, bool]]()
        workers_seen = set[object]()

        async def handle(job: int) -> None:
            context = decimal.getcontext()
            seen.append((context.prec, context.flags[decimal.Inexact]))
            workers_seen.add(asyncio.current_task())
            if job == 3:
                VAR.set("another worker follows")
            context.prec = 5
            assert decimal.Decimal(1) / 3 == decimal.Decimal("0.33333")

        workers = Workers(handle, 1, "w")
        for number in range(6):
            workers.submit(number)
        assert await workers.wait_idle(WAIT)
        assert seen == [(before.prec if before else 28, False)] * 6
        assert len(workers_seen) == 2
        assert before is None or (before.prec, before.flags[decimal.Inexact]) == (seen[0][0], False)

    contextvars.Context().run(go, main)


async def test_what_a_job_sets_in_its_context_is_not_for_the_next() -> None:
    seen = list[str]()

    async def handle(job: str) -> None:
        seen.append(VAR.get())
        VAR.set(job)

    workers = Workers(handle, 1, "w")
    VAR.set("of who submits")
    for job in "abc":
        workers.submit(job)
    assert await workers.wait_idle(WAIT)
    assert seen == ["", "", ""]


async def test_a_job_that_leaves_its_place_lets_another_begin() -> None:
    gate = Gate()

    async def handle(job: int) -> None:
        if job == 0:
            workers.leave()
            try:
                await gate.on(job)
            finally:
                workers.take()
        else:
            await gate.on(job)

    workers = Workers(handle, 1, "w")
    for number in range(3):
        workers.submit(number)
    assert await gate.entered(2) == [0, 1]
    gate.release(0, 1, 2)
    assert await workers.wait_idle(WAIT)
    assert gate.most == 2


async def test_what_was_not_begun_can_be_taken_back() -> None:
    gate = Gate()
    workers = Workers(gate.on, 1, "w")
    for number in range(3):
        workers.submit(number)
    await gate.entered(1)
    assert workers.withdraw() == [1, 2]
    assert not await workers.wait_idle(1e-9)
    gate.release(0)
    assert await workers.wait_idle(WAIT)
    assert gate.done == [0]


async def test_what_is_being_done_can_be_cancelled() -> None:
    gate = Gate()
    workers = Workers(gate.on, 2, "w")
    workers.submit(1)
    workers.submit(2)
    await gate.entered(2)
    await workers.cancel(WAIT)
    assert (gate.inside, gate.done, workers.idle) == ([], [], True)


async def test_one_that_does_not_end_when_it_is_cancelled_is_left_alone() -> None:
    inside, end = asyncio.Event(), asyncio.Event()

    async def handle(job: int) -> None:
        inside.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    workers = Workers(handle, 1, "w")
    workers.submit(1)
    await inside.wait()
    await workers.cancel(1e-9)
    assert repr(workers) == "<Workers w active=1 ready=0>"
    end.set()
    assert await workers.wait_idle(WAIT)


async def test_a_worker_that_did_not_end_is_given_up_and_ends_by_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, done = asyncio.Event(), list[int]()

    async def handle(job: int) -> None:
        while job == 1 and not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        done.append(job)

    workers = Workers(handle, 1, "w")
    workers.submit(1)
    await asyncio.sleep(0)
    workers.begin()
    assert (workers.active, workers.idle) == (0, True)
    workers.submit(2)
    assert await workers.wait_idle(WAIT)
    assert done == [2]
    gate.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == [2, 1]
    assert (workers.active, workers.idle) == (0, True)
    assert caplog.records == []


async def test_a_worker_that_was_left_in_the_loop_of_another_thread_is_ended_there() -> None:
    begun, ended = threading.Event(), list[int]()

    async def handle(job: int) -> None:
        if job == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(threading.get_ident())

    workers = Workers(handle, 1, "w")

    async def elsewhere() -> None:
        loop: Any = asyncio.get_running_loop()
        soon = loop.call_soon_threadsafe

        def soon_and_before_others_look_again(call: Any) -> None:
            soon(call)
            thread.join(WAIT)

        loop.call_soon_threadsafe = soon_and_before_others_look_again
        workers.submit(1)
        await asyncio.sleep(0)
        (worker,) = asyncio.all_tasks() - {asyncio.current_task()}
        # Nothing else wakes this loop.
        await asyncio.wait({worker})

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),), daemon=True)
    thread.start()
    assert begun.wait(WAIT)
    workers.begin()
    workers.submit(2)
    assert await workers.wait_idle(WAIT)
    await asyncio.to_thread(thread.join, WAIT)
    assert ended == [thread.ident]


def test_the_workers_go_on_in_another_event_loop() -> None:
    done = list[int]()

    async def handle(job: int) -> None:
        done.append(job)

    workers = Workers(handle, 1, "w")

    async def main() -> None:
        workers.begin()
        workers.submit(len(done))
        assert await workers.wait_idle(WAIT)

    go(main)

    loop = asyncio.new_event_loop()

    def submit_and_end() -> None:
        workers.submit(7)
        loop.stop()

    loop.call_soon(submit_and_end)
    loop.run_forever()
    loop.close()
    assert workers.withdraw() == [7]
    go(main)
    assert done == [0, 1]
