"""Slots: how many handlers of a router run at once, and the workers that run what nobody waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

__all__ = ["Job", "Slots"]

#: Handlers that a worker calls before it lets the loop have its turn.
SLICE = 100
UNBOUNDED = 2**63

_Turn = asyncio.Future[None]


class Job(Protocol):
    """A message for handlers.

    :ivar left: handlers that were not begun.
    """

    left: int

    def begin(self, most: int) -> Coroutine[Any, Any, None] | None:
        """Call at most ``most`` handlers, until one does not end at once; return what to await of it."""

    def drop(self) -> None:
        """Be told that the handlers that are left will not be begun."""


class Slots:
    """At most ``limit`` handlers at once, in the order in which they came.

    :ivar active: slots that are taken.
    :ivar backlog: how much may wait before senders should wait for :meth:`room`.
    :param on_free: called when a slot is given back and nothing waits for one.
    """

    def __init__(self, on_free: Callable[[], None]) -> None:
        self.limit = UNBOUNDED
        self.active = 0
        self.backlog = UNBOUNDED
        self._crowd: deque[_Turn] = deque()
        self._on_free = on_free
        self._ready: deque[Job | _Turn] = deque()
        self._pumping = False
        self._workers: dict[asyncio.Task[None], None] = {}
        # Workers that are in the middle of a job.
        self._busy = 0

    def __repr__(self) -> str:
        return f"<Slots active={self.active} ready={len(self._ready)} workers={len(self._workers)}>"

    def __len__(self) -> int:
        """How much waits for a slot."""
        return len(self._ready)

    def bound(self, limit: int, backlog: int) -> None:
        """Set both bounds; 0 lifts one."""
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

    def leave(self) -> None:
        """Give a slot back."""
        self.active -= 1
        if self._ready:
            self._wake()
        else:
            self._on_free()

    def submit(self, job: Job) -> None:
        """Let a worker run ``job``."""
        self._ready.append(job)
        self._wake()

    async def room(self) -> None:
        """Wait until less than half of the backlog waits for a slot."""
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._crowd.append(turn)
        await turn

    def _let_in(self) -> None:
        crowd, self._crowd = self._crowd, deque()
        for turn in crowd:
            if not turn.done():
                turn.set_result(None)

    def _wake(self) -> None:
        if not self._pumping and self.active < self.limit:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Let go on who waits for a slot, and start workers for jobs."""
        self._pumping = False
        while self._ready and self.active < self.limit:
            first = self._ready[0]
            if not isinstance(first, asyncio.Future):
                # A worker does as many jobs as it can without waiting. Those that are busy now do wait for
                # something: as many again double them.
                for _ in range(min(self._busy + 1, len(self._ready), self.limit - self.active)):
                    self._start_worker()
                return
            self._ready.popleft()
            if not first.done():
                self.active += 1
                first.set_result(None)

    def _start_worker(self) -> None:
        self.active += 1
        worker = asyncio.get_running_loop().create_task(self._work(), name="evbus-dispatch")
        self._workers[worker] = None
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        del self._workers[worker]
        # Here, as a task that is cancelled before its first step runs nothing of its coroutine.
        self.leave()
        if not worker.cancelled() and worker.exception() is not None:
            worker.get_loop().call_exception_handler(
                {
                    "message": "a worker of the dispatcher failed",
                    "exception": worker.exception(),
                    "task": worker,
                }
            )

    async def _work(self) -> None:
        ready = self._ready
        most = SLICE
        while most > 0 and ready:
            job = ready[0]
            if isinstance(job, asyncio.Future):
                return
            before = job.left
            rest = job.begin(most)
            most -= before - job.left
            if not job.left:
                ready.popleft()
                if self._crowd and len(ready) <= self.backlog // 2:
                    self._let_in()
            if rest is not None:
                self._busy += 1
                if ready:
                    self._wake()
                try:
                    await rest
                finally:
                    self._busy -= 1

    def drop(self, problem: Exception) -> None:
        """Give up what waits: callers get ``problem``, jobs are told."""
        while self._ready:
            waiting = self._ready.popleft()
            if not isinstance(waiting, asyncio.Future):
                waiting.drop()
            elif not waiting.done():
                waiting.set_exception(problem)
        self._let_in()

    async def cancel(self, seconds: float) -> None:
        """Cancel the workers, and wait so many seconds for their end."""
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=seconds)
