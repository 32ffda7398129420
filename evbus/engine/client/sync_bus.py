"""A bus for programs without an event loop: one thread with a loop, in each process that uses it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # it ends its pools after what is registered below
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from evbus.engine.client.handle import Handle
from evbus.engine.client.sync import SyncHandle
from evbus.engine.core.broker import HANDLING
from evbus.engine.core.lifecycle.running import hurry
from evbus.engine.kit.loop_thread import LoopThread
from evbus.errors import BusStopped, EvbusError

__all__ = ["SyncBus"]

_Result = TypeVar("_Result")


class _Running(NamedTuple):
    """A bus that runs, its thread, and what ends it."""

    handle: Handle
    thread: LoopThread
    stack: contextlib.AsyncExitStack

    async def end(self) -> None:
        """Stop the bus; cancelled, let it deliver no more, and record what is left."""
        ending = asyncio.ensure_future(self.stack.aclose())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            hurry(self.handle.hub)
            await ending
            raise


class SyncBus(SyncHandle):
    """A bus whose functions may be called from any thread of a program without an event loop.

    It starts when it is entered with ``with``, or with the first call, in whichever process that is: after a
    fork the child has a bus of its own, of the same profiles, options and listeners. It ends with ``with``,
    with :meth:`close`, or with the process, and delivers what is left.

    :param make: makes the hub.
    :param start: starts the bus of a hub, and stops it at the end.
    :ivar report: after the end: what could not be delivered
        (:class:`evbus.engine.core.lifecycle.bus.Report`).
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
        self._work: _Running | None = None
        #: The thread, from before the bus in it is started.
        self._thread: LoopThread | None = None
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

    def __enter__(self) -> Self:
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
        self._begin(again=True)

    def _begin(self, *, again: bool) -> None:
        """Start the bus, unless it runs.

        :param again: also after it was closed; else that may have happened while this waited for its turn.
        """
        self._refuse_here()
        with self._lock:
            if self._closed and not again:
                raise BusStopped
            self._closed = False
            if self._work is not None:
                return
            hub = self.hub
            thread = LoopThread("evbus")
            thread.start()
            stack = contextlib.AsyncExitStack()
            try:
                self._thread = thread
                handle = thread.do(lambda: stack.enter_async_context(self._start(hub)))
            except BaseException:
                self._thread = None
                thread.end()
                raise
            self._work = _Running(handle, thread, stack)
            _running.add(self)

    def close(self) -> None:
        """Take no new events, deliver what is there within ``drain_timeout``, and end the thread.

        Ctrl-C meanwhile lets it deliver no more; what is left is written to the dead store.

        :raises EvbusError: a listener of this bus closes it, which would wait for its own end.
        """
        self._refuse_here()
        if self._work is not None:
            self._refuse_in_listener(self._work.handle, "close()")
        with self._lock:
            self._closed = True
            work = self._work
            if work is None:
                return
            try:
                work.thread.do(work.end)
            finally:
                self.report = getattr(work.handle, "report", None)
                self._work = self._thread = None
                _running.discard(self)
                work.thread.end()

    def _refuse_here(self) -> None:
        thread = self._thread
        if thread is not None:
            thread.refuse_here()

    def _at_work(self) -> tuple[Handle, LoopThread]:
        work, thread = self._work, self._thread
        if work is None and thread is not None and thread.here:
            # A listener got something before the start was over, which waits for the others.
            return Handle(self.hub), thread
        # While what is there is handled, its listeners may still send.
        if self._closed and (work is None or HANDLING.get() is None):
            raise BusStopped
        while work is None:
            self._begin(again=False)
            work = self._work
        return work.handle, work.thread

    def _do(self, function: Callable[[Handle], Awaitable[_Result]]) -> _Result:
        try:
            return super()._do(function)
        except asyncio.CancelledError:
            if self._work is not None and not self._closed:
                raise
            # Its loop ended meanwhile.
            raise BusStopped from None

    def forked(self) -> Any:
        """Forget, in a child process, what runs in the parent; return that."""
        parents = (self._work, self._hub, self._thread)
        self._work = self._thread = None
        self._own()
        return parents

    # Listeners, which each process has

    def subscribe(self, event: Any, callback: Any, name: str = "", **options: Any) -> str:
        """Let a function or class listen to an event; see ``hub.event.init.subscribe``.

        It does not start the bus, and holds for processes that are forked later, too.
        """
        with self._resting() as resting:
            add = self.hub.event.init.subscribe if resting else super().subscribe
            number = str(add(event, callback, name=name, **options))
        self._wanted[number] = (event, callback, name, options)
        self._ids[number] = number
        return number

    def listen(self, *where: Any) -> list[str]:
        """Subscribe what modules declare with ``@event_listener``; see ``hub.event.init.listen``.

        It does not start the bus, and holds for processes that are forked later, too.
        """
        with self._resting() as resting:
            found = list((self.hub.event.init.listen if resting else super().listen)(*where))
        self._modules += where
        return found

    @contextlib.contextmanager
    def _resting(self) -> Iterator[bool]:
        """Yield whether the bus does not run; then it is not started meanwhile."""
        if self._work is not None or (self._thread is not None and self._thread.here):
            yield False
            return
        with self._lock:
            yield self._work is None

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


def _main_ended() -> None:
    """Close all: pools of threads end next, which plugins may need. Threads of the program may still send."""
    pools = getattr(concurrent.futures.thread, "_threads_queues", {})
    others = [
        thread
        for thread in threading.enumerate()
        if not (thread.daemon or thread is threading.current_thread() or thread in pools)
    ]
    if not others:
        _close_all()
    for each in list(_running):
        with contextlib.suppress(EvbusError):  # it takes longer, or somebody else has closed it
            each.settle(each.hub.evbus.init.settings().drain_timeout)


os.register_at_fork(after_in_child=_forked)
_at_main_end = getattr(threading, "_register_atexit", atexit.register)
_at_main_end(_main_ended)
# After that, and after all threads that the interpreter waits for.
atexit.register(_close_all)
