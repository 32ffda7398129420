"""The two kinds of routers: of what goes to all handlers, and of what goes to exactly one."""

from __future__ import annotations

import logging
from typing import Any

from evbus.engine.handling.binding import Binding
from evbus.engine.handling.dispatch.core import Core, DispatcherState
from evbus.engine.handling.dispatch.publish import publisher
from evbus.engine.handling.dispatch.router import REMEMBERED, DispatchRouter
from evbus.engine.handling.within import Limit, within
from evbus.engine.kit.redact import one_line
from evbus.errors import DispatcherStopped, HandlerExists
from evbus.types import Envelope

__all__ = ["EventRouter", "RequestRouter"]

log = logging.getLogger("evbus.dispatch")


class EventRouter(DispatchRouter):
    """Events go to all of their handlers, those of a base class among them."""

    def __init__(self, core: Core, name: str) -> None:
        super().__init__(core, name)
        self.without_handler = 0
        self._told: set[str] = set()

    def bind(
        self,
        message: Any,
        handler: Any = None,
        argname: str | None = None,
        response_event: Any = None,
        *,
        publish_to: str | None = None,
        **initkwargs: Any,
    ) -> Binding:
        """Let ``handler`` handle an event; see :meth:`DispatchRouter.bind`.

        :param publish_to: put the event on the bus as well, with this profile; then there need be no handler.
        """
        if publish_to is None:
            return super().bind(message, handler, argname, response_event, **initkwargs)
        # First, as either both are bound or none.
        publishing = publisher(message, publish_to, self.core.publish)
        self.check_open(message, publishing.name)
        bound = None
        if handler is not None:
            bound = super().bind(message, handler, argname, response_event, **initkwargs)
        if not any(publishing.same(other) for other in self._bindings.get(message, ())):
            self.add(publishing)
        return bound or publishing

    def _check_room(self, binding: Binding, bound: list[Binding]) -> None:
        for other in bound:
            if other.same(binding):
                raise HandlerExists(
                    "it is bound to this event already, and would be called twice",
                    message=binding.message_name,
                    handler=binding.name,
                )

    def _select(self, kind: type | str) -> tuple[Binding, ...]:
        found: list[Binding] = []
        for binding in (binding for bound in self._by_kind(kind) for binding in bound):
            # An event and its base may both be published to one profile.
            if binding.handled_here or not any(binding.same(other) for other in found):
                found.append(binding)
        return tuple(found)

    def pass_on(self, event: Any, key: Any) -> None:
        """Hand an event over that a handler left behind; never waits.

        :raises DispatcherStopped: the dispatcher waits no longer for what handlers send.
        :raises EvbusError: an interceptor refuses it.
        """
        if self.core.state is DispatcherState.STOPPED:
            raise DispatcherStopped
        bindings = self.find(event)
        if not bindings:
            self.unhandled(event)
            return
        envelope = None if self.core.send is None else self.core.envelope(self.name_of(event), None)
        self.hand_over(bindings, event, key, envelope, None)

    def unhandled(self, message: Any) -> None:
        """Count an event that nobody handles, and say so once for each kind."""
        self.without_handler += 1
        name = self.name_of(message)
        if name not in self._told and len(self._told) < REMEMBERED:
            self._told.add(name)
            log.info("%s: there is no handler for %s", self.name, one_line(name))

    def snapshot(self) -> dict[str, int]:
        """Return the router's counters."""
        return {**super().snapshot(), "without_handler": self.without_handler}


class RequestRouter(DispatchRouter):
    """A command or a query goes to exactly one handler: that of its own class, or of the nearest base."""

    async def receive(
        self, binding: Binding, message: Any, key: Any, timeout: float | None, envelope: Envelope
    ) -> Any:
        """Have ``binding`` handle what came from outside, and return what it returns.

        The interceptors' ``send`` has run where it was sent. Their ``handle`` runs here, when it is the
        message's turn, around ``binding`` and with ``envelope``; what they hand on is then that of
        :data:`~evbus.engine.handling.frame.CURRENT`.

        :raises DispatchTimeout: it was not handled within ``timeout`` seconds.
        :raises DispatcherStopped: the dispatcher takes nothing any more.
        """
        self.core.refuse_unless_running()
        limit = None if timeout is None else Limit.of(timeout)
        handling = self._wait((binding,), message, key, None, envelope, limit)
        if limit is None:
            return await handling
        return await within(handling, limit, binding.message_name)

    def _check_room(self, binding: Binding, bound: list[Binding]) -> None:
        if bound:
            raise HandlerExists(
                f"there is one already, {bound[0].name}, and a message of {self.name} has exactly one",
                message=binding.message_name,
                handler=binding.name,
            )

    def _select(self, kind: type | str) -> tuple[Binding, ...]:
        return tuple(binding for bound in self._by_kind(kind)[:1] for binding in bound)
