"""Open something once for all who need it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from evbus.errors import ConnectionLost, DeliveryError, Unavailable

__all__ = ["SingleFlight", "anew"]

_Thing = TypeVar("_Thing")


def anew(problem: DeliveryError, text: str = "") -> DeliveryError:
    """Return an error of the same kind, as one may be that of many, and each is raised once.

    :param text: says it in other words.
    """
    text = text or str(problem)
    if isinstance(problem, ConnectionLost):
        return ConnectionLost(text, alone=problem.alone)
    return type(problem)(text)


class SingleFlight(Generic[_Thing]):
    """One attempt to open something at a time; all who need it meanwhile wait for that one.

    It is made in a task of its own: nobody's deadline or cancellation disturbs the others who wait.

    :param attempt: makes an attempt.
    :param gone: makes the error of who asks after :meth:`close`.
    :ivar closed: it was closed.
    """

    def __init__(
        self, attempt: Callable[[], Coroutine[Any, Any, _Thing]], gone: Callable[[], Exception]
    ) -> None:
        self._attempt = attempt
        self._gone = gone
        self._task: asyncio.Task[_Thing] | None = None
        self.closed = False

    async def open(self, seconds: float | None = None) -> _Thing:
        """Return what the attempt brings that is under way, or begins now.

        :raises TimeoutError: it takes longer than ``seconds``; it goes on.
        :raises Exception: what the attempt raises; of an Unavailable each who waits gets one of its own.
        """
        if self.closed:
            raise self._gone()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._attempt())
            self._task.add_done_callback(_look)
        task = self._task
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        if task.cancelled():
            raise self._gone()
        problem = task.exception()
        if isinstance(problem, Unavailable):
            raise anew(problem) from problem
        return task.result()

    async def close(self) -> None:
        """End the attempt that is under way, and make no more."""
        self.closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _look(task: asyncio.Task[Any]) -> None:
    """Look at an error, or asyncio would log that nobody did when nobody waits any more."""
    if not task.cancelled():
        task.exception()
