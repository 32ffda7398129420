"""Await a plugin's coroutine with a deadline, telling its failures from our own cancellation."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any

from evbus.errors import DeliveryError, DeliveryTimeout

__all__ = ["Deadline", "call"]

_STRAY = "the plugin was cancelled from within; a client library does that when it loses its connection"


if sys.version_info >= (3, 11):

    async def call(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Await ``coroutine`` for at most ``seconds`` (0: for ever) and return its result.

        A ``CancelledError`` that the plugin raises by itself, as client libraries do when a connection dies,
        comes out as :class:`DeliveryError`; only a cancellation of the calling task stays one. Raises
        :class:`DeliveryTimeout` after ``seconds``.
        """
        deadline = Deadline(seconds)
        try:
            return await deadline.call(coroutine)
        finally:
            deadline.close()

    @types.coroutine
    def _resume(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
        """Await a coroutine that was begun by hand and waits for ``awaited``."""
        while True:
            try:
                try:
                    sent = yield awaited
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as exc:
                    awaited = coroutine.throw(exc)
                else:
                    awaited = coroutine.send(sent)
            except StopIteration as done:
                return done.value

    class _Waiting:
        """A task that awaits a plugin, and until when."""

        __slots__ = ("cancels", "expired", "task", "when")

        def __init__(self, when: float) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.task = task
            self.when = when
            self.cancels = task.cancelling()
            self.expired = False

    class Deadline:
        """The same as :func:`call` for many coroutines, each for at most ``seconds`` (0: for ever).

        One timer for all of them, looked at again when it rings, costs less than one for each.
        """

        def __init__(self, seconds: float) -> None:
            self._seconds = seconds
            # In the order of their deadlines, as all have the same time.
            self._waiting: dict[_Waiting, None] = {}
            self._timer: asyncio.TimerHandle | None = None

        async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
            """Await ``coroutine``; see :func:`call`."""
            # Much of what plugins do ends without waiting for anything, and costs no timer.
            try:
                awaited = coroutine.send(None)
            except StopIteration as done:
                return done.value
            except asyncio.CancelledError as exc:
                raise DeliveryError(_STRAY) from exc
            loop = asyncio.get_running_loop()
            entry = _Waiting(loop.time() + self._seconds)
            self._waiting[entry] = None
            if self._timer is None and self._seconds:
                self._timer = loop.call_at(entry.when, self._look)
            try:
                return await _resume(coroutine, awaited)
            except asyncio.CancelledError as exc:
                if entry.expired and entry.task.cancelling() <= entry.cancels + 1:
                    raise DeliveryTimeout(self._seconds) from exc
                if entry.task.cancelling() > entry.cancels:
                    raise
                raise DeliveryError(_STRAY) from exc
            except TimeoutError as exc:
                if entry.expired:
                    raise DeliveryTimeout(self._seconds) from exc
                raise
            finally:
                del self._waiting[entry]
                if entry.expired:
                    entry.task.uncancel()

        def _look(self) -> None:
            """Cancel what has taken too long, and look again when the next may have."""
            self._timer = None
            loop = asyncio.get_running_loop()
            now = loop.time()
            for entry in self._waiting:
                if entry.when > now:
                    self._timer = loop.call_at(entry.when, self._look)
                    return
                if not entry.expired:
                    entry.expired = True
                    entry.task.cancel()

        def close(self) -> None:
            """Forget the timer. Nothing may be awaited any more."""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

else:

    class Deadline:
        """The same as :func:`call` for many coroutines; see the version for Python 3.11."""

        def __init__(self, seconds: float) -> None:
            self._seconds = seconds

        async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
            """Await ``coroutine``; see :func:`call`."""
            return await call(coroutine, self._seconds)

        def close(self) -> None:
            """Do nothing: each call has a timer of its own."""

    async def call(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Await ``coroutine`` for at most ``seconds``; see the version for Python 3.11.

        Python 3.10 does not tell who cancelled a task, so the plugin gets a task of its own.
        """
        task = asyncio.ensure_future(coroutine)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds or None)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # looked at, or asyncio would log that nobody did
            raise
        if not done:
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled() or task.exception() is not None:
                raise DeliveryTimeout(seconds)
        if task.cancelled():
            raise DeliveryError(_STRAY)
        return task.result()
