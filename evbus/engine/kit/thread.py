"""One thread that does blocking work in order, so that a hung disk or pipe stalls no event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["Job", "WorkerThread"]

T = TypeVar("T")

_Work = Callable[[], Any]

_log = logging.getLogger("evbus.worker")


class Job:
    """A function to run in the thread, and whom to tell. ``loop`` and ``future`` belong to the caller.

    :param last: the thread ends with it, and it is run even if nobody waits for it any more.
    """

    __slots__ = ("_ended", "_error", "_result", "_told", "function", "future", "last", "loop")

    def __init__(self, function: Callable[[], Any], *, last: bool = False) -> None:
        self.function = function
        self.last = last
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended = self._told = False

    def run(self) -> bool:
        """Run the function, in the thread; return whether that ends then."""
        # A caller that gave up before the work began must not find it done later on: it tries again.
        # What comes last (closing a file) has to be done all the same.
        if self.future.cancelled() and not self.last:
            return False
        try:
            self._result = self.function()
        except BaseException as exc:
            self._error = exc
        self._ended = True
        self.tell()
        return self.last

    def tell(self) -> None:
        """Have the loop look at it, unless it is about to; in the thread."""
        if self._told:
            return
        self._told = True
        try:
            self.loop.call_soon_threadsafe(self._look)
        except RuntimeError:
            # The loop was closed while the work went on; nobody is left who could be told.
            return

    def _look(self) -> None:
        self._told = False  # before looking: what comes after that is told anew
        self.progress()
        if not self._ended or self.future.done():
            return
        if self._error is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._error)

    def progress(self) -> None:
        """Be told that the function called :meth:`tell`, or has ended; in the loop."""


class WorkerThread:
    """Run functions one after the other in a thread of its own, started with the first of them.

    The thread is a daemon: one that hangs in a write for ever (a dead NFS server, a pipe that nobody
    reads) must not keep the process from ending, as a ``ThreadPoolExecutor`` would at exit.

    :param name: the thread's name.
    :param tick: called in the thread after each function and whenever the seconds that it returned
        have passed; None from it means not before the next function. It must not raise.
    """

    def __init__(self, name: str, tick: Callable[[], float | None] | None = None) -> None:
        self._name = name
        self._tick = tick
        # A SimpleQueue takes a tenth of the time. But up to Python 3.12, its get() waits for ever when a
        # short timeout runs out between its two looks at an empty queue.
        self._jobs: queue.Queue[_Work] | queue.SimpleQueue[_Work] = (
            queue.SimpleQueue() if tick is None else queue.Queue()
        )
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._thread else "idle"
        return f"<Worker {self._name} {state}>"

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in the thread and return its result or raise its exception.

        Cancelled before its turn, the function is not run; cancelled later, it runs to its end and
        its outcome is lost to the caller.

        :raises RuntimeError: the worker was closed.
        """
        result: T = await self.begin(Job(lambda: function(*args)))
        return result

    def begin(self, job: Job) -> asyncio.Future[Any]:
        """Have the thread run a job when it is its turn; return the job's future.

        :raises RuntimeError: the worker was closed.
        """
        self._refuse_closed()
        self._start(job.run)
        return job.future

    def submit(self, function: Callable[[], Any]) -> None:
        """Have ``function`` run, without waiting for it; it logs its failures. From any thread.

        :raises RuntimeError: the worker was closed.
        """
        self._refuse_closed()
        self._start(partial(_run, function))

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError(f"the thread {self._name} was closed and takes no more work")

    def stop(self, last: Callable[[], Any] | None = None) -> asyncio.Future[Any] | None:
        """Take no more work, and have the thread do what is waiting, then ``last``, and end.

        Returns at once, with the future of ``last``; None when there is nothing to wait for.
        """
        if self._closed or (self._thread is None and last is None):
            self._closed = True
            return None
        self._closed = True
        job = Job(last or _nothing, last=True)
        self._start(job.run)
        return job.future

    async def close(self, last: Callable[[], Any] | None = None) -> None:
        """Do what :meth:`stop` does and wait for it. Closing twice does nothing more.

        Cancelled, it leaves a hanging thread behind, which does ``last`` and ends once its work does.
        """
        future = self.stop(last)
        if future is None:
            return
        try:
            await future
        finally:
            # Nothing but returning is left to the thread by then, unless we were cancelled.
            if self._thread is not None and not future.cancelled():
                self._thread.join()

    def _start(self, job: _Work) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                    thread.start()
                    self._thread = thread
        self._jobs.put(job)

    def _work(self) -> None:
        wait: float | None = None
        while True:
            try:
                job = self._jobs.get(timeout=wait)
            except queue.Empty:
                pass
            else:
                if job():
                    return
                # Dropped before waiting: it holds the caller's events.
                del job
            wait = self._tick() if self._tick is not None else None


def _nothing() -> None:
    return


def _run(function: _Work) -> None:
    try:
        function()
    except Exception:
        _log.exception("work in the background failed")
