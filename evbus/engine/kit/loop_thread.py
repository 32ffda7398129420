"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Generic, TypeVar, cast

__all__ = ["LoopThread", "wait_in"]

_Result = TypeVar("_Result")


class _Call(Generic[_Result]):
    """Something that is awaited in the loop, while another thread waits for its outcome.

    The loop never waits for that thread, which a signal handler may keep busy wherever it is: so it is no
    Future of ``concurrent.futures``, whose lock both of them need.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._result: _Result | None = None
        self._problem: BaseException | None = asyncio.CancelledError()  # unless it begins
        self._over = threading.Lock()
        self._over.acquire()

    def begin(self, function: Callable[[], Awaitable[_Result]]) -> None:
        """Begin, in the loop."""
        # Kept, as the loop itself keeps a task no longer than that waits for something.
        self._task = self._loop.create_task(self._do(function))
        self._task.add_done_callback(lambda _: self._over.release())

    async def _do(self, function: Callable[[], Awaitable[_Result]]) -> None:
        __tracebackhide__ = True
        try:
            self._result = await function()
        except BaseException as exc:
            self._problem = exc
        else:
            self._problem = None

    def cancel(self) -> None:
        """Cancel it, from another thread."""

        def stop() -> None:
            assert self._task is not None
            self._task.cancel()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(stop)

    def wait(self) -> None:
        """Return when it is over."""
        with self._over:
            pass

    def outcome(self) -> _Result:
        """Return its result, or raise what it raised."""
        __tracebackhide__ = True
        if self._problem is not None:
            raise self._problem
        return cast(_Result, self._result)


def wait_in(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[_Result]]) -> _Result:
    """Await what a function returns, in the loop of another thread; return or raise what becomes of it.

    Context variables of the caller are seen there. What interrupts the caller, such as Ctrl-C, cancels it and
    waits for its end.

    :raises CancelledError: the loop has ended.
    """
    __tracebackhide__ = True
    call = _begun(loop, function)
    try:
        call.wait()
    except BaseException:
        call.cancel()
        call.wait()
        raise
    return call.outcome()


def _begun(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[_Result]]) -> _Call[_Result]:
    """Have a function awaited in the loop of another thread."""
    call: _Call[_Result] = _Call(loop)
    try:
        loop.call_soon_threadsafe(call.begin, function, context=copy_context())
    except RuntimeError:
        # A signal handler has ended the loop meanwhile.
        raise asyncio.CancelledError("the loop of the bus has ended") from None
    return call


class LoopThread:
    """Runs what it is handed, and has the caller wait for it.

    :param name: of the thread, which is a daemon.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        # A signal handler may call while its thread is in the middle of a call.
        self._lock = threading.RLock()
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
        call = None
        try:
            with self._lock:
                if self._ended:
                    raise asyncio.CancelledError("the loop of the bus has ended")
                call = self._begin(function)
            call.wait()
        except BaseException:
            if call is not None:
                call.cancel()
                call.wait()
            raise
        return call.outcome()

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

    def _begin(self, function: Callable[[], Awaitable[_Result]]) -> _Call[_Result]:
        """Have a function awaited."""
        self.refuse_here()
        return _begun(self._loop, function)

    def end(self) -> None:
        """Cancel what is left, and end the loop and the thread."""
        with self._lock:
            self._ended = True
            call = self._begin(self._cancel_all)
        call.wait()
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
