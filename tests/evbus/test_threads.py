"""Events put by threads, log handlers, signal handlers and finalizers, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.settings import DeliverySettings
from evbus.errors import BusStopped
from tests.evbus.rig import SOON, Rig, Target, numbers, turns, until, within


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_puts_before_the_loop_runs_and_on_a_second_loop_are_delivered(rig: Rig) -> None:
    target = Target()

    async def main() -> None:
        rig.lanes.clear()
        rig.add(target)
        async with rig.running():
            await until(rig.queue.empty)

    for number in range(3):
        rig.put_nowait(number)
        asyncio.run(main())
        rig.broker.refusal = None  # an application that starts again and again
    assert target.got == numbers(3)


def test_events_of_other_threads_keep_each_threads_order(rig: Rig) -> None:
    threads, each = 8, 5_000
    target, now = Target(batching=True), []

    def producer(thread: int) -> None:
        for number in range(each):
            rig.put_nowait(b"%d %d" % (thread, number), "p" if number % 2 else "q")

    async def main() -> None:
        rig.add(target)
        rig.add(Target(), publish_nowait=lambda ctx, events: now.extend(event.body for event in events))
        async with rig.running():
            started = [threading.Thread(target=producer, args=(number,)) for number in range(threads)]
            for thread in started:
                thread.start()
            await until(lambda: len(target.got) == threads * each or not rig.check())
            for thread in started:
                thread.join()

    rig.queue.bound(0, 0)
    rig.broker.max_body = 1000
    asyncio.run(main())
    for got in (target.got, now):
        found: dict[bytes, list[int]] = {}
        for body in got:
            thread, number = body.split()
            found.setdefault(thread, []).append(int(number))
        assert [found[b"%d" % thread] for thread in range(threads)] == [list(range(each))] * threads


@pytest.mark.parametrize("started", [False, True])
async def test_what_a_log_handler_puts_while_events_are_moved_comes_after_them(
    rig: Rig, started: bool
) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "no profile matches" in record.getMessage():
                rig.put_nowait("logged", "logs")

    def put() -> None:
        rig.put_nowait("handed over at once", "logs")
        rig.put_nowait("x", "unknown")
        rig.put_nowait("first", "logs")

    target = Target()
    rig.add(target, "logs")
    handler = Handler()
    logging.getLogger("evbus").addHandler(handler)
    if not started:
        put()
    try:
        async with rig.running():
            await turns(3)
            if started:
                put()
            await until(lambda: len(target.got) == 3)
    finally:
        logging.getLogger("evbus").removeHandler(handler)
    # A bus that runs looks for the lanes of an event, and tells that there are none, when it is put.
    last = [b'"logged"', b'"first"'] if started else [b'"first"', b'"logged"']
    assert target.got[1:] == last
    rig.check()


async def test_a_matcher_or_a_log_handler_may_wait_for_a_thread_that_needs_the_queue(rig: Rig) -> None:
    """A thread that logs holds its handler's lock while it puts: the loop may log, but not hold the queue."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "no profile matches" in record.getMessage():
                thread = threading.Thread(target=rig.check)  # takes the queue's lock
                thread.start()
                thread.join(20)
                free.append(not thread.is_alive())

    free: list[bool] = []
    handler = Handler()
    logging.getLogger("evbus").addHandler(handler)

    try:
        async with rig.running():
            await rig.put(1, "unknown")
    finally:
        logging.getLogger("evbus").removeHandler(handler)
    assert free == [True]


async def test_a_signal_handler_that_puts_while_the_loop_sleeps_is_heard(
    rig: Rig, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("uvloop"):
        pytest.skip("it takes the place of asyncio's selector, and uvloop has none")

    before = signal.signal(signal.SIGUSR1, lambda *_: rig.put_nowait("from a signal handler"))
    try:
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        plain, got, heard = selector.select, asyncio.Event(), []

        def select(timeout: float | None = None) -> Any:
            if timeout != 0:
                # Nothing is left to do, and the loop is about to wait.
                selector.select = plain
                signal.raise_signal(signal.SIGUSR1)
                events = plain(0)
                heard.append(bool(events))
                return events
            return plain(timeout)

        async def publish(*_args: Any, **_named: Any) -> None:
            got.set()

        target = Target()
        target.publish = publish  # type: ignore[method-assign]
        rig.add(target)
        async with rig.running():
            selector.select = select
            await within(got.wait())
        assert heard == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


class Talkative:
    """Puts an event when it is collected."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.cycle = self

    def __del__(self) -> None:
        with contextlib.suppress(BusStopped):
            self.rig.put_nowait("collected")


@pytest.mark.parametrize("batching", [True, False])
async def test_finalizers_that_put_anywhere_lose_nothing(rig: Rig, batching: bool) -> None:

    target = Target(batching=batching)
    rig.add(target, delivery=DeliverySettings(retry=SOON, buffer=20))
    threshold = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1)
    try:
        async with rig.running():
            for number in range(300):
                Talkative(rig)
                await rig.put(number)
                if number % 50 == 0:
                    rig.check()
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
    assert [body for body in target.got if body != b'"collected"'] == numbers(300)
    found = rig.check()["bus"]
    assert len(target.got) == found["routed"] == found["accepted"] - found["queued"]


async def test_a_put_while_a_lane_moves_its_events_is_not_lost(rig: Rig) -> None:
    """A signal handler runs between two steps of a change that the lock guards."""

    target = Target(batching=True)
    lane = rig.add(target)
    nested: list[int] = []

    class Counters(type(lane.counters)):  # type: ignore[misc]
        """Puts an event in the middle of taking a batch."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "in_flight" and value and len(nested) < 5:
                nested.append(1)
                rig.put_nowait(f"nested {len(nested)}")

    lane.buffer.counters = Counters()
    async with rig.running():
        for number in range(5):
            await rig.put(number)
            await turns(3)
    assert len(target.got) == 10
    rig.check()
