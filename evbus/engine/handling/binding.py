"""Bindings: a message, its handler, and how the one is called with the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.frame import Invocation
from evbus.engine.handling.handler import AbstractHandler
from evbus.engine.handling.providers import Injector, Provider
from evbus.engine.handling.signature import check_response, make, read, sources

__all__ = ["Binding", "HandlerBinding"]

log = logging.getLogger("evbus.dispatch")

Call = Callable[[Any], Coroutine[Any, Any, Any]]


class Binding:
    """A message, and a function that is awaited with it.

    :ivar handler: what was bound, and ``given`` with which keywords.
    :ivar call: awaits the handler for one message.
    :ivar name: the handler's, and ``message_name`` the message's, for sentences.
    :ivar leaves: it may leave events behind: see :meth:`left`.
    :ivar alone: tells apart who keep events in themselves, and so get one message at a time; None for others.
    :ivar handled_here: it does not only pass the message to the bus, or to another process.
    :ivar forwarded: it passes it to another process, and the interceptors run there around the handler.
    """

    __slots__ = (
        "alone",
        "call",
        "forwarded",
        "given",
        "handled_here",
        "handler",
        "leaves",
        "message",
        "message_name",
        "name",
    )

    def __init__(self, message: Any, handler: Any, call: Call, name: str) -> None:
        self.message = message
        self.handler = handler
        self.given: dict[str, Any] = {}
        self.call = call
        self.name = name
        self.message_name = message_name(message)
        self.leaves = False
        self.alone: int | None = None
        self.handled_here = True
        self.forwarded = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.message_name} -> {self.name}>"

    def complete(self) -> None:
        """Make what the handler takes, as far as nothing has to be awaited for it."""

    async def prepare(self) -> None:
        """Make the rest of it."""

    async def left(self, result: Any, frame: Invocation) -> list[Any]:
        """Return the events to send after a success."""
        return frame.events or []

    async def discard(self) -> None:
        """Forget the events of a handler that has failed."""

    def same(self, other: Binding) -> bool:
        """Return whether both would do the same."""
        return (
            self.handler == other.handler
            and self.given.keys() == other.given.keys()
            and all(self.given[name] is other.given[name] for name in self.given)
        )


class HandlerBinding(Binding):
    """A handler as it was written: a function, an object or a class, and what it takes beside the message."""

    __slots__ = ("_hub", "_injector", "_made", "_making", "_owner", "_plan", "response_event")

    def __init__(
        self,
        message: Any,
        handler: Any,
        *,
        injector: Injector,
        the_hub: Any = None,
        argname: str | None = None,
        response_event: Any = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """For the parameters and errors see :meth:`~evbus.api.EventRouter.bind`."""
        plan = read(
            handler,
            message=message,
            argname=argname,
            given=given,
            provided=injector.find,
            hub_known=the_hub is not None,
        )
        if response_event is not None:
            check_response(plan, response_event)
        super().__init__(message, handler, self._first, plan.name)
        self.given = dict(given or {})
        self.response_event = response_event
        kind = handler if plan.init is not None else type(handler)
        if plan.collects and getattr(kind, "dump_events", None) is not AbstractHandler.dump_events:
            # An object may be bound several times; of a class each binding makes an object of its own.
            self.alone = id(handler if plan.init is None else self)
        self.leaves = self.alone is not None or response_event is not None
        self._injector = injector
        self._hub = the_hub
        self._plan = plan
        self._made = False
        self._making: asyncio.Lock | None = None
        self._owner: Any = None
        for value in self.given.values():
            if isinstance(value, Provider):
                injector.declare(value)
        if not plan.pending:
            values = sources(plan, injector.find, the_hub)
            if not _providers(values):
                self._make(values)

    def complete(self) -> None:
        """Make what the handler takes, or leave it to :meth:`prepare` where something has to be awaited.

        :raises HandlerSignatureError: something is provided by nobody.
        """
        values = sources(self._plan, self._injector.find, self._hub)
        if self._made and not _providers(values):
            return
        self.call, self._made, self._making = self._first, False, asyncio.Lock()
        filled = self._injector.fill_now(values)
        if filled is not None:
            self._make(filled)

    async def prepare(self) -> None:
        """Make what the handler takes, unless that was done."""
        if self._made or self._making is None:
            return
        async with self._making:
            # It may have been made while this waited for the lock.
            if not self._made:
                values = sources(self._plan, self._injector.find, self._hub)
                self._make([await self._injector.fill(part) for part in values])

    async def _first(self, message: Any) -> Any:
        await self.prepare()
        return await self.call(message)

    def _make(self, values: Sequence[dict[str, Any]]) -> None:
        self.call, self._owner = make(self._plan, values)
        self._made = True

    async def left(self, result: Any, frame: Invocation) -> list[Any]:
        """Return the events to send after a success: those added, and a result that is a response event."""
        own = await self._dump() if self.alone is not None else ()
        left = [*(frame.events or ()), *own]
        if self.response_event is not None and isinstance(result, self.response_event):
            left.append(result)
        return left

    async def discard(self) -> None:
        """Forget the events that a handler which failed keeps in itself."""
        if self.alone is None or not self._made:
            return
        try:
            await self._dump()
        except Exception as exc:
            log.error("the events of %s cannot be forgotten: %s", self.name, type(exc).__name__)

    async def _dump(self) -> list[Any]:
        owner = self.handler if self._owner is None else self._owner
        return await owner.dump_events() or []


def _providers(values: Sequence[dict[str, Any]]) -> list[Provider]:
    return [value for part in values for value in part.values() if isinstance(value, Provider)]
