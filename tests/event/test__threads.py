"""Threads of listeners that are plain functions."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from evbus.event._threads import Threads
from tests.event.kit import WAIT, go

VAR: ContextVar[str] = ContextVar("var", default="")


def test_a_function_runs_in_a_thread_of_its_listener_and_its_result_comes_back() -> None:
    async def main() -> None:
        threads = Threads(1, "billing")
        name = await threads.run(lambda event: (threading.current_thread().name, event), 5)
        assert name == ("evbus listener billing_0", 5)
        await threads.close(WAIT)

    go(main)


def test_what_it_raises_comes_out() -> None:
    async def main() -> None:
        threads = Threads(1, "billing")

        def fail(event: Any) -> None:
            raise KeyError(event)

        with pytest.raises(KeyError):
            await threads.run(fail, 5)
        await threads.close(WAIT)

    go(main)


def test_stop_iteration_comes_out_as_another_error() -> None:
    async def main() -> None:
        threads = Threads(1, "billing")
        with pytest.raises(RuntimeError, match="the listener raised StopIteration"):
            await threads.run(next, iter([]))
        await threads.close(WAIT)

    go(main)


def test_it_sees_the_context_and_what_it_sets_there_is_for_nobody_else() -> None:
    async def main() -> None:
        threads = Threads(1, "billing")
        VAR.set("outside")

        def swap(event: str) -> str:
            before = VAR.get()
            VAR.set(event)
            return before

        assert [await threads.run(swap, "a"), await threads.run(swap, "b")] == ["outside"] * 2
        assert VAR.get() == "outside"
        await threads.close(WAIT)

    go(main)


def test_so_many_run_at_once() -> None:
    async def main() -> None:
        threads, barrier = Threads(8, "billing"), threading.Barrier(8)
        await asyncio.gather(*(threads.run(lambda event: barrier.wait(WAIT), None) for _ in range(8)))
        await threads.close(WAIT)

    go(main)


def test_without_a_call_there_is_no_thread_to_end() -> None:
    threads = Threads(3, "billing")
    go(lambda: threads.close(WAIT))
    assert repr(threads) == "<Threads billing limit=3>"


def test_a_function_that_does_not_end_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    gate, inside = threading.Event(), threading.Event()

    def block(event: Any) -> None:
        inside.set()
        gate.wait(WAIT)

    async def main() -> None:
        threads = Threads(1, "billing")
        waiting = asyncio.ensure_future(threads.run(block, None))
        assert await asyncio.to_thread(inside.wait, WAIT)
        with caplog.at_level(logging.WARNING, "evbus.event"):
            await threads.close(1e-9)
        gate.set()
        await asyncio.wait_for(waiting, WAIT)

    go(main)
    assert caplog.messages == ["listener billing: a plain function still runs in its thread"]
