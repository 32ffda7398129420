"""The names that applications import: ``from evbus.api import bus``.

For programs that are no POP project, :func:`bus` makes the hub::

    async with bus({"file": {"default": {"path": "events.jsonl"}}}) as events:
        await events.put(routing_key="orders", body={"id": 1})
"""

from __future__ import annotations

import contextlib
import threading
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import pop.hub

from evbus import session
from evbus.engine.client.handle import Handle
from evbus.engine.client.services import ServicesHandle, ServicesRun
from evbus.engine.client.sync_bus import SyncBus
from evbus.engine.core.lifecycle.running import control_of, running
from evbus.engine.core.plugins import installed
from evbus.engine.handling.dispatch.declare import command, on, query
from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.dispatch.kinds import EventRouter, RequestRouter
from evbus.engine.handling.events import modules
from evbus.engine.handling.events.declare import EventListener, EventListenerDescriptor, event, event_listener
from evbus.engine.handling.events.declare import EventSpec as EventDescriptor
from evbus.engine.handling.handler import AbstractHandler, HandlerProtocol
from evbus.engine.handling.providers import Factory, Singleton
from evbus.engine.service.declare import (
    AbstractComponent,
    ChannelAddress,
    Component,
    ComponentStatus,
    Service,
    authorize,
    component,
    implementation,
    method,
    rest,
    service,
)
from evbus.engine.service.guard import Caller, caller
from evbus.engine.service.health import (
    HealthCheckManager,
    HealthStatus,
    health,
    health_check,
    health_checks,
)
from evbus.engine.service.rest import Body, Header, PathParam, QueryParam, delete, get, patch, post, put
from evbus.errors import ConfigError, EvbusError, Rejected, Unavailable
from evbus.types import Delivery, Envelope, Event, Subscription

__all__ = [
    "AbstractComponent",
    "AbstractHandler",
    "Body",
    "BusHandle",
    "Caller",
    "ChannelAddress",
    "Component",
    "ComponentStatus",
    "Delivery",
    "Dispatcher",
    "Envelope",
    "EvbusError",
    "Event",
    "EventDescriptor",
    "EventListener",
    "EventListenerDescriptor",
    "EventRouter",
    "Factory",
    "HandlerProtocol",
    "Header",
    "HealthCheckManager",
    "HealthStatus",
    "PathParam",
    "QueryParam",
    "Rejected",
    "RequestRouter",
    "Service",
    "ServicesHandle",
    "Singleton",
    "Subscription",
    "SyncBus",
    "Unavailable",
    "authorize",
    "bus",
    "caller",
    "command",
    "component",
    "delete",
    "event",
    "event_listener",
    "get",
    "health",
    "health_check",
    "health_checks",
    "implementation",
    "method",
    "on",
    "patch",
    "post",
    "put",
    "query",
    "rest",
    "service",
    "services",
    "session",
    "sync_bus",
]


class BusHandle(Handle):
    """A started bus. ``hub`` is its hub, where everything else is found.

    :ivar report: after the end: what could not be delivered
        (:class:`evbus.engine.core.lifecycle.bus.Report`).
    """

    def __init__(self, hub: pop.hub.Hub, contexts: Mapping[str, Any]) -> None:
        super().__init__(hub)
        self._contexts = contexts
        self.report: Any = None

    def consume(
        self,
        profile: str,
        name: str = "",
        *,
        group: str = "",
        per_process: bool = False,
        durable: bool = True,
        prefetch: int = 0,
    ) -> AsyncGenerator[Delivery, None]:
        """Return an asynchronous generator of what comes in through a profile of the bus.

        Close it with ``contextlib.aclosing``; the other parameters are those of
        :class:`evbus.types.Subscription`. See ``hub.evbus.bridge.consume``.

        :raises ProfileError: there is no such profile, or it cannot be consumed from.
        """
        wanted = Subscription(
            name=name, group=group, per_process=per_process, durable=durable, prefetch=prefetch
        )
        return self.hub.evbus.bridge.consume(self._contexts, profile, wanted)  # type: ignore[no-any-return]

    def snapshot(self) -> dict[str, Any]:
        """Return all counters; see ``hub.evbus.stats.snapshot``."""
        return self.hub.evbus.stats.snapshot()  # type: ignore[no-any-return]


class _Bus(contextlib.AbstractAsyncContextManager[BusHandle]):
    """A bus that ``async with`` starts and stops, and that says so to whoever does something else with it."""

    def __init__(self, running: contextlib.AbstractAsyncContextManager[BusHandle]) -> None:
        self._running = running

    async def __aenter__(self) -> BusHandle:
        return await self._running.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._running.__aexit__(kind, raised, trace)

    if not typing.TYPE_CHECKING:

        def __enter__(self) -> None:
            raise EvbusError(_ASYNC_WITH)

        def __exit__(self, *raised: object) -> None: ...

        def __await__(self) -> None:
            raise EvbusError(_ASYNC_WITH)

        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"there is no {name!r} here: {_ASYNC_WITH}")


_ASYNC_WITH = "a bus starts with `async with bus(...) as events:`; without an event loop there is sync_bus"


