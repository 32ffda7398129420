"""The handle of a bus in a program without an event loop: its functions wait instead of being awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from evbus.engine.client.handle import Handle
from evbus.engine.core.arguments import put_arguments
from evbus.engine.handling.events.declare import EventListener
from evbus.engine.kit.loop_thread import LoopThread
from evbus.errors import EvbusError

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Unpack

    from evbus.engine.client.handle import Listens
    from evbus.engine.handling.events.declare import SubscribeOptions

__all__ = ["SyncHandle"]

_Event = TypeVar("_Event")
_Result = TypeVar("_Result")


class SyncHandle:
    """A :class:`Handle` for plain functions, from any thread but that of the bus."""

    def _at_work(self) -> tuple[Handle, LoopThread]:
        """Return the bus, and the thread that it runs in."""
        raise NotImplementedError

    def _do(self, function: Callable[[Handle], Awaitable[_Result]]) -> _Result:
        __tracebackhide__ = True
        handle, thread = self._at_work()
        return thread.do(lambda: function(handle))

    def _refuse_in_listener(self, handle: Handle, what: str) -> None:
        """Refuse what a listener would wait for its own end with."""
        for entry in handle.hub.event.SUBSCRIPTIONS:
            if entry.listening.waits():
                raise EvbusError(f"listener {entry.id} waits for its own end: {what} is for the others")

    def run(self, awaitable: Awaitable[_Result]) -> _Result:
        """Await something in the loop of the bus, such as a function of the application; return its result.

        Context variables of the caller are seen there.
        """
        __tracebackhide__ = True
        return self._do(lambda _: awaitable)

    @overload
    def put(
        self,
        body: Any,
        /,
        *,
        routing_key: str | None = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    @overload
    def put(
        self,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    def put(
        self,
        *args: Any,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put an event on the bus, waiting while it is full; see ``hub.evbus.broker.put``."""
        event = put_arguments(args, routing_key, body, profile, headers)
        self._do(lambda handle: handle.put(*event))

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
        """Put an event on the bus, never waiting; see ``hub.evbus.broker.put_nowait``."""
        event = put_arguments(args, routing_key, body, profile, headers)
        self._at_work()[0].put_nowait(*event)

    def send(self, event: object, headers: Mapping[str, str] | None = None, profile: str = "default") -> None:
        """Send a typed event, waiting while the bus is full; see ``hub.event.init.send``."""
        self._do(lambda handle: handle.send(event, headers, profile))

    def send_nowait(
        self, event: object, headers: Mapping[str, str] | None = None, profile: str = "default"
    ) -> None:
        """Send a typed event, never waiting; see ``hub.event.init.send_nowait``."""
        self._at_work()[0].send_nowait(event, headers, profile)

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

        async def subscribe(handle: Handle) -> str:
            return handle.subscribe(event, callback, name, **options)

        return self._do(subscribe)

    def listen(self, *where: ModuleType | Callable[..., Any]) -> list[str]:
        """Subscribe what modules declare with ``@event_listener``; see ``hub.event.init.listen``."""

        async def listen(handle: Handle) -> list[str]:
            return handle.listen(*where)

        return self._do(listen)

    def unsubscribe(self, id: str) -> bool:  # noqa: A002 - what it is
        """End a subscription; see ``hub.event.init.unsubscribe``."""
        return self._do(lambda handle: handle.unsubscribe(id))

    def settle(self, timeout: float | None = None) -> None:
        """Return when everything that was put is delivered, and every listener here is done with it.

        :param timeout: seconds; default: as long as it takes.
        :raises SettleTimeout: it took longer; tells what is left.
        :raises EvbusError: a listener of this bus waits, which would be for its own end.
        """
        __tracebackhide__ = True
        self._refuse_in_listener(self._at_work()[0], "settle()")
        self._do(lambda handle: handle.settle(timeout))
