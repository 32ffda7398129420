"""Waiting in one thread for what is awaited in the loop of another."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from evbus.engine.kit.loop_thread import wait_in

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def test_a_thread_gets_the_result_or_what_was_raised() -> None:
    loop = asyncio.get_running_loop()

    async def work() -> str:
        assert asyncio.get_running_loop() is loop
        if WHO.get() == "bad":
            raise LookupError("x")
        return WHO.get()

    def within(who: str) -> str:
        WHO.set(who)
        return wait_in(loop, work)

    assert await asyncio.to_thread(within, "joe") == "joe"
    with pytest.raises(LookupError, match="x"):
        await asyncio.to_thread(within, "bad")
    assert WHO.get() == "nobody"


async def test_what_is_cancelled_in_the_loop_ends_the_wait() -> None:
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None] | None]()

    async def work() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    waiting = asyncio.ensure_future(asyncio.to_thread(wait_in, loop, work))
    while not tasks:  # noqa: ASYNC110 - another thread is to get there
        await asyncio.sleep(0.001)
    assert tasks[0] is not None
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_loop_that_has_ended_is_not_waited_for() -> None:
    loop = asyncio.new_event_loop()
    loop.close()

    async def work() -> None: ...

    with pytest.raises(asyncio.CancelledError, match="the loop of the bus has ended"):
        wait_in(loop, work)
