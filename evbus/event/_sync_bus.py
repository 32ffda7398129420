"""A bus for programs without an event loop: one thread with a loop, in each process that uses it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - it ends its pools after what is registered below
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from evbus._loop_thread import LoopThread
from evbus.errors import BusStopped
from evbus.evbus._broker import HANDLING

from ._handle import Handle
from ._sync import SyncHandle

__all__ = ["SyncBus"]

_Result = TypeVar("_Result")


class _Work(NamedTuple):
    """A bus that runs, its thread, and what ends it."""

    handle: Handle
    thread: LoopThread
    stack: contextlib.AsyncExitStack


class SyncBus(SyncHandle):
    """A bus whose functions may be called from any thread of a program without an event loop.

    It starts when it is entered with ``with``, or with the first call, in whichever process that is: after a
    fork the child has a bus of its own, of the same profiles, options and listeners. It ends with ``with``,
    with :meth:`close`, or with the process, and delivers what is left.

    :param make: makes the hub.
    :param start: starts the bus of a hub, and stops it at the end.
    :ivar report: after the end: what could not be delivered (:class:`evbus.evbus._bus.Report`).
    """

    def __init__(
        self, make: Callable[[], Any], start: Callable[[Any], contextlib.AbstractAsyncContextManager[Any]]
    ) -> None:
        self.report: Any = None
        self._make = make
        self._start = start
        self._closed = False
        self._wanted: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {}
        self._modules: list[Any] = []
        #: The ids of subscriptions in this process, by those that were returned for them.
        self._ids: dict[str, str] = {}
        self._work: _Work | None = None
        self._own()
        _known.add(self)

    def __repr__(self) -> str:
        state = "new" if self._work is None else self._work.handle.hub.evbus.ENGINE.state.value
        return f"<SyncBus {'closed' if self._closed and self._work is None else state}>"

    def _own(self) -> None:
        """Begin in this process: with a lock that nobody holds, and a hub that was never used."""
        self._lock = threading.RLock()
        self._hub: Any = None

    @property
    def hub(self) -> Any:
        """Its hub, where everything else is found; what has to be awaited goes through :meth:`run`."""
        hub = self._hub
        if hub is not None:
            # Without the lock, which is held while listeners that ask for it are waited for.
            return hub
        with self._lock:
            if self._hub is None:
                hub = self._make()
                hub.event.init.listen(*self._modules)
                for known, (event, callback, name, options) in self._wanted.items():
                    self._ids[known] = hub.event.init.subscribe(event, callback, name=name, **options)
                self._hub = hub
            return self._hub

    # Its life

    def __enter__(self) -> SyncBus:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the bus in this process, unless it runs; the first call of any other function does so, too.

        :raises ConfigError: a profile, an option or a plugin has to be mended.
        """
        with self._lock:
            self._closed = False
            if self._work is not None:
                return
            hub = self.hub
            thread = LoopThread("evbus")
            thread.start()
            stack = contextlib.AsyncExitStack()
            try:
                handle = thread.do(lambda: stack.enter_async_context(self._start(hub)))
            except BaseException:
                thread.end()
                raise
            self._work = _Work(handle, thread, stack)
            _running.add(self)

    def close(self) -> None:
        """Take no new events, deliver what is there within ``drain_timeout``, and end the thread."""
        with self._lock:
            self._closed = True
            work = self._work
            if work is None:
                return
            try:
                work.thread.do(work.stack.aclose)
            finally:
                self.report = getattr(work.handle, "report", None)
                self._work = None
                _running.discard(self)
                work.thread.end()

    def _at_work(self) -> tuple[Handle, LoopThread]:
        work = self._work
        # While what is there is handled, its listeners may still send.
        if self._closed and (work is None or HANDLING.get() is None):
            raise BusStopped
        while work is None:
            self.start()
            work = self._work
        return work.handle, work.thread

    def _do(self, function: Callable[[Handle], Awaitable[_Result]]) -> _Result:
        try:
            return super()._do(function)
        except asyncio.CancelledError:
            # Its loop ended meanwhile.
            raise BusStopped from None

    def forked(self) -> Any:
        """Forget, in a child process, what runs in the parent; return that."""
        parents = (self._work, self._hub)
        self._work = None
        self._own()
        return parents

    # Listeners, which each process has

    def subscribe(self, event: Any, callback: Any, name: str = "", **options: Any) -> str:
        """Let a function or class listen to an event; see ``hub.event.init.subscribe``.

        It does not start the bus, and holds for processes that are forked later, too.
        """
        if self._work is None:
            number = str(self.hub.event.init.subscribe(event, callback, name=name, **options))
        else:
            number = super().subscribe(event, callback, name, **options)
        self._wanted[number] = (event, callback, name, options)
        self._ids[number] = number
        return number

    def listen(self, *where: Any) -> list[str]:
        """Subscribe what modules declare with ``@event_listener``; see ``hub.event.init.listen``.

        It does not start the bus, and holds for processes that are forked later, too.
        """
        found = list(self.hub.event.init.listen(*where)) if self._work is None else super().listen(*where)
        self._modules += where
        return found

    def unsubscribe(self, id: str) -> bool:  # noqa: A002 - what it is
        """End a subscription; see ``hub.event.init.unsubscribe``."""
        self._wanted.pop(id, None)
        return super().unsubscribe(self._ids.pop(id, id))

    def snapshot(self) -> dict[str, Any]:
        """Return all counters; see ``hub.evbus.stats.snapshot``."""
        handle, _ = self._at_work()
        return handle.hub.evbus.stats.snapshot()  # type: ignore[no-any-return]


_known: weakref.WeakSet[SyncBus] = weakref.WeakSet()
#: Kept until they are closed, whoever has forgotten them.
_running: set[SyncBus] = set()
#: What belongs to the parent process. It is never collected here: the end of a loop would take its files off
#: the selector that the parent uses.
_parents: list[Any] = []


def _forked() -> None:
    _parents.append([each.forked() for each in list(_known)])
    _running.clear()


def _close_all() -> None:
    for each in list(_running):
        each.close()


os.register_at_fork(after_in_child=_forked)
# Before the pools of threads are closed, which plugins may need; atexit comes after that.
_at_exit = getattr(threading, "_register_atexit", atexit.register)
_at_exit(_close_all)
