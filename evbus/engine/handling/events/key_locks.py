"""Locks of keys: events with the same key are handled in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from evbus.engine.handling.events.workers import Workers
from evbus.errors import InvalidPayload

__all__ = ["KeyLocks"]

_Turn = asyncio.Future[None]


class KeyLocks:
    """The locks of keys, each held by one job after another. A key is forgotten when nobody holds it.

    :param workers: a job that waits for a turn leaves its place to another, and gets that of the job before.
    """

    def __init__(self, workers: Workers[Any]) -> None:
        self._workers = workers
        self._waiting: dict[Any, deque[_Turn]] = {}
        # What each turn is waited for with.
        self._jobs: dict[_Turn, Any] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for a turn."""
        return len(self._jobs)

    async def acquire(self, key: Any, job: Any = None) -> None:
        """Take the lock of a key, when it is its turn; :meth:`release` gives it up.

        :param job: what :meth:`withdraw` calls it; it waits no longer then, as if it had been cancelled.
        :raises InvalidPayload: it cannot be a key.
        """
        try:
            waiting = self._waiting.get(key)
        except TypeError:
            raise InvalidPayload(
                f"the key of a listener is something hashable, such as a string, and no {type(key).__name__}"
            ) from None
        if waiting is None:
            self._waiting[key] = deque()
            return
        turn: _Turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        self._jobs[turn] = job
        self._workers.leave()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release(key)
            else:
                self._workers.take()
            raise
        finally:
            self._jobs.pop(turn, None)

    def withdraw(self, which: Callable[[Any], bool]) -> list[Any]:
        """Return those that wait, and let them wait no longer."""
        found = [turn for turn, job in self._jobs.items() if not turn.done() and which(job)]
        for turn in found:
            turn.cancel()
        return [self._jobs.pop(turn) for turn in found]

    def release(self, key: Any) -> None:
        """Give the lock of a key to the next that waits for it."""
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                del self._jobs[turn]
                self._workers.take()
                turn.set_result(None)
                return
        del self._waiting[key]
