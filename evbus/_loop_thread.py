"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ["LoopThread"]

_Result = TypeVar("_Result")


class LoopThread:
    """Runs what it is handed, and has the caller wait for it.

    :param name: of the thread, which is a daemon.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._lock = threading.Lock()
        self._ended = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def do(self, function: Callable[[], Awaitable[_Result]]) -> _Result:
        """Await what a function returns, in the loop; return its result, or raise what it raises.

        Context variables of the caller are seen there. What interrupts the caller, such as Ctrl-C, cancels it
        and waits for its end.

        :raises RuntimeError: this is called in the loop itself.
        :raises CancelledError: the loop ended before.
        """
        __tracebackhide__ = True
        done = cancel = None
        try:
            with self._lock:
                if self._ended:
                    raise asyncio.CancelledError("the loop of the bus has ended")
                done, cancel = self._begin(function)
            problem = done.exception()
        except BaseException:
            if done is not None and cancel is not None:
                cancel()
                done.exception()
            raise
        if problem is not None:
            raise problem
        return done.result()

    @property
    def here(self) -> bool:
        """Whether this is called in the loop."""
        return threading.current_thread() is self._thread

    def refuse_here(self) -> None:
        """Refuse to wait for the loop in the loop itself.

        :raises RuntimeError: says what to do instead.
        """
        if self.here:
            raise RuntimeError(
                "this is called in the loop of the bus, which it would wait for; await it there"
            )

    def _begin(
        self, function: Callable[[], Awaitable[_Result]]
    ) -> tuple[Future[_Result], Callable[[], None]]:
        """Have a function awaited; return its outcome, and what cancels it."""
        self.refuse_here()
        done: Future[_Result] = Future()
        # Kept by who waits: the loop itself keeps a task no longer than that waits for something.
        tasks: list[asyncio.Task[None]] = []

        async def do() -> None:
            __tracebackhide__ = True
            try:
                result = await function()
            except BaseException as exc:
                done.set_exception(exc)
            else:
                done.set_result(result)

        def ended(task: asyncio.Task[None]) -> None:
            if not done.done():  # it was cancelled before it began
                done.set_exception(asyncio.CancelledError())

        def begin() -> None:
            tasks.append(self._loop.create_task(do()))
            tasks[0].add_done_callback(ended)

        def stop() -> None:
            tasks[0].cancel()

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(stop)

        self._loop.call_soon_threadsafe(begin, context=copy_context())
        return done, cancel

    def end(self) -> None:
        """Cancel what is left, and end the loop and the thread."""
        with self._lock:
            self._ended = True
            done, _ = self._begin(self._cancel_all)
        done.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        """End the tasks that are left, as ``asyncio.run`` does."""
        left: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        with contextlib.suppress(RuntimeError):  # while the interpreter ends there is no thread for it
            await self._loop.shutdown_default_executor()