def bus(
    profiles: Mapping[str, Any] | str | Path,
    *,
    acct_key: str | None = None,
    listeners: Iterable[ModuleType | Callable[..., Any]] = (),
    signals: bool = False,
    **options: Any,
) -> contextlib.AbstractAsyncContextManager[BusHandle]:
    """Make a hub, start its bus, and at the end deliver what is left and stop it.

    The dispatcher is stopped before it, if the program has started it.

    :param profiles: ``{provider: {name: data}}``, or the path of a YAML file of them.
    :param acct_key: the key when acct encrypted the file.
    :param listeners: one or several: modules and packages whose functions and classes with
        ``@event_listener`` listen, or such functions and classes; see ``hub.event.init.listen``.
    :param signals: let SIGTERM and SIGINT end the block: the first cancels what it waits for; what is there
        is delivered within the option ``drain_timeout``, and the program goes on behind the block. After a
        second one nothing more is delivered, and a process that does not get on is ended. In the main
        thread only.
    :param options: options of the section ``evbus``, such as ``plugin_dirs=["plugins"]``.
    :raises ConfigError: a profile, an option or a plugin has to be mended.
    :raises EvbusError: a signal came before the bus had started.
    """

    def make() -> pop.hub.Hub:
        if signals and threading.current_thread() is not threading.main_thread():
            raise EvbusError("signals=True: only the main thread gets signals; leave it out in others")
        return _made(listeners, options)

    return _Bus(_started(make, profiles, acct_key, signals=signals))


def sync_bus(
    profiles: Mapping[str, Any] | str | Path,
    *,
    acct_key: str | None = None,
    listeners: Iterable[ModuleType | Callable[..., Any]] = (),
    **options: Any,
) -> SyncBus:
    """Return a bus for programs without an event loop, such as Flask, Django, and scripts.

    Its functions may be called from any thread. It starts with ``with``, or with the first call, in a thread
    of its own, in whichever process that is; so it may be made before a server forks its workers. It ends
    with ``with``, with ``close()``, or with the process, and delivers what is left. Parameters as for
    :func:`bus`.

    :raises ConfigError: an option or a plugin has to be mended; at the start, a profile, too.
    """
    where = modules.places(listeners)
    made = SyncBus(
        lambda: _made(where, options), lambda hub: _started(lambda: hub, profiles, acct_key, signals=False)
    )
    # That mistakes in the options are known here and not with the first event.
    made.hub  # noqa: B018 - it makes it
    return made


def services(
    components: Iterable[type | ModuleType] = (),
    *,
    port: int | None = None,
    host: str | None = None,
    settings: Mapping[str, Any] | str | Path | None = None,
    profiles: Mapping[str, Any] | str | Path | None = None,
    acct_key: str | None = None,
    mounts: Mapping[str, Any] | None = None,
    provide: Mapping[type, Any] | None = None,
    **options: Any,
) -> ServicesRun:
    """Start services, and at the end let calls end and stop them: with ``async with``, or ``with``.

    With ``with`` they run in a thread of their own, for programs without an event loop.

    :param components: classes with ``@implementation()``, of components and of services, or with
        ``@health_checks()``, and modules that have some; beside them those in folders ``component/`` and
        ``health/`` of ``plugin_dirs``.
    :param port: of the HTTP server, 0 for any that is free; default: none, unless the settings have one.
    :param host: its address; default: that of the settings, else ``127.0.0.1``.
    :param settings: where others are, and how they are called: a mapping with ``registry``, ``channels`` and
        ``server``, or the path of a YAML file; default: the option ``services``.
    :param profiles: of brokers, which channels in the settings name: a mapping, or the path of a file as
        :func:`bus` takes it, and ``acct_key`` its key.
    :param mounts: ASGI applications that the server serves as well, by the paths below which, such as
        ``{"/shop": app}``.
    :param provide: what constructors may take, by type: ``{Repo: repo}``, or ``Singleton["name": function]``
        and ``Factory`` as ``hub.dispatch.init.provide`` has them.
    :param options: options of the section ``evbus``, such as ``service_timeout=5``.
    :raises ConfigError: an option, a file or an implementation has to be mended.
    """
    if isinstance(components, type):
        raise ConfigError(f"services() takes a list: services([{components.__name__}])")
    listed, mounted, provided = list(components), dict(mounts or {}), dict(provide or {})

    def make() -> pop.hub.Hub:
        hub = _made((), options)
        hub.service.init.add(*listed)
        for path, app in mounted.items():
            hub.service.init.mount(path, app)
        for kind, value in provided.items():
            hub.dispatch.init.provide(kind, value)
        return hub

    return ServicesRun(
        make,
        {"port": port, "host": host, "settings": settings, "profiles": profiles, "acct_key": acct_key},
    )


def _made(listeners: Iterable[Any], options: Mapping[str, Any]) -> pop.hub.Hub:
    """Return a hub with its options, its plugins loaded and its listeners subscribed."""
    with installed.LOADING:
        hub = installed.new_hub()
        hub.OPT = hub.pop.data.imap({"evbus": dict(options)})
        # It loads the plugins, so that the handle's functions have their contracts.
        hub.evbus.init.refuse_unknown(options)
    hub.event.init.listen(*modules.places(listeners))
    return hub


@contextlib.asynccontextmanager
async def _started(
    make: Callable[[], pop.hub.Hub],
    profiles: Mapping[str, Any] | str | Path,
    acct_key: str | None,
    *,
    signals: bool,
) -> AsyncIterator[BusHandle]:
    """Start the bus of a hub, and at the end deliver what is left and stop it."""
    hub = make()
    contexts = profiles if isinstance(profiles, Mapping) else await hub.evbus.acct.load(profiles, acct_key)
    handle, control = BusHandle(hub, contexts), control_of(hub, insist=True)
    try:
        async with running(hub, contexts, control, signals=signals):
            yield handle
    finally:
        handle.report = control.report
