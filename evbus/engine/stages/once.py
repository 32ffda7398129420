"""Let something be done once for each key, as far back as a window reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol

__all__ = ["DUPLICATE", "Memory", "Once", "Window"]


class Window(Protocol):
    """The keys of what was done. A window that outlives the process would have these three methods."""

    def __contains__(self, key: Hashable) -> bool: ...

    def __len__(self) -> int: ...

    def add(self, key: Hashable) -> None:
        """Remember ``key``."""


class Memory:
    """A window in memory.

    :param seconds: how long a key is remembered.
    :param limit: most keys; beyond it the oldest is forgotten early, which ``forgotten`` counts.
    :param clock: tells the time, in seconds.
    """

    def __init__(self, seconds: float, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.limit = limit
        self.forgotten = 0
        self._clock = clock
        self._ends: dict[Hashable, float] = {}  # in the order in which they end

    def __repr__(self) -> str:
        return f"<Memory {len(self._ends)} of {self.limit} keys, {self.seconds:g} s>"

    def __contains__(self, key: Hashable) -> bool:
        end = self._ends.get(key)
        return end is not None and self._clock() < end

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, key: Hashable) -> None:
        """Remember ``key`` from now on, and forget what need not be remembered any more."""
        ends, now = self._ends, self._clock()
        ends.pop(key, None)
        while ends:
            oldest = next(iter(ends))
            if ends[oldest] > now:
                if len(ends) < self.limit:
                    break
                self.forgotten += 1
            del ends[oldest]
        ends[key] = now + self.seconds


class _Duplicate:
    def __repr__(self) -> str:
        return "DUPLICATE"


#: What :meth:`Once.run` returns for a key that was done before.
DUPLICATE = _Duplicate()


class Once:
    """Does something for each key until it has succeeded, and never at once for the same key.

    :ivar window: the keys for which it has succeeded.
    :ivar dropped: how often it was not done again.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.dropped = 0
        # With what somebody waits for, if somebody does.
        self._running: dict[Hashable, asyncio.Future[bool] | None] = {}

    def __repr__(self) -> str:
        return f"<Once running={len(self._running)} remembered={len(self.window)} dropped={self.dropped}>"

    async def run(self, key: Hashable, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await ``call()`` and return its result, or :data:`DUPLICATE` when that has succeeded before.

        While it is under way for the same key, this waits for the outcome: after a failure (an exception,
        a cancellation) it is done here.
        """
        while key in self._running:
            running = self._running[key]
            if running is None:
                running = self._running[key] = asyncio.get_running_loop().create_future()
            # Shielded: who is cancelled while waiting has no say in how it ends for the others.
            if await asyncio.shield(running):
                self.dropped += 1
                return DUPLICATE
        if key in self.window:
            self.dropped += 1
            return DUPLICATE
        self._running[key] = None
        succeeded = False
        try:
            result = await call()
            self.window.add(key)
            succeeded = True
            return result
        finally:
            awaited = self._running.pop(key)
            if (
                awaited is not None and not awaited.done()
            ):  # an event loop that ends cancels nothing here, but others may
                awaited.set_result(succeeded)
