"""A message on its way to its handlers, which run beside its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Protocol

from evbus.engine.handling.binding import Binding
from evbus.engine.handling.frame import CURRENT, Invocation, resume
from evbus.engine.handling.pool import WorkerPool
from evbus.engine.handling.within import Limit, within
from evbus.engine.kit.waiting import ends, stray
from evbus.errors import DispatcherStopped, DispatchTimeout
from evbus.types import Envelope

__all__ = ["Fanout"]


class _Router(Protocol):
    handled: int
    failed: int

    @property
    def intercepted(self) -> bool: ...

    def perform(self, binding: Binding, message: Any, frame: Invocation) -> Coroutine[Any, Any, Any]: ...

    def emit(self, events: list[Any], key: Any) -> None: ...

    def report(self, binding: Binding, message: Any, frame: Invocation, problem: BaseException) -> bool: ...

    def lost(self, binding: Binding) -> None: ...


class Fanout:
    """One message for some handlers, each in a context of its own.

    :param frame: what each handler's frame looks like.
    :param on_done: called when the last handler has ended.
    :param waits: somebody waits, and gets the first failure; without it all are reported.
    :ivar left: handlers that were not begun yet.
    """

    __slots__ = (
        "_bindings",
        "_cancelled",
        "_context",
        "_first",
        "_frame",
        "_lost",
        "_message",
        "_on_done",
        "_plain",
        "_router",
        "_running",
        "_undone",
        "_waits",
        "left",
    )

    def __init__(
        self,
        router: _Router,
        bindings: tuple[Binding, ...],
        message: Any,
        frame: tuple[Invocation | None, Any, Any, Envelope | None, Limit | None, WorkerPool | None],
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
        # The first failure, when somebody waits.
        self._first: tuple[Binding, Invocation, BaseException] | None = None
        # It was counted as a message that a stop gave up.
        self._lost = False

    def begin(self, most: int) -> Coroutine[Any, Any, None] | None:
        """Call at most ``most`` handlers, until one does not end at once; return what to await of it."""
        end = max(0, self.left - most)
        while self.left > end:
            context = self._context.copy() if self.left > 1 else self._context
            frame = Invocation(*self._frame)
            handling = self._handle(frame, end)
            try:
                awaited = context.run(handling.send, None)
            except StopIteration:
                frame.ended = True
                frame.end()
            else:
                return self._finish(frame, resume(context, handling, awaited))
        return None

    async def _handle(self, frame: Invocation, end: int) -> None:
        """Call handlers until ``end`` are left, one does not end at once, or one has changed the context."""
        CURRENT.set(frame)
        router, message, plain, bindings = self._router, self._message, self._plain, self._bindings
        clean = copy_context()
        while self.left > 0:
            binding = bindings[-self.left]
            self.left -= 1
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
            except BaseException as exc:
                if ends(exc, frame.task):
                    raise
                self._failed(binding, frame, exc, counted=counted)
            if self._on_done is not None:
                self._one_done()
            if frame.task is not None or self.left <= end or copy_context() != clean:
                return

    async def _finish(self, frame: Invocation, rest: Awaitable[None]) -> None:
        """Await the rest of a handler."""
        task: Any = asyncio.current_task()
        frame.task = task
        if self._running is None:
            self._running = set()
        self._running.add(task)
        try:
            await rest
        finally:
            self._running.discard(task)
            frame.ended = True
            frame.end()
            if self._cancelled:
                # The worker goes on.
                task.uncancel()

    async def _limited(self, binding: Binding, frame: Invocation) -> None:
        handling = self._router.perform(binding, self._message, frame)
        # Who waits sees to the limit.
        if frame.limit is None or self._waits:
            await handling
            return
        if frame.limit.left() <= 0:
            handling.close()
            self._router.failed += 1
            raise DispatchTimeout(binding.message_name, frame.limit.seconds)
        await within(handling, frame.limit, binding.message_name)

    def _failed(self, binding: Binding, frame: Invocation, problem: BaseException, *, counted: bool) -> None:
        frame.events = None
        if not counted:
            self._router.failed += 1
        if not isinstance(problem, (Exception, asyncio.CancelledError)):
            problem = stray(problem)
        if self._waits and not self._cancelled:
            if self._first is None:
                self._first = (binding, frame, problem)
                return
        elif self._cancelled and isinstance(problem, asyncio.CancelledError):
            return
        self._report(binding, frame, problem)

    def _report(self, binding: Binding, frame: Invocation, problem: BaseException) -> None:
        lost = self._router.report(binding, self._message, frame, problem)
        if lost and not self._lost:
            self._lost = True
            self._router.lost(binding)

    @property
    def error(self) -> BaseException | None:
        """The exception of the first handler that failed, when somebody waits."""
        return None if self._first is None else self._first[2]

    @property
    def ended(self) -> bool:
        """Whether all handlers have ended, when somebody waits."""
        return not self._undone

    def _one_done(self) -> None:
        self._undone -= 1
        if not self._undone and self._on_done is not None:
            self._on_done()

    def cancel(self) -> None:
        """Cancel the handlers that run, and begin no others. Nobody waits for a failure any more."""
        self._cancelled = True
        for task in self._running or ():
            task.cancel()
        if self._first is not None:
            self._report(*self._first)
        left, self.left = self.left, 0
        for _ in range(left):
            self._one_done()

    def drop(self) -> None:
        """Report that the message will not be handled by those handlers that have not begun."""
        left, self.left = self.left, 0
        for binding in self._bindings[len(self._bindings) - left :]:
            if not self._waits or self._first is None:
                self._failed(binding, Invocation(*self._frame), DispatcherStopped(), counted=True)
            self._one_done()
