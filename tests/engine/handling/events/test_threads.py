"""Threads of listeners that are plain functions."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections import deque
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.handling.events import threads as events_threads
from evbus.engine.handling.events.threads import Run, Threads, Unfinished
from evbus.errors import DispatchError
from tests.event.kit import WAIT, go
from tests.ingress.amqp_kit import eventually

VAR: ContextVar[str] = ContextVar("var", default="")


async def test_a_function_runs_in_a_thread_of_its_listener_and_its_result_comes_back() -> None:
    threads = Threads(1, "listener billing")
    name = await threads.run(lambda event: (threading.current_thread().name, event), 5)
    assert name == ("evbus listener billing_0", 5)
    await threads.close(WAIT)


async def test_what_it_raises_comes_out() -> None:
    threads = Threads(1, "listener billing")

    def fail(event: Any) -> None:
        raise KeyError(event)

    with pytest.raises(KeyError):
        await threads.run(fail, 5)
    await threads.close(WAIT)


async def test_stop_iteration_comes_out_as_another_error() -> None:
    threads = Threads(1, "listener billing")
    with pytest.raises(RuntimeError, match="the listener raised StopIteration"):
        await threads.run(next, iter([]))
    await threads.close(WAIT)


async def test_it_sees_the_context_and_what_it_sets_there_is_for_nobody_else() -> None:
    threads = Threads(1, "listener billing")
    VAR.set("outside")

    def swap(event: str) -> str:
        before = VAR.get()
        VAR.set(event)
        return before

    assert [await threads.run(swap, "a"), await threads.run(swap, "b")] == ["outside"] * 2
    assert VAR.get() == "outside"
    await threads.close(WAIT)


async def test_so_many_run_at_once() -> None:
    threads, barrier = Threads(8, "listener billing"), threading.Barrier(8)
    await asyncio.gather(*(threads.run(lambda event: barrier.wait(WAIT), None) for _ in range(8)))
    await threads.close(WAIT)


def test_without_a_call_there_is_no_thread_to_end() -> None:
    threads = Threads(3, "listener billing")
    go(lambda: threads.close(WAIT))
    assert repr(threads) == "<Threads listener billing limit=3>"


async def test_a_function_that_does_not_end_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    gate, inside = threading.Event(), threading.Event()

    def block(event: Any) -> None:
        inside.set()
        gate.wait(WAIT)

    threads = Threads(1, "listener billing")
    waiting = asyncio.ensure_future(threads.run(block, None))
    assert await asyncio.to_thread(inside.wait, WAIT)
    with caplog.at_level(logging.WARNING, "evbus.event"):
        await threads.close(1e-9)
    gate.set()
    await asyncio.wait_for(waiting, WAIT)
    assert caplog.messages == ["listener billing: a plain function still runs in its thread"]


async def test_threads_that_hang_are_bounded_and_those_that_come_back_make_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events_threads, "HANGING", 3)
    gates: list[threading.Event] = []

    def block(inside: threading.Event) -> None:
        gates.append(threading.Event())
        inside.set()
        gates[-1].wait(WAIT)

    async def give_up(threads: Threads) -> None:
        inside = threading.Event()
        waiting = asyncio.ensure_future(threads.run(block, inside))
        assert await asyncio.to_thread(inside.wait, WAIT)
        waiting.cancel()
        await asyncio.wait({waiting})

    with caplog.at_level(logging.ERROR, "evbus.event"):
        threads = Threads(1, "listener billing")
        for _ in range(3):
            await give_up(threads)
        assert threads.hanging == 3
        names = {each.name for each in threading.enumerate()}
        for _ in range(5):
            with pytest.raises(DispatchError, match="listener billing: 3 of its threads go on"):
                await threads.run(print, "never")
        assert {each.name for each in threading.enumerate()} == names
        gates[0].set()
        await eventually(lambda: threads.hanging == 2, "a thread has come back")
        assert await threads.run(len, "abc") == 3
        # An idle one is used, however many hang.
        await give_up(threads)
        for gate in gates:
            gate.set()
        await threads.close(WAIT)
        assert threads.hanging == 0
    assert len(caplog.messages) == 1
    assert "a plain function that waits needs a timeout of its own" in caplog.text


def test_a_process_with_hanging_threads_ends(tmp_path: Path) -> None:
    code = """
import asyncio, dataclasses, threading
from evbus.api import bus, event

@event()
@dataclasses.dataclass
class Paid:
    id: int

def hang(event: Paid) -> None:
    threading.Event().wait()

