"""The dispatcher: three routers, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.dispatch.core import HOLDER, Core, DispatcherState
from evbus.engine.handling.dispatch.kinds import EventRouter, RequestRouter
from evbus.engine.handling.dispatch.router import REMEMBERED, DispatchRouter
from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.engine.handling.key_lock import held
from evbus.errors import (
    DispatchError,
    DispatcherStopped,
    EvbusError,
    HandlerDoesNotExist,
    HandlerError,
    HandlerExists,
    RouterFrozen,
    nearest,
)

__all__ = ["DispatchReport", "Dispatcher"]

log = logging.getLogger("evbus.dispatch")

log = logging.getLogger("evbus.dispatch")

#: Seconds that cancelled handlers have to end.
GRACE = 5.0


class DispatchReport(NamedTuple):
    """A report of a stop: by message, how many were not handled, and the seconds that it took."""

    unhandled: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        """Say it in a sentence."""
        if not self.unhandled:
            return f"every message was handled ({self.seconds:.1f} s)"
        said = ", ".join(f"{count} of {name}" for name, count in sorted(self.unhandled.items()))
        return f"not handled when the dispatcher was stopped: {said} ({self.seconds:.1f} s)"


class _Started:
    """The result of :meth:`Dispatcher.start`: it may be awaited, and need not be."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __await__(self) -> Generator[Any, Any, None]:
        return self._dispatcher.ready().__await__()


class _Signals:
    """Has ``on_signal`` called in the loop for each signal, and then puts the handlers back that were there.

    It does not take them from the loop (``loop.add_signal_handler``), which cannot tell what was set before.
    """

    def __init__(self, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self._waiting = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise DispatchError(
                "only the main thread can wait for signals; await wait_for_shutdown there, or have another "
                "thread stop this loop's dispatcher with asyncio.run_coroutine_threadsafe(...stop(), loop)"
            )
        self._waiting += 1
        if self._waiting > 1:
            return
        loop = asyncio.get_running_loop()

        def tell(_number: int, _frame: Any) -> None:
            loop.call_soon_threadsafe(self._on_signal)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, tell)

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting -= 1
        if not self._waiting:
            for number, handler in self._before.items():
                # None is what was not set by Python, and that cannot be set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before.clear()


