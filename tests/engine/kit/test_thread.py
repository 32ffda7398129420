"""The thread for blocking work: in order, never in the way, and gone when it is closed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from evbus.engine.kit.thread import WorkerThread


async def test_functions_run_in_order_in_one_thread_that_is_not_the_loops() -> None:
    worker = WorkerThread("t")
    seen = await asyncio.gather(*(worker.run(lambda n=n: (n, threading.get_ident())) for n in range(50)))
    await worker.close()
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


async def test_an_exception_reaches_the_caller_and_the_thread_goes_on() -> None:
    worker = WorkerThread("t")
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    result = await worker.run(lambda: 7)
    await worker.close()
    assert result == 7


async def test_the_loop_goes_on_while_a_function_hangs_and_what_waits_can_be_taken_back() -> None:
    worker, gate, started = WorkerThread("t"), threading.Event(), threading.Event()
    done: list[str] = []

    def hang() -> None:
        started.set()
        gate.wait()
        done.append("began")

    began = asyncio.create_task(worker.run(hang))
    waiting = asyncio.create_task(worker.run(done.append, "waited"))
    await asyncio.sleep(0)
    await asyncio.to_thread(started.wait)
    began.cancel()
    waiting.cancel()
    await asyncio.gather(began, waiting, return_exceptions=True)
    gate.set()
    await worker.close(lambda: done.append("last"))
    assert done == ["began", "last"]


async def test_close_is_cancellable_while_the_thread_hangs_and_last_still_runs() -> None:
    gate, last = threading.Event(), threading.Event()

    worker = WorkerThread("t")
    hanging = asyncio.create_task(worker.run(gate.wait))
    await asyncio.sleep(0)
    closing = asyncio.create_task(worker.close(last.set))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert not last.is_set()
    hanging.cancel()
    gate.set()
    assert last.wait(5)


async def test_a_closed_worker_says_so() -> None:
    worker = WorkerThread("t")
    await worker.close()
    await worker.close()
    assert repr(worker) == "<Worker t closed>"
    with pytest.raises(RuntimeError, match="takes no more work"):
        await worker.run(lambda: 1)


async def test_submitted_work_is_done_before_close_and_its_failure_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = WorkerThread("t")
    done: list[int] = []
    worker.submit(lambda: 1 // 0)
    worker.submit(lambda: done.append(1))
    await worker.close()
    with pytest.raises(RuntimeError, match="takes no more work"):
        worker.submit(lambda: None)
    assert done == [1]
    assert caplog.messages == ["work in the background failed"]


async def test_the_tick_comes_after_each_function_and_when_its_time_is_up() -> None:
    ticks = 0
    reached = threading.Event()

    def tick() -> float | None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            reached.set()
            return None
        return 0.0

    worker = WorkerThread("t", tick)
    await worker.run(lambda: None)
    assert await asyncio.to_thread(reached.wait, 5)
    await worker.close()
    assert ticks == 3
