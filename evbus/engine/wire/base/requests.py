"""Requests, whatever the protocol: what they need is opened once for all, and each waits for its reply."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Coroutine
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

from evbus.errors import ConnectionLost, DeliveryError, DeliveryTimeout, Unavailable
from evbus.types import Envelope

__all__ = ["Correlator", "SingleFlight", "anew"]

_Thing = TypeVar("_Thing")

#: Deadlines of requests that are long answered, before they are sorted out.
_STALE = 1000


class Correlator:
    """The requests of one channel or session.

    A transport registers a request by :meth:`expect` before it sends it, hands every reply to
    :meth:`answer`, and tells by :meth:`fail` and :meth:`end` of requests that get none.

    :param name: what the connection is called.
    :param log: is told, at debug level, of replies that nobody waits for.
    """

    def __init__(self, name: str, log: logging.Logger) -> None:
        self._name = name
        self._log = log
        self._loop = asyncio.get_running_loop()
        # Nobody else can guess it, so that only who got a request can answer it.
        self._prefix = f"{secrets.token_hex(8)}-"
        self._count = 0
        self._requests: dict[str, tuple[asyncio.Future[Envelope], float]] = {}
        # One timer for all: one for each request costs more.
        self._deadlines: list[tuple[float, str]] = []
        self._timer: asyncio.Handle | None = None
        # When it ends; uvloop's handles of what is nearly due do not tell.
        self._due = math.inf

    def __len__(self) -> int:
        """Return the number of requests under way."""
        return len(self._requests)

    def __contains__(self, correlation_id: object) -> bool:
        """Return whether a request is under way."""
        return correlation_id in self._requests

    def new_id(self) -> str:
        """Return a correlation id for the next request."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    def expect(self, correlation_id: str, deadline: float, timeout: float) -> asyncio.Future[Envelope]:
        """Return the future of a reply, to be awaited by :meth:`reply`.

        :param deadline: until when it is waited for, by the loop's clock; ``timeout`` is for the error.
        """
        reply: asyncio.Future[Envelope] = self._loop.create_future()
        self._requests[correlation_id] = (reply, timeout)
        if len(self._deadlines) > 2 * len(self._requests) + _STALE:
            self._deadlines = [each for each in self._deadlines if each[1] in self._requests]
            heapify(self._deadlines)
        heappush(self._deadlines, (deadline, correlation_id))
        if deadline < self._due:
            self._look_at(deadline)
        return reply

    async def reply(self, correlation_id: str, reply: asyncio.Future[Envelope]) -> Envelope:
        """Return a reply once it is there. Cancelled, the request is forgotten.

        :raises DeliveryTimeout: it did not come in time.
        """
        try:
            return await reply
        except asyncio.CancelledError:
            if not reply.cancelled():
                reply.exception()  # looked at, or asyncio would log that nobody did
            raise
        finally:
            self._requests.pop(correlation_id, None)

    def answer(self, correlation_id: str, reply: Envelope | Exception) -> None:
        """Hand a reply, or why there will be none, to whoever waits for it."""
        request = self._requests.get(correlation_id)
        if request is None:
            self._log.debug("%s: a reply is ignored, as nobody waits for it (any more)", self._name)
        elif isinstance(reply, Exception):
            self.fail(correlation_id, reply)
        elif not request[0].done():
            request[0].set_result(reply)

    def fail(self, correlation_id: str, problem: Exception) -> None:
        """End a request, if it is under way."""
        request = self._requests.get(correlation_id)
        if request is not None and not request[0].done():
            request[0].set_exception(problem)

    def end(self, problem: Callable[[], Exception]) -> None:
        """End all requests, each with an error of its own."""
        requests, self._requests = self._requests, {}
        self._deadlines.clear()
        self._look_at(math.inf)
        for reply, _ in requests.values():
            if not reply.done():
                reply.set_exception(problem())

    def _look_at(self, deadline: float) -> None:
        """Set the timer to a deadline; none is left at an infinite one."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = None if deadline == math.inf else self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        """Give up the requests whose time is over; the timer is for the first of the others."""
        self._look_at(math.inf)
        now, deadlines = self._loop.time(), self._deadlines
        while deadlines:
            deadline, correlation_id = deadlines[0]
            request = self._requests.get(correlation_id)
            if request is not None:
                if deadline > now:
                    self._look_at(deadline)
                    return
                self.fail(correlation_id, DeliveryTimeout(request[1]))
                self._requests.pop(correlation_id, None)
            heappop(deadlines)


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
