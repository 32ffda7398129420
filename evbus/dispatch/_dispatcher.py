"""The dispatcher: three routers, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from evbus.errors import (
    DispatchError,
    DispatcherStopped,
    EvbusError,
    HandlerDoesNotExist,
    HandlerExists,
    nearest,
)

from ._annotations import message_name
from ._core import Core, State
from ._frame import CURRENT
from ._kinds import EventRouter, RequestRouter
from ._registry import REMEMBERED
from ._router import Router

__all__ = ["Dispatcher", "Report"]

log = logging.getLogger("evbus.dispatch")

#: Seconds that cancelled handlers have to end.
GRACE = 5.0


class Report(NamedTuple):
    """What a stop left behind: by message, how many were not handled, and the seconds that it took."""

    unhandled: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        """Say it in a sentence."""
        if not self.unhandled:
            return f"every message was handled ({self.seconds:.1f} s)"
        said = ", ".join(f"{count} of {name}" for name, count in sorted(self.unhandled.items()))
        return f"not handled when the dispatcher was stopped: {said} ({self.seconds:.1f} s)"


class _Started:
    """What :meth:`Dispatcher.start` returns: it may be awaited, and need not be."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __await__(self) -> Generator[Any, Any, None]:
        return self._dispatcher.ready().__await__()


