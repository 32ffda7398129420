"""The workers of a listener: what comes in is handled in order, so many at once at most."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from typing import Any, TypeVar

from evbus.engine.core.broker import HANDLING
from evbus.engine.handling.events.contexts import present_context, set_decimals, unspoilt
from evbus.engine.handling.key_lock import KeyLock
from evbus.engine.handling.scheduler import SLICE, Scheduler
from evbus.errors import InvalidPayload

__all__ = ["Workers"]

_Job = TypeVar("_Job")


class Workers(Scheduler[_Job]):
    """At most ``limit`` jobs at once, those of one key one after another, and some of them again later.

    A job that waits for its key's turn leaves its place to another, and gets that of the job before.

    Threads of handlers may take from the left of ``ready``.

    :ivar locks: those of keys that are held.
    :ivar handle: does a job, and perhaps some of those that wait behind it; returns how many, None for one.
        It lets nothing out but what ends the program, and the worker's cancellation.
    """

    def __init__(self, handle: Callable[[_Job], Awaitable[int | None]], limit: int, name: str) -> None:
        super().__init__(name, limit, present_context())
        self.handle = handle
        self.locks: dict[Any, KeyLock] = {}
        # The turns that are waited for, and with which job.
        self._turns: dict[asyncio.Future[None], _Job | None] = {}
        self._later: dict[_Job, asyncio.TimerHandle] = {}
        self._idle: asyncio.Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing is being done."""
        return not self._workers and not self.ready and not self._later

    @property
    def coming(self) -> bool:
        """Whether another worker is about to begin with what waits."""
        return bool(self.ready) and self.active < self.limit

    def begin(self) -> None:
        """Forget what an event loop that has ended left behind, or a stop that waited no longer."""
        # Taken off first: those in another thread take themselves off when they end.
        workers, self._workers = self._workers, {}
        for worker in workers:
            try:
                # Perhaps in another thread. It runs, and ends by itself; nobody closes what runs.
                worker.get_loop().call_soon_threadsafe(worker.cancel)
            except RuntimeError:
                worker.get_coro().close()  # with its loop, which is closed
        self._later.clear()
        # Those that go on find nothing there.
        given_up, self.ready = self.ready, deque(self.ready)
        given_up.clear()
        self.active, self._waking = 0, False
        self._context = present_context()

    def submit(self, job: _Job) -> None:
        """Do a job when it is its turn."""
        self.submit_all((job,))

    def submit_all(self, jobs: Iterable[_Job]) -> None:
        """Do jobs in their order."""
        self.ready.extend(jobs)
        # At once, as it takes a turn of the loop until the worker begins.
        if not self._waking:
            self._pump()

    def submit_later(self, job: _Job, seconds: float) -> None:
        """Do a job again, after a time."""
        self._later[job] = asyncio.get_running_loop().call_later(seconds, self._submit_now, job)

    def _submit_now(self, job: _Job) -> None:
        del self._later[job]
        self.submit(job)

    def _pump(self) -> None:
        self._waking = bool(self.ready) and self.active < self.limit
        if self._waking:
            self._unbegun = self._start()

    def contexts(self) -> tuple[Context, Context]:
        """Return the context of the worker that runs, and a copy of what it was at first."""
        worker: Any = asyncio.current_task()
        contexts: tuple[Context, Context] = self._workers[worker]
        return contexts

    async def _work(self, context: Context) -> None:
        ready, handle = self.ready, self.handle
        worker: Any = asyncio.current_task()
        self._unbegun, self._waking = None, False
        if len(ready) > 1:
            self.wake()  # its turn comes when this worker has to wait
        HANDLING.set(worker)
        clean = context.copy()
        set_decimals(clean)
        self._workers[worker] = context, clean
        done = 0
        while ready and self.active <= self.limit:
            try:
                job = ready.popleft()
            except IndexError:
                break  # a thread was faster
            done += await handle(job) or 1
            if context != clean and not unspoilt(context, clean):
                break  # what a handler has set is not for the next
            if done >= SLICE:
                done = 0
                await asyncio.sleep(0)
        self._ends(worker)

    def _freed(self) -> None:
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and self.idle and not self._idle.done():
            self._idle.set_result(None)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for a place, or for the turn of their key."""
        return len(self.ready) + len(self._turns)

    async def acquire(self, key: Any, job: _Job | None = None) -> None:
        """Take the lock of a key, when it is its turn; :meth:`release` gives it up.

        :param job: what :meth:`withdraw` calls it; it waits no longer then, as if it had been cancelled.
        :raises InvalidPayload: it cannot be a key.
        """
        try:
            lock = self.locks.get(key)
        except TypeError:
            raise InvalidPayload(
                f"the key of a listener is something hashable, such as a string, and no {type(key).__name__}"
            ) from None
        if lock is None:
            KeyLock(self.locks, key)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lock.waiting.append((functools.partial(self._begin_turn, turn), turn.cancel))
        self._turns[turn] = job
        self.leave()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                lock.release()
            else:
                self.take()
            raise
        finally:
            self._turns.pop(turn, None)

    def _begin_turn(self, turn: asyncio.Future[None]) -> bool:
        if turn.done():
            return False
        del self._turns[turn]
        self.take()
        turn.set_result(None)
        return True

    def release(self, key: Any) -> None:
        """Give the lock of a key to the next that waits for it."""
        self.locks[key].release()

    def withdraw(self, which: Callable[[_Job], bool] = lambda job: True) -> list[_Job]:
        """Return the jobs that were not begun, and forget them."""
        found = [job for job in self._later if which(job)]
        for job in found:
            self._later.pop(job).cancel()
        # From the end: what threads take meanwhile comes before it.
        jobs: list[_Job] = []
        with contextlib.suppress(IndexError):
            while True:
                jobs.append(self.ready.pop())
        jobs.reverse()
        found += [job for job in jobs if which(job)]
        self.ready.extend([job for job in jobs if not which(job)])
        waiting = [
            (turn, job)
            for turn, job in self._turns.items()
            if not turn.done() and job is not None and which(job)
        ]
        for turn, _ in waiting:
            turn.cancel()
            del self._turns[turn]
        self._tell_idle()
        return [job for _, job in waiting] + found

    async def wait_idle(self, seconds: float) -> bool:
        """Return when nothing waits and nothing is being done, or after ``seconds``: whether it is so."""
        if not self.idle:
            # Several may wait, each for a time of its own.
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=seconds)
        return self.idle
