"""Workers: what comes in is handled in order, so many at once at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from typing import Generic, TypeVar

from evbus.engine.core.broker import HANDLING
from evbus.engine.kit.waiting import running

__all__ = ["Workers"]

#: How many one worker handles before the loop has its turn.
SLICE = 100

_Job = TypeVar("_Job")


class Workers(Generic[_Job]):
    """At most ``limit`` jobs at once, begun in the order in which they came.

    A worker does one after another as long as they end at once; others join it when it has to wait.

    :param handle: does a job; it lets nothing out but what ends the program, and the worker's cancellation.
    :ivar running: jobs that are being done.
    """

    def __init__(self, handle: Callable[[_Job], Awaitable[None]], limit: int, name: str) -> None:
        self.running = 0
        self._handle = handle
        self._limit = limit
        self._name = name
        self._ready: deque[_Job] = deque()
        # Those that are to be done later.
        self._later: dict[_Job, asyncio.TimerHandle] = {}
        self._waking = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Handlers know nothing of who happened to wake their worker.
        self._context = copy_context()
        self._idle: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Workers {self._name} running={self.running} ready={len(self._ready)}>"

    def __len__(self) -> int:
        """Return the number of jobs that wait."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing is being done."""
        return not self._tasks and not self._ready and not self._later

    @property
    def coming(self) -> bool:
        """Whether another worker is about to begin with what waits."""
        return bool(self._ready) and self.running < self._limit

    def __contains__(self, task: object) -> bool:
        """Return whether a task is one of the workers."""
        return task in self._tasks

    @property
    def ready(self) -> deque[_Job]:
        """The jobs that wait, in order; threads of handlers may take from its left."""
        return self._ready

    def begin(self) -> None:
        """Forget what an event loop that has ended left behind."""
        self._waking = False
        self._later.clear()
        self._context = copy_context()

    def submit(self, job: _Job) -> None:
        """Do a job when it is its turn."""
        self.submit_all((job,))

    def submit_all(self, jobs: Iterable[_Job]) -> None:
        """Do jobs in their order."""
        self._ready.extend(jobs)
        if not self._waking:
            self._wake()

    def submit_later(self, job: _Job, seconds: float) -> None:
        """Do a job again, after a time."""
        self._later[job] = asyncio.get_running_loop().call_later(seconds, self._submit_now, job)

    def _submit_now(self, job: _Job) -> None:
        del self._later[job]
        self.submit(job)

    def _wake(self) -> None:
        if self.running < self._limit:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._waking = False
        if self._ready and self.running < self._limit:
            self.running += 1
            self._context.copy().run(self._begin)

    def _begin(self) -> None:
        worker = asyncio.Task(self._work(), loop=asyncio.get_running_loop(), name=f"evbus {self._name}")
        self._tasks.add(worker)
        worker.add_done_callback(self._ended)

    async def _work(self) -> None:
        ready, handle = self._ready, self._handle
        if len(ready) > 1 and not self._waking:
            self._wake()  # its turn comes when this worker has to wait
        HANDLING.set(asyncio.current_task())
        clean = copy_context()
        done = 0
        while ready and self.running <= self._limit:
            try:
                job = ready.popleft()
            except IndexError:
                return  # a thread was faster
            await handle(job)
            if copy_context() != clean:
                return  # what a handler has set is not for the next
            done += 1
            if not done % SLICE:
                await asyncio.sleep(0)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._tasks.discard(worker)
        self.running -= 1
        if self._ready:
            if not self._waking:
                self._wake()
        else:
            self._tell_idle()
        if not worker.cancelled():
            worker.exception()  # what ends the program is raised by the loop

    def _tell_idle(self) -> None:
        if self._idle is not None and self.idle and not self._idle.done():
            self._idle.set_result(None)

    def leave(self) -> None:
        """Be told that a job waits for something that another job has: a third may be begun."""
        self.running -= 1
        if self._ready and not self._waking:
            self._wake()

    def enter(self) -> None:
        """Be told that a job goes on, in the place of another that is about to end."""
        self.running += 1

    def current(self) -> asyncio.Task[None] | None:
        """Return the worker that runs now, None when none does."""
        task = running()
        return task if task in self._tasks else None

    def withdraw(self, which: Callable[[_Job], bool] = lambda job: True) -> list[_Job]:
        """Return the jobs that were not begun, and forget them."""
        again = [job for job in self._later if which(job)]
        for job in again:
            self._later.pop(job).cancel()
        # From the end: what threads take meanwhile comes before it.
        jobs: list[_Job] = []
        with contextlib.suppress(IndexError):
            while True:
                jobs.append(self._ready.pop())
        jobs.reverse()
        found = again + [job for job in jobs if which(job)]
        self._ready.extend([job for job in jobs if not which(job)])
        self._tell_idle()
        return found

    async def wait_idle(self, seconds: float) -> bool:
        """Return when nothing waits and nothing is being done, or after ``seconds``: whether it is so."""
        if not self.idle:
            # Several may wait, each for a time of its own.
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=seconds)
        return self.idle

    async def cancel(self, seconds: float) -> None:
        """Cancel what is being done; a handler that goes on after ``seconds`` is left alone."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
