"""The pool of a router: how many handlers run at once, and the workers that run what nobody waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context
from typing import Any, Protocol

__all__ = ["WorkItem", "WorkerPool"]

#: Handlers that workers call before they let the loop have its turn.
SLICE = 100
#: Seconds until another worker takes the place of one that somebody cancelled: mostly who ends the loop.
PAUSE = 0.05
UNBOUNDED = 2**63

_Turn = asyncio.Future[None]


class WorkItem(Protocol):
    """A message for handlers.

    :ivar left: handlers that were not begun.
    """

    left: int

    def begin(self, most: int) -> Coroutine[Any, Any, None] | None:
        """Call at most ``most`` handlers, until one does not end at once; return what to await of it."""

    def drop(self) -> None:
        """Be told that the handlers that are left will not be begun."""


class WorkerPool:
    """At most ``limit`` handlers at once, in the order in which they came.

    :ivar active: slots that are taken.
    :ivar backlog: how much may wait before senders should wait for :meth:`room`.
    :ivar behind: what will wait for a slot, and is part of the backlog, when it is its key's turn.
    :param on_free: called when a slot is given back and nothing waits for one.
    """

    def __init__(self, on_free: Callable[[], None]) -> None:
        self.limit = UNBOUNDED
        self.active = 0
        self.backlog = UNBOUNDED
        self.behind = 0
        self._crowd: deque[_Turn] = deque()
        self._on_free = on_free
        self._ready: deque[WorkItem | _Turn] = deque()
        self._pumping = False
        # Handlers have contexts of their own, and a worker is to know nothing of who happened to wake it.
        self._context = Context()
        self._workers: dict[asyncio.Task[None], None] = {}
        # Workers that are in the middle of a job.
        self._busy = 0
        # Handlers that all workers have called since the loop had its turn.
        self._called = 0

    def __repr__(self) -> str:
        return f"<WorkerPool active={self.active} ready={len(self._ready)} workers={len(self._workers)}>"

    def __len__(self) -> int:
        """Return the number of jobs and callers that wait for a slot."""
        return len(self._ready)

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
        if self.active < self.limit and not self._ready:
            self.active += 1
            return True
        return False

    async def enter(self) -> None:
        """Take a slot, when it is this caller's turn."""
        if self.try_enter():
            return
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._ready.append(turn)
        self._wake()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise

    def take(self) -> None:
        """Take a slot without waiting, even if there is none."""
        self.active += 1

    def leave(self) -> None:
        """Give a slot back."""
        self.active -= 1
        if self._ready:
            self._wake()
        else:
            self._on_free()

    def submit(self, job: WorkItem) -> None:
        """Let a worker run ``job``."""
        self._ready.append(job)
        self._wake()

    def full(self) -> bool:
        """Return whether as much waits as may wait."""
        return len(self._ready) + self.behind >= self.backlog

    async def room(self) -> None:
        """Wait until at most half of the backlog waits; then others may have been quicker."""
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._crowd.append(turn)
        await turn

    def _next(self) -> None:
        """Take off what waited longest, and tell senders when there is room."""
        self._ready.popleft()
        if self._crowd and len(self._ready) + self.behind <= self.backlog // 2:
            self._let_in()

    def _let_in(self) -> None:
        crowd, self._crowd = self._crowd, deque()
        for turn in crowd:
            if not turn.done():
                turn.set_result(None)

    def _wake(self) -> None:
        if not self._pumping and self.active < self.limit:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump, context=self._context)

    def _pump(self) -> None:
        """Let go on who waits for a slot, and start workers for jobs."""
        self._pumping = False
        self._called = 0
        ready = self._ready
        while ready and self.active < self.limit:
            first = ready[0]
            if not isinstance(first, asyncio.Future):
                # A worker does as many jobs as it can without waiting. Those that are busy now do wait for
                # something: as many again double them.
                for _ in range(min(self._busy + 1, len(ready), self.limit - self.active, SLICE)):
                    self._start_worker()
                return
            self._next()
            if not first.done():
                self.active += 1
                first.set_result(None)
        if not ready:
            # The last may have been a caller that waits no longer, and takes no slot that it could give back.
            self._on_free()

    def _start_worker(self) -> None:
        self.active += 1
        worker = asyncio.Task(self._work(), loop=asyncio.get_running_loop(), name="evbus-dispatch")
        self._workers[worker] = None
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        del self._workers[worker]
        # Here, as a task that is cancelled before its first step runs nothing of its coroutine.
        if self._ready and (worker.cancelled() or _is_cancelled(worker)):
            self.active -= 1
            worker.get_loop().call_later(PAUSE, self._wake)
        else:
            self.leave()
        problem = None if worker.cancelled() else worker.exception()
        if problem is not None and not isinstance(problem, (KeyboardInterrupt, SystemExit)):
            worker.get_loop().call_exception_handler(
                {"message": "a worker of the dispatcher failed", "exception": problem, "task": worker}
            )

    async def _work(self) -> None:
        ready = self._ready
        worker = asyncio.current_task()
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
                    self._wake()
                try:
                    await rest
                finally:
                    self._busy -= 1
                if self.active > self.limit or _is_cancelled(worker):
                    return

    def drop(self, problem: Callable[[], Exception]) -> None:
        """Give up what waits: callers get a ``problem``, jobs are told."""
        while self._ready:
            waiting = self._ready.popleft()
            if not isinstance(waiting, asyncio.Future):
                waiting.drop()
            elif not waiting.done():
                waiting.set_exception(problem())
        # The loop that was to call it may be gone.
        self._pumping = False
        self._let_in()

    async def cancel(self, seconds: float, spared: Collection[Any] = ()) -> None:
        """Cancel the workers, but for those that are spared, and wait so many seconds for their end."""
        workers = [worker for worker in self._workers if worker not in spared]
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=seconds)


def _is_cancelled(worker: Any) -> bool:
    """Return whether somebody wants a worker to end, who is not the message that it handles."""
    return bool(worker.cancelling())
