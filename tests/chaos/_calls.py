"""Calls of services at a steady rate, and how each of them ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NamedTuple, Self

from evbus.engine.service.remote import within

__all__ = ["Calls", "Ended"]


class Ended(NamedTuple):
    """A call that has ended.

    :ivar begun: when, by ``time.monotonic()``.
    :ivar took: seconds.
    :ivar problem: what it raised, None when it returned its number.
    """

    number: int
    begun: float
    took: float
    problem: Exception | None


class Calls:
    """Calls, numbered from 0, that do not wait for one another.

    As a context manager it calls until the end of the block, and then waits for those under way.

    :param call: makes the one of a number and returns that number.
    :param rate: how many are begun in a second.
    :param seconds: the deadline of each.
    :ivar made: how many were begun.
    """

    def __init__(self, call: Callable[[int], Awaitable[int]], rate: float, seconds: float) -> None:
        self.made = 0
        self.ended: list[Ended] = []
        self._call = call
        self._rate = rate
        self._seconds = seconds
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.go(), name="calls")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._stopped = True
        await self._task

    async def go(self, count: int | None = None) -> None:
        """Make so many, or go on until the end of the block; return when all have ended."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while self.made != count and not self._stopped:
                group.create_task(self._make(self.made))
                self.made += 1
                await asyncio.sleep(max(0.0, begun + self.made / self._rate - time.monotonic()))

    async def _make(self, number: int) -> None:
        begun, problem = time.monotonic(), None
        try:
            with within(self._seconds):
                found = await self._call(number)
            if found != number:
                raise ValueError(f"the call {number} returned {found!r}")
        except Exception as exc:
            problem = exc
        self.ended.append(Ended(number, begun, time.monotonic() - begun, problem))

    def ended_below(self, number: int) -> int:
        """Return how many of those before this one have ended."""
        return sum(one.number < number for one in self.ended)

    def failed(self) -> list[Ended]:
        """Return those that did not return their number."""
        return [one for one in self.ended if one.problem is not None]

    def late(self) -> float:
        """Return the milliseconds by which the latest of them missed its deadline, 0 when none did."""
        return max([0.0, *(round((one.took - self._seconds) * 1000, 1) for one in self.ended)])