class Dispatcher:
    """Events, commands and queries in one process.

    :param events_router_cls: a class to take the place of :class:`EventRouter`.
    :param commands_router_cls: a class to take the place of :class:`RequestRouter`, for commands.
    :param queries_router_cls: the same for queries.
    :param engine_workers: how many handlers each router runs at once; 0 for any number.
    :param backlog: messages that nobody waits for and that may wait for a handler, in each router; a sender
        waits while there are more.
    :param the_hub: what handlers with a parameter ``hub`` get.
    """

    def __init__(
        self,
        events_router_cls: type[EventRouter] = EventRouter,
        commands_router_cls: type[RequestRouter] = RequestRouter,
        queries_router_cls: type[RequestRouter] = RequestRouter,
        engine_workers: int = 100,
        backlog: int = 10_000,
        *,
        the_hub: Any = None,
    ) -> None:
        self.core = Core(the_hub)
        self.core.emit = self._emit
        self.core.on_free = self._freed
        self._events = events_router_cls(self.core, "events")
        self._commands = commands_router_cls(self.core, "commands")
        self._queries = queries_router_cls(self.core, "queries")
        self.bound(engine_workers, backlog)
        #: Tasks that take messages from outside, cancelled before the rest is handled.
        self.intakes: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.Future[None] | None = None
        self._own: Router | None = None
        self._ended: asyncio.Future[None] | None = None
        self._shutdown: asyncio.Future[None] | None = None
        self._hurry = False
        self.report = Report({}, 0.0)

    def __repr__(self) -> str:
        return f"<Dispatcher {self.core.state.value} {self._events!r} {self._commands!r} {self._queries!r}>"

    @property
    def running(self) -> bool:
        """Whether it takes messages."""
        return self.core.state is State.RUNNING

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
    def routers(self) -> tuple[Router, ...]:
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
        """
        given = (events_router_cls, commands_router_cls, queries_router_cls)
        for cls, router in zip(given, self.routers):  # noqa: B905 - one each
            if cls is not None and router.bindings():
                raise HandlerExists(
                    f"the router of {router.name} has handlers already, which would be lost; replace it first"
                )
        workers, backlog = self._events.slots.limit, self._events.slots.backlog
        if events_router_cls is not None:
            self._events = events_router_cls(self.core, "events")
        if commands_router_cls is not None:
            self._commands = commands_router_cls(self.core, "commands")
        if queries_router_cls is not None:
            self._queries = queries_router_cls(self.core, "queries")
        self.core.routes.clear()
        self.bound(workers, backlog)

    def bound(self, engine_workers: int, backlog: int) -> None:
        """Set how many handlers each router runs at once, and how many messages may wait; see above."""
        for router in self.routers:
            router.slots.bound(engine_workers, backlog)

    # Starting

    def start(self) -> _Started:
        """Freeze the routers and take messages.

        What the handlers take is made now, but for what has to be awaited: that is made with the first
        message, or when what this returns is awaited.

        :raises HandlerError: something that a handler takes by its type is provided by nobody.
        """
        if self.core.state in (State.RUNNING, State.STOPPING):
            raise DispatchError("the dispatcher is started already")
        for router in self.routers:
            for binding in router.bindings():
                binding.complete()
        self.core.frozen = True
        self.core.undelivered.clear()
        self.core.state = State.RUNNING
        self._hurry = False
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

    def _route(self, message: Any, kind: Any) -> Router:
        """Return the router with the most specific handler."""
        kinds: list[Any] = [kind, str, object] if isinstance(kind, str) else list(kind.__mro__)
        found = [(router, router.find(message)) for router in self.routers]
        ranked = [(kinds.index(bindings[0].message), router) for router, bindings in found if bindings]
        if not ranked:
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

    # Stopping

    async def stop(self, timeout: float = 30.0) -> Report:
        """Take no new messages, handle those that are there, and close what was made for the handlers.

        What is not handled after ``timeout`` seconds is cancelled or given up, and reported. Handlers may go
        on sending messages until then. Called by a handler, it waits for all but that one.
        """
        core = self.core
        if self._ended is not None:
            await asyncio.shield(self._ended)
        if core.state is not State.RUNNING:
            core.state = State.STOPPED
            return self.report
        began = time.monotonic()
        self._ended = asyncio.get_running_loop().create_future()
        if self._shutdown is not None and not self._shutdown.done():
            self._shutdown.set_result(None)
        try:
            await self._take_nothing_more()
            core.state = State.STOPPING
            await self._drain(timeout - (time.monotonic() - began))
            await core.injector.aclose()
        finally:
            self.report = Report(dict(core.undelivered), time.monotonic() - began)
            if self.report.unhandled:
                log.error("%s", self.report)
            core.state = State.STOPPED
            self._ended.set_result(None)
            self._ended = None
        return self.report

    async def _take_nothing_more(self) -> None:
        """End the intakes; each waits for what it took to be handled."""
        current = asyncio.current_task()
        tasks = [task for task in self.intakes if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _drain(self, timeout: float) -> None:
        frame = CURRENT.get()
        own = (frame.above or frame).slots if frame is not None else None
        self._own = next((router for router in self.routers if router.slots is own), None)
        try:
            if not self._quiet() and not self._hurry:
                self._idle = asyncio.get_running_loop().create_future()
                await asyncio.wait({self._idle}, timeout=max(timeout, 0))
        finally:
            self._idle = None
            if not self._quiet():
                await self._give_up()

    def _quiet(self) -> bool:
        return all(router.idle(1 if router is self._own else 0) for router in self.routers)

    def _freed(self) -> None:
        if self._idle is not None and not self._idle.done() and self._quiet():
            self._idle.set_result(None)

    async def _give_up(self) -> None:
        for router in self.routers:
            router.drop(DispatcherStopped())
        await asyncio.gather(*(router.cancel(GRACE) for router in self.routers))
        left = sum(router.slots.active for router in self.routers) - (1 if self._own is not None else 0)
        if left:
            log.error("%d handlers still run in the tasks of those who wait for them", left)

    def hurry(self) -> None:
        """Let a stop that is under way wait no longer."""
        self._hurry = True
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def wait_for_shutdown(self, timeout: float = 30.0) -> Report:
        """Wait for SIGINT or SIGTERM, or for somebody else to stop the dispatcher; then :meth:`stop`.

        A second signal waits for nothing more. Only the main thread can wait for signals.
        """
        if self.core.state in (State.NEW, State.STOPPED):
            self.core.refuse(None)
        loop = asyncio.get_running_loop()
        shutdown = self._shutdown = self._shutdown or loop.create_future()

        def on_signal() -> None:
            if shutdown.done():
                self.hurry()
            else:
                shutdown.set_result(None)

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            loop.add_signal_handler(number, on_signal)
        try:
            await asyncio.shield(shutdown)
            return await self.stop(timeout)
        finally:
            self._shutdown = None
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                if handler is not None:
                    signal.signal(number, handler)

    def snapshot(self) -> dict[str, Any]:
        """Return the state, and the counters of each router."""
        return {
            "state": self.core.state.value,
            **{router.name: router.snapshot() for router in self.routers},
        }
