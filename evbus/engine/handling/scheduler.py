"""The scheduler of handlers and listeners: so many jobs at once at most, begun in the order they came in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar

from evbus.engine.kit.waiting import running

__all__ = ["SLICE", "Scheduler"]

#: Jobs that are done before the loop has its turn.
SLICE = 100
#: Seconds until another worker takes the place of one that somebody cancelled: mostly who ends the loop.
PAUSE = 0.05

Job = TypeVar("Job")


class Scheduler(Generic[Job]):
    """At most ``limit`` places, which workers take that do what waits, in the order in which it came.

    A worker does one job after another as long as they end at once; others join it when it has to wait. Who
    derives this brings the loop of a worker (:meth:`_work`), and with it the source and the settlement.

    :ivar limit: places.
    :ivar active: places that are taken.
    :ivar ready: jobs that wait, in order.
    """

    def __init__(self, name: str, limit: int, context: Context) -> None:
        self.limit = limit
        self.active = 0
        self.ready: deque[Job] = deque()
        self._name = name
        self._task_name = f"evbus {name}"
        # Handlers have contexts of their own, and a worker is to know nothing of who happened to wake it.
        self._context = context
        # Another worker is about to be started, or has been and has not begun.
        self._waking = False
        self._unbegun: asyncio.Task[None] | None = None
        # With what a kind of scheduler wants to know of each.
        self._workers: dict[asyncio.Task[None], Any] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} active={self.active} ready={len(self.ready)}>"

    def __len__(self) -> int:
        """Return the number of jobs that wait."""
        return len(self.ready)

    def __contains__(self, task: object) -> bool:
        """Return whether a task is one of the workers."""
        return task in self._workers

    def current(self) -> asyncio.Task[None] | None:
        """Return the worker that runs now, None when none does."""
        task = running()
        return task if task in self._workers else None

    def wake(self) -> None:
        """Start workers with the next turn of the loop, if there are places."""
        if not self._waking and self.active < self.limit:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._pump)

    def take(self) -> None:
        """Take a place without waiting, even if there is none."""
        self.active += 1

    def leave(self) -> None:
        """Give a place back: something else may begin with what waits."""
        self.active -= 1
        if self.ready:
            self.wake()
        else:
            self._freed()

    def _pump(self) -> None:
        """Start a worker for what waits."""
        self._waking = False
        if self.ready and self.active < self.limit:
            self._start()

    def _start(self) -> asyncio.Task[None]:
        self.active += 1
        context = self._context.copy()
        worker = asyncio.Task(
            self._work(context),
            loop=asyncio.get_running_loop(),
            name=self._task_name,
            context=context,
        )
        self._workers[worker] = None
        worker.add_done_callback(self._ended, context=self._context)
        return worker

    def _work(self, context: Context) -> Coroutine[Any, Any, None]:
        """Do jobs that wait; in a task of its own, which runs in this context."""
        raise NotImplementedError

    def _freed(self) -> None:
        """Be told that a place was given back for which nothing waits."""

    def _ends(self, worker: asyncio.Task[None]) -> None:
        """Give back the place of a worker that is about to return, so that what comes next need not wait."""
        if worker in self._workers and not worker.cancelling():
            del self._workers[worker]
            worker.remove_done_callback(self._ended)
            self.leave()

    def _ended(self, worker: asyncio.Task[None]) -> None:
        if worker not in self._workers:
            return  # it has given its place back, or was given up, and its place is another's
        del self._workers[worker]
        if worker is self._unbegun:
            self._unbegun, self._waking = None, False
        # Here, as a task that is cancelled before its first step runs nothing of its coroutine.
        if self.ready and (worker.cancelled() or worker.cancelling()):
            self.active -= 1
            worker.get_loop().call_later(PAUSE, self.wake)
        else:
            self.leave()
        problem = None if worker.cancelled() else worker.exception()
        # The others are raised by the loop.
        if isinstance(problem, Exception):
            worker.get_loop().call_exception_handler(
                {"message": f"a worker of {self._name} failed", "exception": problem, "task": worker}
            )

    async def cancel(self, seconds: float, spared: Collection[Any] = ()) -> None:
        """Cancel the workers, but for those that are spared, and wait so many seconds for their end."""
        workers = [worker for worker in self._workers if worker not in spared]
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=seconds)
