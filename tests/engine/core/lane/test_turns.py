"""Calls side by side, and one that is alone."""

from __future__ import annotations

import asyncio

import pytest

from evbus.engine.core.lane.worker import Turns
from tests.evbus.rig import turns


class Calls:
    def __init__(self) -> None:
        self.turns = Turns()
        self.running: list[str] = []
        self.seen: list[list[str]] = []
        self.going = asyncio.Event()

    async def call(self, name: str) -> str:
        self.running.append(name)
        self.seen.append(list(self.running))
        try:
            await self.going.wait()
        finally:
            self.running.remove(name)
        return name

    def begin(self, name: str) -> asyncio.Task[str]:
        return asyncio.ensure_future(self.turns.take(self.call, name, alone=name.isupper()))


async def test_calls_go_side_by_side_and_one_that_is_alone_waits_and_is_waited_for() -> None:
    calls = Calls()
    tasks = [calls.begin(name) for name in "abXcYd"]
    await turns(10)
    assert calls.running == ["a", "b"]
    calls.going.set()
    assert await asyncio.gather(*tasks) == list("abXcYd")
    assert all(len(seen) == 1 for seen in calls.seen if any(name.isupper() for name in seen))


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_call_leaves_its_turn_to_the_others(cancelled: int) -> None:
    calls = Calls()
    tasks = [calls.begin(name) for name in "aXb"]
    await turns(10)
    tasks[cancelled].cancel()
    await turns(10)
    calls.going.set()
    left = [task for index, task in enumerate(tasks) if index != cancelled]
    assert len(await asyncio.wait_for(asyncio.gather(*left), 5)) == 2
    assert not calls.running
