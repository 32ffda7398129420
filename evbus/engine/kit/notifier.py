"""Waiting for something to happen, in any loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["Notifier", "resolve"]

_Found = TypeVar("_Found")


class Notifier:
    """Wakes those who wait, each in a loop of its own; may be called from any thread.

    :ivar count: how often it was called.
    """

    def __init__(self) -> None:
        self.count = 0
        # Re-entrant: a finalizer or a signal handler may notify while this thread holds it.
        self._lock = threading.RLock()
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def notify(self) -> None:
        """Wake all who wait, so that they look again."""
        with self._lock:
            self.count += 1
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            # The loop of somebody who waits no longer may have ended.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(resolve, future)

    async def until(self, look: Callable[[], _Found | None], seconds: float | None = None) -> _Found | None:
        """Return the result of ``look`` as soon as that is not None; None after ``seconds``, if given."""
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        while True:
            future: asyncio.Future[None] = loop.create_future()
            with self._lock:
                self._waiting.append(future)
            # Looked at when whatever happens from now on wakes this.
            try:
                found = look()
                left = None if deadline is None else deadline - loop.time()
                if found is not None or (left is not None and left <= 0):
                    return found
                await asyncio.wait({future}, timeout=left)
            finally:
                future.cancel()
                with self._lock, suppress(ValueError):
                    self._waiting.remove(future)


def resolve(future: asyncio.Future[None]) -> None:
    """Set the result of a future that has none yet."""
    if not future.done():
        future.set_result(None)
