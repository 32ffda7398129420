"""The handle of a bus in a program: it puts, sends, listens, and waits until all is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from evbus.engine.core.broker import put_arguments
from evbus.engine.handling.events.busy import busy
from evbus.engine.handling.events.declare import EventListener
from evbus.errors import EvbusError, SettleTimeout

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Concatenate, TypeAlias, Unpack

    from evbus.engine.handling.events.declare import SubscribeOptions

__all__ = ["Handle"]

_Event = TypeVar("_Event")

if TYPE_CHECKING:
    #: What can listen to events of a class: ``(event, ...)``, ``(hub, event, ...)``, or a class with ``on``.
    Listens: TypeAlias = (
        Callable[Concatenate[_Event, ...], Any]
        | Callable[Concatenate[Any, _Event, ...], Any]
        | EventListener[_Event]
        | type[EventListener[_Event]]
    )

#: Turns of the loop in a row in which nothing is to be done before a bus counts as settled.
TURNS = 3
#: Seconds between two looks at one that has something to do.
GLANCE = 0.002


class Handle:
    """A bus, to put events on and to listen to.

    :ivar hub: its hub, where everything else is found.
    """

    def __init__(self, the_hub: Any) -> None:
        self.hub = the_hub
        self._put = the_hub.evbus.broker.put
        self._put_nowait = the_hub.evbus.broker.put_nowait
        self._event = the_hub.event.init

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hub.evbus.ENGINE.state.value}>"

    @overload
    async def put(
        self,
        body: Any,
        /,
        *,
        routing_key: str | None = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    @overload
    async def put(
        self,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    async def put(
        self,
        *args: Any,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put an event on the bus, waiting while it is full; see ``hub.evbus.broker.put``.

        ``put(body)`` and ``put(routing_key, body, profile, headers)``, as on the hub.
        """
        if args:
            routing_key, body, profile, headers = put_arguments(args, routing_key, body, profile, headers)
        await self._put(routing_key=routing_key, body=body, profile=profile, headers=headers)

    @overload
    def put_nowait(
        self,
        body: Any,
        /,
        *,
        routing_key: str | None = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    @overload
    def put_nowait(
        self,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    def put_nowait(
        self,
        *args: Any,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put an event on the bus from any thread, never waiting; see ``hub.evbus.broker.put_nowait``."""
        if args:
            routing_key, body, profile, headers = put_arguments(args, routing_key, body, profile, headers)
        self._put_nowait(routing_key=routing_key, body=body, profile=profile, headers=headers)

    async def send(
        self, event: object, headers: Mapping[str, str] | None = None, profile: str = "default"
    ) -> None:
        """Send a typed event, waiting while the bus is full; see ``hub.event.init.send``."""
        await self._event.send(event, headers=headers, profile=profile)

    def send_nowait(
        self, event: object, headers: Mapping[str, str] | None = None, profile: str = "default"
    ) -> None:
        """Send a typed event from any thread, never waiting; see ``hub.event.init.send_nowait``."""
        self._event.send_nowait(event, headers=headers, profile=profile)

    @overload
    def subscribe(
        self,
        event: type[_Event],
        callback: Listens[_Event],
        name: str = "",
        **options: Unpack[SubscribeOptions],
    ) -> str: ...

    @overload
    def subscribe(
        self,
        event: str,
        callback: Callable[..., Any] | EventListener[Any] | type[EventListener[Any]],
        name: str = "",
        **options: Unpack[SubscribeOptions],
    ) -> str: ...

    def subscribe(self, event: Any, callback: Any, name: str = "", **options: Any) -> str:
        """Let a function or class listen to an event; see ``hub.event.init.subscribe``."""
        return cast(str, self._event.subscribe(event, callback, name=name, **options))

    def listen(self, *where: ModuleType | Callable[..., Any]) -> list[str]:
        """Subscribe what modules declare with ``@event_listener``; see ``hub.event.init.listen``."""
        return list(self._event.listen(*where))

    async def unsubscribe(self, id: str) -> bool:  # noqa: A002 - what it is
        """End a subscription; see ``hub.event.init.unsubscribe``."""
        return bool(await self._event.unsubscribe(id))

    async def ready(self) -> None:
        """Return when brokers have confirmed what was subscribed, so that it gets what others send, too.

        :raises EvbusError: what a listener failed with at first.
        """
        await self._event.ready()

    async def settle(self, timeout: float | None = None) -> None:
        """Return when everything that was put is delivered, and every listener here is done with it.

        What has been delivered to a broker, and has not come from there, is not waited for.

        :param timeout: seconds; default: as long as it takes.
        :raises SettleTimeout: it took longer; tells what is left.
        :raises EvbusError: a listener of this bus waits, which would be for its own end.
        """
        left = await self._settled(timeout)
        if left:
            raise SettleTimeout(timeout or 0.0, left)

    async def _settled(self, seconds: float | None) -> list[str]:
        """Wait until nothing is to be done, at most for some seconds; return what is left."""
        for entry in self.hub.event.SUBSCRIPTIONS:
            if entry.listening.within():
                raise EvbusError(f"listener {entry.id} waits for its own end: settle() is for the others")
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        turns = 0
        while turns < TURNS:
            left = self._busy()
            if left and deadline is not None and loop.time() >= deadline:
                return left
            turns = 0 if left else turns + 1
            await asyncio.sleep(GLANCE if left else 0)
        return []

    def _busy(self) -> list[str]:
        """Describe the work that is still to be done."""
        return busy(self.hub)