async def main():
    async with bus({"internal": {"default": {}}}, dead_store="dead.jsonl", drain_timeout=1) as events:
        events.hub.event.init.subscribe(Paid, hang, timeout=0.001, name="hang")
        for number in range(40):
            await events.hub.event.init.send(Paid(number))
        while events.snapshot()["listeners"]["hang-1"]["dead"] < 40:
            await asyncio.sleep(0.01)
        found = events.snapshot()["listeners"]["hang-1"]
        print(found["hanging"], sum("evbus listener" in one.name for one in threading.enumerate()))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "32 32\n"
    assert (
        "listener hang: 32 of its threads go on after their timeouts" in (tmp_path / "dead.jsonl").read_text()
    )


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run take as long as it likes."""
    monkeypatch.setattr(events_threads, "SHARE", WAIT)


async def done_of(works: range, call: Any, **options: Any) -> tuple[Any, list[int], list[int]]:
    """Return what a run ends with, what it has done, and what it has left."""
    threads, done = Threads(1, "listener billing"), list[int]()
    waiting = deque(works)
    result = await threads.do(Run(waiting.popleft(), waiting, call, done.extend, **options))
    await threads.close(WAIT)
    return result, done, list(waiting)


@pytest.mark.usefixtures("unhurried")
async def test_a_run_does_what_waits_in_order_and_wakes_the_loop_once() -> None:
    loop, wakes = asyncio.get_running_loop(), list[Any]()
    wake, calls, last = loop.call_soon_threadsafe, list[int](), threading.Event()

    def counted(call: Any, *args: Any, **kwargs: Any) -> Any:
        wakes.append(call)
        return wake(call, *args, **kwargs)

    def call(work: int) -> None:
        calls.append(work)
        if work == 49:
            last.set()

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
    running = asyncio.ensure_future(done_of(range(50), call))
    await asyncio.sleep(0)
    # The loop is held up until the last is begun.
    assert last.wait(WAIT)
    assert len(wakes) == 1
    assert await running == (None, list(range(50)), [])
    assert calls == list(range(50))


@pytest.mark.usefixtures("unhurried")
async def test_each_work_of_a_run_has_a_context_of_its_own() -> None:
    seen: list[str] = []

    def call(work: int) -> None:
        seen.append(VAR.get())
        VAR.set(str(work))

    VAR.set("outside")
    assert await done_of(range(3), call) == (None, [0, 1, 2], [])
    assert VAR.get() == "outside"
    assert seen == ["outside"] * 3


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("problem", "found"),
    [
        (KeyError("id"), "KeyError('id')"),
        (SystemExit(3), "SystemExit(3)"),
        (StopIteration(), "RuntimeError('the listener raised StopIteration')"),
        (KeyboardInterrupt(), "RuntimeError('the listener raised KeyboardInterrupt')"),
    ],
)
def test_a_failure_ends_a_run(problem: BaseException, found: str) -> None:
    def call(work: int) -> None:
        if work == 2:
            raise problem

    result, done, left = go(lambda: done_of(range(5), call))
    assert isinstance(result, Unfinished)
    assert (result.work, repr(result.problem)) == (2, found)
    assert (done, left) == ([0, 1], [3, 4])


@pytest.mark.usefixtures("unhurried")
async def test_something_to_await_ends_a_run() -> None:
    async def later() -> str:
        return "awaited"

    result, done, left = await done_of(range(3), lambda work: later() if work == 1 else work)
    assert (result.work, result.problem, await result.result) == (1, None, "awaited")
    assert (done, left) == ([0], [2])


def test_the_loop_has_its_turn_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_threads, "SHARE", 0)
    assert go(lambda: done_of(range(25), str)) == (None, [0], list(range(1, 25)))


@pytest.mark.usefixtures("unhurried")
async def test_a_run_that_is_left_begins_with_nothing_more() -> None:
    inside, gate, calls = threading.Event(), threading.Event(), list[int]()

    def call(work: int) -> None:
        calls.append(work)
        if work == 1:
            inside.set()
            gate.wait(WAIT)

    threads, done, waiting = Threads(1, "listener billing"), list[int](), deque([1, 2])
    run = Run(0, waiting, call, done.extend)
    running = asyncio.ensure_future(threads.do(run))
    await asyncio.sleep(0)
    assert inside.wait(WAIT)
    assert run.leave() == 1
    assert done == [0]
    gate.set()
    assert await running is None
    await threads.close(WAIT)
    assert (calls, done, list(waiting)) == ([0, 1], [0], [2])


@pytest.mark.usefixtures("unhurried")
def test_a_loop_that_was_stopped_begins_with_nothing_more() -> None:
    inside, gate, ended = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []

    def call(work: int) -> None:
        calls.append(work)
        inside.set()
        gate.wait(WAIT)

    class Told(Run[int]):
        def run(self) -> None:
            super().run()
            ended.set()

    threads, done, waiting = Threads(1, "listener billing"), list[int](), deque([1])

    async def begin() -> asyncio.Future[Any]:
        return asyncio.ensure_future(threads.do(Told(0, waiting, call, done.extend)))

    async def end(running: asyncio.Future[Any]) -> None:
        assert await running is None
        await threads.close(WAIT)

    loop = asyncio.new_event_loop()
    running = loop.run_until_complete(begin())
    loop.run_until_complete(asyncio.sleep(0))
    assert inside.wait(WAIT)
    gate.set()
    assert ended.wait(WAIT)
    assert calls == [0]
    loop.run_until_complete(end(running))
    loop.close()
    assert (done, list(waiting)) == ([0], [1])


@pytest.mark.usefixtures("unhurried")
async def test_a_work_that_takes_too_long_ends_its_run() -> None:
    gate = threading.Event()

    def call(work: int) -> None:
        if work == 2:
            gate.wait(WAIT)

    threads, done, waiting = Threads(1, "listener billing"), list[int](), deque([1, 2, 3])
    run = Run(0, waiting, call, done.extend, 0.5)
    with pytest.raises(asyncio.CancelledError):
        await threads.do(run)
    assert (run.expired, run.leave(), done, list(waiting)) == (True, 2, [0, 1], [3])
    assert threads.hanging == 1
    gate.set()
    await threads.close(WAIT)
    assert (threads.hanging, done) == (0, [0, 1])