class Dispatcher:
    """Events, commands and queries in one process.

    :ivar intakes: tasks that take messages from outside, cancelled before the rest is handled.
    :ivar report: of the last stop.
    :param events_router_cls: a class to take the place of :class:`EventRouter`; None, the default, is that.
    :param commands_router_cls: a class to take the place of :class:`RequestRouter`, for commands.
    :param queries_router_cls: the same for queries.
    :param engine_workers: how many handlers each router runs at once; 0 for any number.
    :param backlog: messages that nobody waits for and that may wait for a handler, in each router; a sender
        waits while there are more.
    :param the_hub: what handlers with a parameter ``hub`` get.
    """

    def __init__(
        self,
        events_router_cls: type[EventRouter] | None = None,
        commands_router_cls: type[RequestRouter] | None = None,
        queries_router_cls: type[RequestRouter] | None = None,
        engine_workers: int = 100,
        backlog: int = 10_000,
        *,
        the_hub: Any = None,
    ) -> None:
        self.core = Core(the_hub)
        self.core.on_free = self._freed
        self.core.emit = self._emit
        self.intakes: set[asyncio.Task[Any]] = set()
        self.report = DispatchReport({}, 0.0)
        self._idle: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        # What handlers that stop the dispatcher are handling: nobody can wait for these.
        self._stopping: list[Invocation] = []
        self._cut_short = False
        self._signals = _Signals(self._on_signal)
        self._awaiting: set[asyncio.Future[None]] = set()
        self._events = (events_router_cls or EventRouter)(self.core, "events")
        self._commands = (commands_router_cls or RequestRouter)(self.core, "commands")
        self._queries = (queries_router_cls or RequestRouter)(self.core, "queries")
        self.bound(engine_workers, backlog)

    def __repr__(self) -> str:
        return f"<Dispatcher {self.core.state.value} {self._events!r} {self._commands!r} {self._queries!r}>"

    @property
    def running(self) -> bool:
        """Whether it takes messages."""
        return self.core.state is DispatcherState.RUNNING

    @property
    def events(self) -> EventRouter:
        """The router of events."""
        return self._events

    @property
    def commands(self) -> RequestRouter:
        """The router of commands."""
        return self._commands

    @property
    def queries(self) -> RequestRouter:
        """The router of queries."""
        return self._queries

    @property
    def routers(self) -> tuple[DispatchRouter, ...]:
        """All three."""
        return (self._events, self._commands, self._queries)

    def use(
        self,
        *,
        events_router_cls: type[EventRouter] | None = None,
        commands_router_cls: type[RequestRouter] | None = None,
        queries_router_cls: type[RequestRouter] | None = None,
    ) -> None:
        """Put other routers in place of those that are there, before anything is bound.

        :raises HandlerExists: a router that is to be replaced has handlers, which would be lost.
        :raises RouterFrozen: the dispatcher is started.
        :raises HandlerError: what is given is no such class.
        """
        given = (
            (events_router_cls, self._events, EventRouter),
            (commands_router_cls, self._commands, RequestRouter),
            (queries_router_cls, self._queries, RequestRouter),
        )
        for cls, router, kind in given:
            if cls is not None:
                self._check_new(cls, router, kind)
        workers, backlog = self._events.pool.limit, self._events.pool.backlog
        if events_router_cls is not None:
            self._events = events_router_cls(self.core, "events")
        if commands_router_cls is not None:
            self._commands = commands_router_cls(self.core, "commands")
        if queries_router_cls is not None:
            self._queries = queries_router_cls(self.core, "queries")
        self.core.routes.clear()
        self.bound(workers, backlog)

    def _check_new(self, cls: Any, router: DispatchRouter, kind: type[DispatchRouter]) -> None:
        if not isinstance(cls, type) or not issubclass(cls, kind):
            raise HandlerError(
                f"the router of {router.name} is a subclass of {kind.__name__}, and not {cls!r}"
            )
        if self.core.frozen:
            raise RouterFrozen(
                "the dispatcher is started and keeps its routers; replace them before the start"
            )
        if router.bindings():
            raise HandlerExists(
                f"the router of {router.name} has handlers already, which would be lost; replace it first"
            )

    def bound(self, engine_workers: int, backlog: int) -> None:
        """Set how many handlers each router runs at once, and how many messages may wait; see above."""
        for router in self.routers:
            router.pool.bound(engine_workers, backlog)

    # Starting

    def start(self) -> _Started:
        """Freeze the routers and take messages.

        What the handlers take is made now, but for what has to be awaited: that is made with the first
        message, or when what this returns is awaited.

        :raises HandlerError: something that a handler takes by its type is provided by nobody.
        """
        if self.core.state in (DispatcherState.RUNNING, DispatcherState.STOPPING):
            raise DispatchError("the dispatcher is started already; stop it before it is started again")
        for router in self.routers:
            for binding in router.bindings():
                binding.complete()
        self.core.injector.hold(HOLDER)
        self.core.frozen = True
        self.core.undelivered.clear()
        self.core.state = DispatcherState.RUNNING
        self._cut_short = False
        return _Started(self)

    async def ready(self) -> None:
        """Make what handlers take and what has to be awaited."""
        for router in self.routers:
            for binding in router.bindings():
                await binding.prepare()

    # Handling

    async def handle(
        self,
        message: Any,
        key: Any = None,
        wait_for_response: bool = False,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Hand a message to the router that has handlers for it; see ``hub.dispatch.init.handle``."""
        kind = message if isinstance(message, (str, type)) else type(message)
        router = self.core.routes.get(kind) or self._route(message, kind)
        return await router.handle(message, key, wait_for_response, timeout, headers)

    def _route(self, message: Any, kind: Any) -> DispatchRouter:
        """Return the router with the most specific handler."""
        kinds: list[Any] = [kind, str, object] if isinstance(kind, str) else list(kind.__mro__)
        found = [(router, router.find(message)) for router in self.routers]
        ranked = [(kinds.index(bindings[0].message), router) for router, bindings in found if bindings]
        if not ranked:
            # Handlers in files are bound by the start.
            if self.core.state is not DispatcherState.RUNNING:
                self.core.refuse(CURRENT.get())
            raise self._missing(kind)
        best = min(rank for rank, _ in ranked)
        chosen = [router for rank, router in ranked if rank == best]
        if len(chosen) > 1:
            names = " and in ".join(router.name for router in chosen)
            raise DispatchError(
                f"{message_name(kind)} is bound in {names}; say which is meant, "
                f"as by hub.dispatch.{chosen[0].name}.handle"
            )
        if len(self.core.routes) >= REMEMBERED:
            self.core.routes.clear()
        self.core.routes[kind] = chosen[0]
        return chosen[0]

    def _missing(self, kind: Any) -> HandlerDoesNotExist:
        known = [binding.message_name for router in self.routers for binding in router.bindings()]
        name = message_name(kind)
        return HandlerDoesNotExist(f"there is no handler for {name}{nearest(name, known)}")

    def _emit(self, events: list[Any], key: Any) -> None:
        """Send the events that a handler left behind; that one is refused does not make the handler fail."""
        for event in events:
            try:
                self._events.pass_on(event, key)
            except EvbusError as exc:
                log.error("events: an event that a handler sent is not handled: %s", exc)
            except Exception:
                log.exception("events: an event that a handler sent is not handled")

    # Stopping: what is there is handled, and the rest is given up.

    async def stop(self, timeout: float = 30.0) -> DispatchReport:
        """Take no new messages, handle those that are there, and close what was made for the handlers.

        What is not handled after ``timeout`` seconds is cancelled or given up, and reported. Handlers may go
        on sending messages until then. Called by a handler, it waits for all but that one. Cancelled, it
        gives up at once.
        """
        frame = CURRENT.get()
        if frame is None:
            return await self._stop(timeout)
        # Others may need the slot to end.
        root = frame.above or frame
        root.give_way()
        self._stopping.append(frame)
        self._freed()
        try:
            return await self._stop(timeout)
        finally:
            self._stopping.remove(frame)
            root.retake()

    async def _stop(self, timeout: float) -> DispatchReport:
        core = self.core
        if self._ended is not None:
            await asyncio.shield(self._ended)
            return self.report
        if core.state is not DispatcherState.RUNNING:
            await core.injector.release(HOLDER)
            return self.report
        began = time.monotonic()
        ended = self._ended = asyncio.get_running_loop().create_future()
        self._tell_awaiting()
        try:
            await self._end(timeout)
        finally:
            self.report = DispatchReport(dict(core.undelivered), time.monotonic() - began)
            if self.report.unhandled:
                log.error("%s", self.report)
            self._ended = None
            ended.set_result(None)
        return self.report

    async def _end(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        try:
            await self._take_nothing_more(until)
            self.core.state = DispatcherState.STOPPING
            await self._wait(set(), until)
        finally:
            self.core.state = DispatcherState.STOPPED
            await self._give_up()
            await self.core.injector.release(HOLDER)

    async def _take_nothing_more(self, until: float) -> None:
        """End the intakes; each waits for what it took to be handled, unless it is cancelled once more."""
        tasks = self.intakes - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        try:
            while tasks and not self._cut_short and time.monotonic() < until:
                tasks -= await self._wait(tasks, until)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=GRACE)

    async def _wait(self, tasks: set[asyncio.Task[Any]], until: float) -> set[asyncio.Future[Any]]:
        """Wait for the first of some tasks, without any until all is idle, or until the stop is cut short."""
        if self._cut_short or (not tasks and self._is_idle()):
            return set()
        self._idle = asyncio.get_running_loop().create_future()
        try:
            done: set[asyncio.Future[Any]]
            done, _ = await asyncio.wait(
                {*tasks, self._idle},
                timeout=max(until - time.monotonic(), 0),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._idle = None
        return done

    def _is_idle(self) -> bool:
        own = {id(hold) for frame in self._stopping for hold in held(frame.holds)}
        alone = self.core.alone.values()
        return all(router.idle(own) for router in self.routers) and all(
            id(lock.hold) in own for lock in alone
        )

    def _freed(self) -> None:
        if self._idle is not None and not self._idle.done() and self._is_idle():
            self._idle.set_result(None)

    async def _give_up(self) -> None:
        """Drop what waits, if only for a handler that stops the dispatcher, and cancel what runs."""
        for router in self.routers:
            router.drop()
        for lock in list(self.core.alone.values()):
            lock.drop(DispatcherStopped)
        if self._is_idle():
            return
        spared = {asyncio.current_task()}
        for frame in self._stopping:
            spared |= {frame.task, (frame.above or frame).task}
        await asyncio.gather(*(router.cancel(GRACE, spared) for router in self.routers))
        left = sum(router.pool.active for router in self.routers)
        if left:
            log.error(
                "handlers that still run, as they cannot be cancelled or somebody awaits them: %d", left
            )

    def hurry(self) -> None:
        """Let a stop that is under way wait no longer."""
        self._cut_short = True
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def wait_for_shutdown(self, timeout: float = 30.0) -> DispatchReport:
        """Wait for SIGINT or SIGTERM, or for somebody else to stop the dispatcher; then :meth:`stop`.

        A second signal waits for nothing more.

        :raises DispatchError: this is not the main thread, which alone gets signals.
        """
        if self.core.state in (DispatcherState.NEW, DispatcherState.STOPPED):
            self.core.refuse(None)
        with self._signals:
            if self._ended is None:
                await self._signalled()
            return await self.stop(timeout)

    async def _signalled(self) -> None:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaiting.add(told)
        try:
            await told
        finally:
            self._awaiting.discard(told)

    def _tell_awaiting(self) -> bool:
        """Tell those who wait for a signal; return whether there was one who did not know."""
        told = [one for one in self._awaiting if not one.done()]
        for one in told:
            one.set_result(None)
        return bool(told)

    def _on_signal(self) -> None:
        if not self._tell_awaiting():
            self.hurry()

    def snapshot(self) -> dict[str, Any]:
        """Return the state, and the counters of each router."""
        return {
            "state": self.core.state.value,
            **{router.name: router.snapshot() for router in self.routers},
        }
