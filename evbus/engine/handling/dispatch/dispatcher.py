"""The dispatcher: three routers, started and stopped together."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from typing import Any

from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.dispatch.core import HOLDER, Core, DispatcherState
from evbus.engine.handling.dispatch.ending import DispatchReport, Ending
from evbus.engine.handling.dispatch.kinds import EventRouter, RequestRouter
from evbus.engine.handling.dispatch.registry import REMEMBERED
from evbus.engine.handling.dispatch.router import DispatchRouter
from evbus.engine.handling.frame import CURRENT
from evbus.errors import (
    DispatchError,
    EvbusError,
    HandlerDoesNotExist,
    HandlerError,
    HandlerExists,
    RouterFrozen,
    nearest,
)

__all__ = ["DispatchReport", "Dispatcher"]

log = logging.getLogger("evbus.dispatch")


class _Started:
    """The result of :meth:`Dispatcher.start`: it may be awaited, and need not be."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __await__(self) -> Generator[Any, Any, None]:
        return self._dispatcher.ready().__await__()


class Dispatcher(Ending):
    """Events, commands and queries in one process.

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
        super().__init__(Core(the_hub))
        self.core.emit = self._emit
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

    def snapshot(self) -> dict[str, Any]:
        """Return the state, and the counters of each router."""
        return {
            "state": self.core.state.value,
            **{router.name: router.snapshot() for router in self.routers},
        }
