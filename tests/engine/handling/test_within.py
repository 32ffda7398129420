"""Limits: what is not done in time is cancelled, and says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.within import Limit, within
from evbus.errors import DispatchTimeout
from tests.dispatch.rig import caught, turns, until


@pytest.mark.parametrize("seconds", [0, -1, True, "1", float("nan"), [1]])
async def test_what_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(
        ValueError, match="^timeout is a number of seconds above 0, or None for no limit, and not "
    ):
        Limit.of(seconds)


async def test_what_is_done_in_time_returns_or_raises_as_it_would() -> None:

    async def value() -> int:
        await asyncio.sleep(0)
        return 5

    async def problem(kind: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise kind("its own")

    limit = Limit.of(60)
    assert 59 < limit.left() <= 60
    assert await within(value(), limit, "Order") == 5
    assert await within(value(), Limit.of(float("inf")), "Order") == 5
    for kind in (KeyError, TimeoutError, asyncio.CancelledError):
        found = await caught(within(problem(kind), limit, "Order"))
        assert type(found) is kind


@pytest.mark.parametrize("own", [None, KeyError, TimeoutError])
async def test_what_is_not_done_in_time_is_cancelled(own: type[Exception] | None) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append(True)
            if own is not None:
                raise own("while it was cancelled") from None
            raise

    found = await caught(within(work(), Limit.of(0.001), "Order"))
    assert isinstance(found, DispatchTimeout)
    assert isinstance(found, TimeoutError)
    assert (found.message, found.seconds) == ("Order", 0.001)
    assert str(found) == "Order was not handled within 0.001 s"
    assert own is None or isinstance(found.__cause__, own)
    assert ended == [True]


async def test_what_is_done_all_the_same_returns() -> None:

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        return "never"

    assert await within(work(), Limit.of(0.001), "Order") == "done"


@pytest.mark.parametrize("own", [False, True])
async def test_who_waits_is_cancelled_and_the_rest_ends_first(own: bool) -> None:
    state = []

    async def work() -> None:
        state.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            state.append("ended")
            if own:
                raise KeyError("an error of its own")

    task = asyncio.ensure_future(within(work(), Limit.of(60), "Order"))
    await until(lambda: state)
    await turns(2)
    task.cancel()
    found = await caught(task)
    assert state == ["begun", "ended"]
    assert isinstance(found, (asyncio.CancelledError, KeyError))
