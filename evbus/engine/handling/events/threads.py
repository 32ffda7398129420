"""Threads for plain functions of the application, so that they do not block the loop."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Generic, NamedTuple, TypeVar

from evbus.engine.handling.events.contexts import apart
from evbus.engine.kit.thread import Job, WorkerThread
from evbus.errors import DispatchError

__all__ = ["HANGING", "Run", "Threads", "Unfinished"]

log = logging.getLogger("evbus.event")

#: Threads of one listener that may go on with what was given up; as many as it has at once if that is more.
HANGING = 32
#: Seconds after which a run begins no further work, and the loop has its turn.
SHARE = 0.001

_Work = TypeVar("_Work")


class Unfinished(NamedTuple):
    """A work that the call in its thread has not done.

    :ivar problem: what the call raised, None when it returned something to await.
    :ivar began: when, by ``time.monotonic()``.
    """

    work: Any
    problem: BaseException | None
    result: Any = None
    began: float = 0.0


class Run(Job, Generic[_Work]):
    """Works that a thread does one after another, so that it and the loop wake each other once for many.

    The thread takes what waits already. What it has done is told at once, and the run ends with what the loop
    has to go on with, if anything: a failure, or something to await.

    :param first: the work to begin with.
    :param waiting: the others; of these it takes the first.
    :param call: does a work, each in a copy of the context that the run was made in.
    :param done: gets works that are done, in the loop.
    :param timeout: seconds that each may take; then ``future`` is cancelled, and ``expired`` says why.
    """

    def __init__(
        self,
        first: _Work,
        waiting: deque[_Work],
        call: Callable[[_Work], Any],
        done: Callable[[list[_Work]], None],
        timeout: float | None = None,
    ) -> None:
        super().__init__(self._do)
        self.expired = False
        self._waiting = waiting
        self._call = call
        self._done = done
        self._context = copy_context()
        self._finished: list[_Work] = []
        # Held where a work is begun, so that none is once the run was left.
        self._lock = threading.Lock()
        self._left = False
        self._work: _Work | None = first
        self._given_up: _Work | None = None
        self._began = time.monotonic()
        if timeout is not None:
            self._seconds = timeout
            self._watch(timeout)

    def _do(self) -> Unfinished | None:
        work, new_context, finished = self._work, self._context.copy, self._finished
        call = apart(self._context, self._call)
        ends = time.monotonic() + SHARE
        while work is not None:
            try:
                result = new_context().run(call, work)
            except BaseException as exc:
                return Unfinished(work, _raised(exc))
            if result is not None and inspect.isawaitable(result):
                return Unfinished(work, None, result, self._began)
            self._work = None  # before it counts as done: see leave()
            finished.append(work)
            now = time.monotonic()
            # A loop that was stopped handles nothing.
            if now >= ends or not self.loop.is_running():
                return None
            work = self._next(now)
        return None

    def _next(self, now: float) -> _Work | None:
        """Begin with the next work, unless none waits."""
        with self._lock:
            if self._left or not self._waiting:
                return None
            try:
                work = self._waiting.popleft()
            except IndexError:  # another was faster
                return None
            self._work, self._began = work, now
        if not self._told:
            self.tell()
        return work

    def progress(self) -> None:
        """Tell of what is done."""
        count = len(self._finished)
        if count:
            done = self._finished[:count]
            del self._finished[:count]
            if self._given_up in done:
                done.remove(self._given_up)
            self._done(done)

    def leave(self) -> _Work | None:
        """Let the thread begin with nothing more, and return what it is in the middle of and loses."""
        with self._lock:
            self._left = True
            self._given_up = self._work
        self.progress()
        return self._given_up

    def _watch(self, seconds: float) -> None:
        timer = self.loop.call_later(seconds, self._look_at_the_clock)
        self.future.add_done_callback(lambda _: timer.cancel())

    def _look_at_the_clock(self) -> None:
        with self._lock:
            left = self._began + self._seconds - time.monotonic() if self._work is not None else self._seconds
        if left > 0:
            self._watch(left)
        else:
            self.expired = self.future.cancel()


class Threads:
    """The threads of one listener, or of the services, begun when needed: nobody else waits for them.

    They keep no process from ending: one that hangs can be left alone, and cannot be ended. So they are
    bounded: while too many hang, what needs a further one fails.

    :param limit: the most at once; its owner calls no more.
    :param name: of its owner, ``listener billing``.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._numbers = itertools.count()
        self._idle: list[WorkerThread] = []
        self._busy: set[WorkerThread] = set()
        # Those whose function was given up and goes on, unless it has ended since.
        self._left: set[WorkerThread] = set()
        self._most = max(HANGING, limit)
        self._full = False
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Threads {self._name} limit={self._limit}>"

    @property
    def hanging(self) -> int:
        """The number of threads that go on with calls that were given up."""
        if self._left:
            self._left = {worker for worker in self._left if worker.alive}
        return len(self._left)

    async def run(self, call: Callable[..., Any], *event: Any) -> Any:
        """Call a function in a thread, in a copy of the present context.

        :raises DispatchError: too many threads hang.
        """
        context = copy_context()
        return await self.do(Job(lambda: context.run(apart(context, _called), call, *event)))

    async def do(self, job: Job) -> Any:
        """Let a thread do a job; return its result.

        :raises DispatchError: too many threads hang.
        """
        if self._idle:
            worker = self._idle.pop()
        else:
            self._refuse_full()
            worker = WorkerThread(f"evbus {self._name}_{next(self._numbers)}")
        self._busy.add(worker)
        try:
            result = await worker.begin(job)
        except asyncio.CancelledError:
            # The function goes on. Its thread ends with it, and others are there for what comes next.
            self._busy.discard(worker)
            self._left.add(worker)
            self._end(worker)
            raise
        except BaseException:
            self._free(worker)
            raise
        self._free(worker)
        return result

    def _refuse_full(self) -> None:
        if len(self._left) < self._most or self.hanging < self._most:
            self._full = False
            return
        said = (
            f"{self._name}: {self._most} of its threads go on after their timeouts, and it gets no "
            "more until one of them ends"
        )
        if not self._full:
            self._full = True
            log.error("%s; a plain function that waits needs a timeout of its own", said)
        raise DispatchError(said)

    def _end(self, worker: WorkerThread) -> None:
        ending = asyncio.ensure_future(worker.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _free(self, worker: WorkerThread) -> None:
        if worker in self._busy:
            self._busy.discard(worker)
            self._idle.append(worker)

    def replace(self) -> None:
        """Tell that a function goes on, of which nobody waits for the end any more."""
        log.warning("%s: a plain function goes on in its thread after its timeout", self._name)

    async def close(self, seconds: float) -> None:
        """End the threads; one that still runs after ``seconds`` is left alone, as nothing can end it."""
        for worker in (*self._idle, *self._busy):
            self._end(worker)
        self._idle.clear()
        self._busy.clear()
        if not self._ending:
            return
        _, left = await asyncio.wait(set(self._ending), timeout=seconds)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
            log.warning("%s: a plain function still runs in its thread", self._name)


def _called(call: Callable[..., Any], *event: Any) -> Any:
    try:
        return call(*event)
    except (StopIteration, KeyboardInterrupt) as exc:
        raise _raised(exc) from exc


def _raised(problem: BaseException) -> BaseException:
    """Return the exception that a listener fails with when its function has raised ``problem``."""
    if not isinstance(problem, (StopIteration, KeyboardInterrupt)):
        return problem
    # A future cannot hold the one, of which nobody would ever hear; and it is in the main thread that the
    # other is the operator's.
    error = RuntimeError(f"the listener raised {type(problem).__name__}")
    error.__cause__ = problem
    return error
