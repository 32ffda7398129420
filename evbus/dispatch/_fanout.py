"""A message on its way to its handlers, which run beside its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Protocol

from evbus.errors import DispatcherStopped, DispatchTimeout
from evbus.types import Envelope

from ._binding import Binding
from ._frame import CURRENT, Frame, resume
from ._slots import Slots
from ._within import Limit, within

__all__ = ["Fanout"]


class _Router(Protocol):
    handled: int
    failed: int

    @property
    def intercepted(self) -> bool: ...

    def perform(self, binding: Binding, message: Any, frame: Frame) -> Coroutine[Any, Any, Any]: ...

    def emit(self, events: list[Any], key: Any) -> None: ...

    def report(self, binding: Binding, message: Any, frame: Frame, problem: BaseException) -> None: ...


class Fanout:
    """One message for some handlers, each in a context of its own.

    :param frame: what each handler's frame looks like.
    :param on_done: called when the last handler has ended.
    :param waits: somebody waits, and gets the first failure; without it all are reported.
    :ivar left: handlers that were not begun yet.
    :ivar error: what the first that failed raised, when somebody waits.
    """

    __slots__ = (
        "_bindings",
        "_cancelled",
        "_context",
        "_frame",
        "_message",
        "_on_done",
        "_plain",
        "_router",
        "_running",
        "_undone",
        "_waits",
        "error",
        "left",
    )

    def __init__(
        self,
        router: _Router,
        bindings: tuple[Binding, ...],
        message: Any,
        frame: tuple[Frame | None, Any, Any, Envelope | None, Limit | None, Slots | None],
        context: Context,
        on_done: Callable[[], None] | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self._router = router
        self._bindings = bindings
        self._message = message
        self._frame = frame
        self._context = context
        self._on_done = on_done
        self._waits = waits
        self._undone = self.left = len(bindings)
        self._cancelled = False
        # Its handlers need nothing around them, but for those that leave events behind.
        self._plain = frame[4] is None and not router.intercepted
        self._running: set[asyncio.Task[Any]] | None = None
        self.error: BaseException | None = None

    def begin(self, most: int) -> Coroutine[Any, Any, None] | None:
        """Call at most ``most`` handlers, until one does not end at once; return what to await of it."""
        end = self.left - most
        while self.left > 0 and self.left > end:
            context = self._context.copy() if self.left > 1 else self._context
            frame = Frame(*self._frame)
            handling = self._handle(frame, end)
            try:
                awaited = context.run(handling.send, None)
            except StopIteration:
                frame.slots = None
            else:
                frame.suspended = True
                return self._finish(frame, resume(context, handling, awaited))
        return None

    async def _handle(self, frame: Frame, end: int) -> None:
        """Call handlers until ``end`` are left, one does not end at once, or one has changed the context."""
        CURRENT.set(frame)
        router, message, plain = self._router, self._message, self._plain
        clean = copy_context()
        for binding in self._bindings[-self.left :]:
            self.left -= 1
            if self._cancelled:
                self._one_done()
                continue
            counted = True
            try:
                if plain and not binding.leaves:
                    counted = False
                    await binding.call(message)
                    router.handled += 1
                    if frame.events:
                        events, frame.events = frame.events, None
                        router.emit(events, frame.key)
                else:
                    await self._limited(binding, frame)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                self._failed(binding, frame, exc, counted=counted)
            if self._on_done is not None:
                self._one_done()
            if frame.suspended or self.left <= end or copy_context() != clean:
                return

    async def _finish(self, frame: Frame, rest: Awaitable[None]) -> None:
        """Await the rest of a handler."""
        task = asyncio.current_task()
        assert task is not None
        if self._running is None:
            self._running = set()
        self._running.add(task)
        try:
            await rest
        finally:
            self._running.discard(task)
            if self._cancelled:
                # The worker goes on; newer Pythons count who wanted to cancel it.
                getattr(task, "uncancel", int)()
            if frame.slots is not None:
                await frame.end()

    async def _limited(self, binding: Binding, frame: Frame) -> None:
        handling = self._router.perform(binding, self._message, frame)
        if frame.limit is None:
            await handling
            return
        if frame.limit.left() <= 0:
            handling.close()
            raise DispatchTimeout(binding.message_name, frame.limit.seconds)
        await within(handling, frame.limit, binding.message_name)

    def _failed(self, binding: Binding, frame: Frame, problem: BaseException, *, counted: bool) -> None:
        frame.events = None
        if not counted:
            self._router.failed += 1
        if self._waits and self.error is None:
            self.error = problem
        elif not self._cancelled:
            self._router.report(binding, self._message, frame, problem)

    def _one_done(self) -> None:
        self._undone -= 1
        if not self._undone and self._on_done is not None:
            self._on_done()

    def cancel(self) -> None:
        """Cancel the handlers that run, and begin no others."""
        self._cancelled = True
        for task in self._running or ():
            task.cancel()

    def drop(self) -> None:
        """Report that the message will not be handled by those handlers that have not begun."""
        problem = DispatcherStopped()
        left, self.left = self.left, 0
        for binding in self._bindings[len(self._bindings) - left :]:
            self._failed(binding, Frame(*self._frame), problem, counted=True)
            self._one_done()
