"""The pool of a router: how many handlers run at once, and the workers that run what nobody waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol

from evbus.engine.handling.scheduler import SLICE, Scheduler

__all__ = ["WorkerPool"]

UNBOUNDED = 2**63

_Turn = asyncio.Future[None]


class _Job(Protocol):
    """A message for handlers.

    :ivar left: handlers that were not begun.
    """

    left: int

    def begin(self, most: int) -> Coroutine[Any, Any, None] | None:
        """Call at most ``most`` handlers, until one does not end at once; return what to await of it."""

    def drop(self) -> None:
        """Be told that the handlers that are left will not be begun."""


class WorkerPool(Scheduler["_Job | _Turn"]):
    """At most ``limit`` handlers at once, in the order in which they came: workers' and callers' own.

    :ivar backlog: how much may wait before senders should wait for :meth:`room`.
    :ivar behind: what will wait for a slot, and is part of the backlog, when it is its key's turn.
    :param on_free: called when a slot is given back and nothing waits for one.
    """

    def __init__(self, on_free: Callable[[], None]) -> None:
        super().__init__("the dispatcher", UNBOUNDED, Context())
        self.backlog = UNBOUNDED
        self.behind = 0
        self._crowd: deque[_Turn] = deque()
        self._on_free = on_free
        # Workers that are in the middle of a job.
        self._busy = 0
        # Handlers that all workers have called since the loop had its turn.
        self._called = 0

    def bound(self, limit: int, backlog: int) -> None:
        """Set both bounds; 0 lifts one.

        :raises ValueError: one is no whole number, or below 0.
        """
        for name, value in (("engine_workers", limit), ("backlog", backlog)):
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is a whole number, or 0 for no bound, and not {value!r}")
        self.limit = limit or UNBOUNDED
        self.backlog = backlog or UNBOUNDED

    def try_enter(self) -> bool:
        """Take a slot if there is one and nobody waits for it."""
        if self.active < self.limit and not self.ready:
            self.active += 1
            return True
        return False

    async def enter(self) -> None:
        """Take a slot, when it is this caller's turn."""
        if self.try_enter():
            return
        turn: _Turn = asyncio.get_running_loop().create_future()
        self.ready.append(turn)
        self.wake()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise

    def _freed(self) -> None:
        self._on_free()

    def submit(self, job: _Job) -> None:
        """Let a worker run ``job``."""
        self.ready.append(job)
        self.wake()

    def full(self) -> bool:
        """Return whether as much waits as may wait."""
        return len(self.ready) + self.behind >= self.backlog

    async def room(self) -> None:
        """Wait until at most half of the backlog waits; then others may have been quicker."""
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._crowd.append(turn)
        await turn

    def _next(self) -> None:
        """Take off what waited longest, and tell senders when there is room."""
        self.ready.popleft()
        if self._crowd and len(self.ready) + self.behind <= self.backlog // 2:
            self._let_in()

    def _let_in(self) -> None:
        crowd, self._crowd = self._crowd, deque()
        for turn in crowd:
            if not turn.done():
                turn.set_result(None)

    def _pump(self) -> None:
        """Let go on who waits for a slot, and start workers for jobs."""
        self._waking = False
        self._called = 0
        ready = self.ready
        while ready and self.active < self.limit:
            first = ready[0]
            if not isinstance(first, asyncio.Future):
                # A worker does as many jobs as it can without waiting. Those that are busy now do wait for
                # something: as many again double them.
                for _ in range(min(self._busy + 1, len(ready), self.limit - self.active, SLICE)):
                    self._start()
                return
            self._next()
            if not first.done():
                self.active += 1
                first.set_result(None)
        if not ready:
            # The last may have been a caller that waits no longer, and takes no slot that it could give back.
            self._on_free()

    async def _work(self, context: Context) -> None:
        ready = self.ready
        worker: Any = asyncio.current_task()
        while ready and self._called < SLICE:
            job = ready[0]
            if isinstance(job, asyncio.Future):
                return
            before = job.left
            rest = job.begin(SLICE - self._called)
            self._called += before - job.left
            # A handler may have stopped the dispatcher, and everything was dropped.
            if not job.left and ready and ready[0] is job:
                self._next()
            if rest is not None:
                self._busy += 1
                if ready:
                    self.wake()
                try:
                    await rest
                finally:
                    self._busy -= 1
                # Somebody wants the worker to end, who is not the message that it handles.
                if self.active > self.limit or worker.cancelling():
                    return

    def drop(self, problem: Callable[[], Exception]) -> None:
        """Give up what waits: callers get a ``problem``, jobs are told."""
        while self.ready:
            waiting = self.ready.popleft()
            if not isinstance(waiting, asyncio.Future):
                waiting.drop()
            elif not waiting.done():
                waiting.set_exception(problem())
        # The loop that was to call it may be gone.
        self._waking = False
        self._let_in()
