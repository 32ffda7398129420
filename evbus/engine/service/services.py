"""The services of a process: what it implements, where the others are, and the proxies of both."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, NamedTuple

from evbus.engine.handling.dispatch.core import Around
from evbus.engine.kit.loop_thread import wait_in
from evbus.engine.kit.redact import problem_text
from evbus.engine.service import proxy as _proxy
from evbus.engine.service.authenticate import Authenticator, anybody
from evbus.engine.service.declare import (
    AbstractComponent,
    ChannelAddress,
    ComponentStatus,
    ServiceSpec,
    service_spec,
)
from evbus.engine.service.elsewhere import LOCAL, Elsewhere
from evbus.engine.service.ground import Ground, Registry, RunningServer, Served, TakingCalls, asked
from evbus.engine.service.guard import Guard
from evbus.engine.service.health import (
    HEALTH,
    HealthCheckManager,
    endpoint_of,
    has_checks,
)
from evbus.engine.service.hosted import Hosted, HostedMethod, uncounted
from evbus.engine.service.implementations import Plan, other_defaults, planned
from evbus.engine.service.method import MethodSpec
from evbus.engine.service.remote import ChannelRoute, Prepare, Remote, headers_of
from evbus.engine.service.settings import ServiceSettings
from evbus.errors import LocalServiceError, ServiceError, nearest

__all__ = ["Services"]

log = logging.getLogger("evbus.service")

#: Seconds of a stop in which the registry is told of it, at the most.
_TELLING = 3.0


class _Component(NamedTuple):
    """A component of this process that runs."""

    plan: Plan
    made: Any
    services: Mapping[ServiceSpec, Any]
    addresses: tuple[ChannelAddress, ...] = ()


class Services:
    """The services of a process.

    :ivar hosted: the implementations of this process.
    :ivar server: the HTTP server, None without one.
    :ivar guard: says who calls from outside, None where nobody is asked.
    :ivar health: the health checks.
    :ivar mounts: ASGI applications that the server serves as well, by the paths below which.
    :ivar settings: those that it was started with.
    :ivar ending: what a stop that is under way waits for, ``""`` for nothing.
    """

    def __init__(self, ground: Ground) -> None:
        self.ending = ""
        self.settings = ServiceSettings()
        self.server: RunningServer | None = None
        self.hosted = Hosted(lambda: None)
        self.guard: Guard | None = None
        self.health = HealthCheckManager()
        self.mounts: dict[str, Any] = {}
        self._ground = ground
        self._stack: AsyncExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = False
        self._classes: dict[type, None] = {}
        self._checks: dict[type, None] = {}
        self._components: dict[str, _Component] = {}
        self._proxies: dict[tuple[type, str, str], _ProxyTarget] = {}
        self._preferred = ""
        # Held by who starts or stops them.
        self._changing = asyncio.Lock()
        self._changer: asyncio.Task[Any] | None = None
        self._until = 0.0
        self._hurried = False
        self._taking: list[TakingCalls] = []
        self._ending: list[TakingCalls] = []
        self._cancelled = 0
        self._elsewhere: Elsewhere | None = None
        self._registry_name = ""
        self._seconds = 0.0
        self._send: Prepare | None = None
        self._around: Around | None = None

    def __repr__(self) -> str:
        state = "running" if self.running else "starting" if self._starting else "not started"
        return f"<Services {state}, {', '.join(self._components) or 'no components'}>"

    @property
    def running(self) -> bool:
        """Whether they are started."""
        return self._stack is not None

    @property
    def serves(self) -> bool:
        """Whether the next start has something that others can ask for."""
        return bool(self._classes or self._checks or self.mounts)

    @property
    def components(self) -> dict[str, Any]:
        """The components of this process that run, by name."""
        return {name: one.made for name, one in self._components.items()}

    # Start and stop

    def add(self, classes: Iterable[type]) -> None:
        """Have implementations started, and health checks made, with the next start.

        :raises ServiceSignatureError: one of them does not fit its interface, or an interface has two.
        """
        given = dict.fromkeys(classes)
        checks = {cls: None for cls in given if has_checks(cls)}
        found = {**self._classes, **{cls: None for cls in given if cls not in checks}}
        planned(found)
        self._classes = found
        self._checks.update(checks)

    def planned(self) -> list[Plan]:
        """Return the components that the next start makes."""
        return planned(self._classes)

    async def start(self, settings: ServiceSettings) -> None:
        """Make the components and start them, make known where they are, and let calls be made.

        :raises ServiceError: they are started already.
        :raises ConfigError: something that is written has to be mended.
        """
        if self.running or self._starting:
            raise ServiceError("the services of this hub are started already")
        self._starting, self._loop = True, asyncio.get_running_loop()
        self._changing = asyncio.Lock()
        stack = AsyncExitStack()
        async with self._changing:
            self._changer = asyncio.current_task()
            try:
                await self._start(settings, stack)
            except BaseException:
                self._stack = None
                await stack.aclose()
                raise
            finally:
                self._starting, self._changer = False, None
                self._refresh()

    async def _start(self, settings: ServiceSettings, stack: AsyncExitStack) -> None:
        self.settings, self._hurried, self._cancelled = settings, False, 0
        self._send, self._around = self._ground.interceptors()
        # Asked once for all calls, as asking a hub takes as long as much else of a call.
        self._seconds = self._ground.seconds()
        auth = settings.auth
        self.hosted = Hosted(
            lambda: self._around, settings.threads, anybody(() if auth is None else auth.anonymous)
        )
        plans = planned(self._classes)
        for said in (
            said for plan in plans for spec, cls in plan.services for said in other_defaults(cls, spec)
        ):
            log.warning("%s", said)
        stack.callback(self._forget)
        if auth is not None:
            self.guard = guard = Authenticator(auth, lambda: self.hosted.open)
            stack.push_async_callback(guard.close)
        name, _ = settings.registry_parts()
        registry = await asked(
            self._ground.open_registry(settings, self._health_path, lambda: self.health.check()),  # noqa: PLW0108 - it is made later
            f"the registry {name} cannot be opened",
        )
        if registry.close is not None:
            stack.push_async_callback(registry.close)
        self._registry_name = registry.name
        self._elsewhere = Elsewhere(self._ground, settings, registry, self._own_addresses)
        stack.push_async_callback(self._elsewhere.close)
        self.health = HealthCheckManager()
        stack.push_async_callback(self.health.close)
        self.health.add_check("bus", self._ground.bus)
        for cls in self._checks:
            self.health.add(await self._ground.build(cls))
        for plan in plans:
            self._components[plan.name] = await self._made(plan)
            self._components[plan.name].made.checks = self.health
        # Calls may be made from now on, as components do it when they start.
        self._stack = stack
        self._refresh()
        for component in list(self._components.values()):
            with uncounted():
                await _awaited(component.made.startup())
            _note(component.made, ComponentStatus.RUNNING)
            stack.push_async_callback(self._shut_down, component)
        if settings.server is not None:
            self.server = await self._ground.serve(settings.server, self)
            self._taking.append(self.server)
        stack.push_async_callback(self._end_calls)
        await self._serve_over_channels()
        known: list[str] = []
        stack.push_async_callback(self._end_registration, registry, known)
        for name, component in list(self._components.items()):
            addresses = self._addresses_of(component)
            self._components[name] = component._replace(addresses=addresses)
            if registry.register is not None and addresses:
                await asked(
                    registry.register(name, addresses),
                    f"the registry {registry.name} does not take the component {name!r}",
                )
                known.append(name)

    def _health_path(self, name: str) -> str:
        component = self._components.get(name)
        return (endpoint_of(component.made) if component is not None else "") or HEALTH

    async def _serve_over_channels(self) -> None:
        """Have the channels that the settings name take calls, as far as they do that by themselves."""
        served = Served(tuple(self._components), self.hosted, self.guard)
        for name in self.settings.channels if self._components else ():
            taking = await self._ground.serve_over(name, self.settings, served)
            if taking is not None:
                self._taking.append(taking)

    async def _made(self, plan: Plan) -> _Component:
        made: dict[type, Any] = {}
        for cls in dict.fromkeys([plan.cls, *(cls for _, cls in plan.services)]):
            made[cls] = await self._ground.build(cls)
        services = {spec: made[cls] for spec, cls in plan.services}
        for spec, implementation in services.items():
            self.hosted.add(plan.name, spec, implementation)
        return _Component(plan, made[plan.cls], services)

    def _own_addresses(self, name: str) -> tuple[ChannelAddress, ...] | None:
        component = self._components.get(name)
        return None if component is None else component.addresses

    def _addresses_of(self, component: _Component) -> tuple[ChannelAddress, ...]:
        port = 0 if self.server is None else self.server.port
        found = component.made.get_addresses(port)
        if found is not None:
            return tuple(ChannelAddress(*one) for one in found)
        over_http: list[ChannelAddress] = []
        if self.server is not None and self.settings.server is not None:
            uri = f"{self.settings.server.url}:{port}"
            over_http = [ChannelAddress(name, uri) for name, http in self._ground.channels().items() if http]
        return (*over_http, *self._ground.reached(self.settings, component.plan.name))

    async def stop(self, seconds: float) -> None:
        """Make known that the components are gone, end the calls under way, and shut everything down.

        :param seconds: that calls may take to end.
        """
        if self._changer is asyncio.current_task() is not None:
            return  # a component asks for it that is started, or shut down
        async with self._changing:
            stack = self._stack
            if stack is None:
                return
            self._changer = asyncio.current_task()
            self._until = 0.0 if self._hurried else time.monotonic() + seconds
            try:
                await stack.aclose()
            finally:
                self._changer = None

    def hurry(self) -> None:
        """Let a stop that is under way, or to come, wait for no call any more."""
        self._hurried = True
        self._until = 0.0
        for taking in self._ending:
            if hasattr(taking, "hurry"):
                taking.hurry()
        self.hosted.hurry()

    async def _end_registration(self, registry: Registry, names: Sequence[str]) -> None:
        """Make known that components are gone, in part of the time that the stop has; calls have the rest."""
        if registry.deregister is None or not names:
            return
        seconds = min(_TELLING, max(1.0, (self._until - time.monotonic()) / 2))
        telling = {asyncio.ensure_future(_gone(registry, name)): name for name in names}
        try:
            _, late = await asyncio.wait(telling, timeout=seconds)
        finally:
            for task in telling:
                task.cancel()
        for task in late:
            log.warning(
                "the registry %s was not told within %.3g s that the component %s is gone",
                *(registry.name, seconds, telling[task]),
            )

    async def _end_calls(self) -> None:
        """Take no more calls from outside; those under way end."""
        self._ending, self._taking, self.server = self._taking, [], None

        async def end(taking: TakingCalls) -> int:
            # Looked at when it begins: a stop may have been told to hurry just before.
            return await taking.stop(max(0.0, self._until - time.monotonic()))

        try:
            # What a channel returns that somebody wrote may be nothing.
            ended = await asyncio.gather(*map(end, self._ending))
            self._cancelled = sum(number or 0 for number in ended)
        finally:
            try:
                # Calls within this process that are under way may call further ones until they end.
                self._cancelled += await self.hosted.close(max(0.0, self._until - time.monotonic()))
            finally:
                self._stack, self._ending = None, []
                self._refresh()

    async def _shut_down(self, component: _Component) -> None:
        self.ending = f"the component {component.plan.name}"
        try:
            await _awaited(component.made.shutdown())
        except Exception:
            log.exception("the component %s could not be shut down", component.plan.name)
        self.ending = ""
        _note(component.made, ComponentStatus.STOPPED)

    def _forget(self) -> None:
        self._stack = None
        self._elsewhere = self.guard = None
        self._registry_name = ""
        self._components.clear()
        self._refresh()

    # Proxies

    def get(self, interface: type, channel: str = "", component: str = "") -> Any:
        """Return a proxy of an interface.

        :param channel: over which its methods are called; default: ``local`` where it is implemented here,
            else that of :meth:`set_preferred_channel`, else the first that its component can be called over.
        :param component: which has it; default: the one of this process, else the one that lists it.
        :raises ServiceSignatureError: this is no interface.
        :raises ServiceError: there is no such channel; several components have it, and none of them is here.
        """
        spec = service_spec(interface)
        if channel:
            self._check_channel(channel)
        if self.running:
            self._component_of(spec, component)
        key = (interface, channel, component)
        if key not in self._proxies:
            self._proxies[key] = _ProxyTarget(self, spec, channel, component)
            self._proxies[key].refresh()
        return self._proxies[key].proxy

    def call(
        self,
        interface: type,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        channel: str = "",
        component: str = "",
    ) -> Any:
        """Call a method by its name; return what to await, or what it yields as an asynchronous iterator.

        Methods that are plain are awaited as well.

        :raises ServiceSignatureError: this is no interface.
        :raises ServiceError: there is no such method or channel.
        """
        self.get(interface, channel, component)
        methods = service_spec(interface).methods
        if method not in methods:
            raise ServiceError(f"{interface.__qualname__} has no method {method!r}{nearest(method, methods)}")
        target, spec = self._proxies[interface, channel, component], methods[method]
        made = target.invoke if spec.item is None else target.stream
        return made(spec, args, kwargs)

    def set_preferred_channel(self, name: str) -> None:
        """Let calls go over a channel that say nothing themselves, where their component has it.

        :param name: ``""`` for no preference.
        :raises ServiceError: there is no such channel.
        """
        if name:
            self._check_channel(name)
        self._preferred = name
        self._refresh()

    def _check_channel(self, name: str) -> None:
        known = self._ground.channels()
        if name not in known:
            raise ServiceError(f"there is no channel {name!r}{nearest(name, known)}")

    def _refresh(self) -> None:
        for target in self._proxies.values():
            target.refresh()

    def implementation(self, spec: ServiceSpec, channel: str, component: str) -> Any:
        """Return what implements an interface here, if calls over a channel are for that; None if not."""
        if (channel or self._preferred or LOCAL) != LOCAL:
            return None
        if component and (
            component not in self._components or spec not in self._components[component].services
        ):
            return None
        return self.hosted.implementation(spec.cls) if self.running else None

    @property
    def intercepted(self) -> bool:
        """Whether there are interceptors around local calls."""
        return self._around is not None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that they run in.

        :raises LocalServiceError: they are not started.
        """
        if not self.running or self._loop is None:
            raise LocalServiceError(
                "the services of this hub are not started, or were stopped; await hub.service.init.start() "
                "before a service is called, or call it within `async with services(...)`"
            )
        return self._loop

    def local(self, spec: ServiceSpec, method: MethodSpec) -> HostedMethod:
        """Return a method that is implemented here."""
        component = self._component_of(spec)
        return self.hosted.find(f"{component}:{spec.name}:{method.name}")

    def headers(self, name: str) -> dict[str, str]:
        """Return the headers of a call from here."""
        return headers_of(name, self._send)

    def remote(self, spec: ServiceSpec, channel: str, component: str) -> Remote:
        """Return a service that is called over a channel."""
        component = self._component_of(spec, component)
        return Remote(
            component,
            spec,
            lambda: self._route(spec, channel, component),
            lambda: self._send,
            lambda: self._seconds,
        )

    def direct(self, spec: ServiceSpec) -> Mapping[str, Any]:
        """Return the methods that implement an interface here, for callers here."""
        return self.hosted.direct(spec)

    def _component_of(self, spec: ServiceSpec, component: str = "") -> str:
        if component:
            return component
        for name, each in self._components.items():
            if spec in each.services:
                return name
        return spec.component

    async def _route(self, spec: ServiceSpec, channel: str, component: str) -> ChannelRoute:
        assert self._elsewhere is not None
        return await self._elsewhere.route(spec, component, channel, self._preferred)

    # What there is

    async def look(self) -> None:
        """Have the registry say of every component that it knows where it is: :meth:`report` tells it then.

        :raises LocalServiceError: they are not started.
        :raises ServiceError: the registry cannot be asked, or does not know which components there are.
        """
        self.loop()
        assert self._elsewhere is not None
        await self._elsewhere.look()

    def report(self) -> dict[str, Any]:
        """Return the components of this process and of others, as far as they are known, in plain values."""
        elsewhere = {} if self._elsewhere is None else self._elsewhere.known()
        return {
            "running": self.running,
            "port": None if self.server is None else self.server.port,
            "url": None if self.server is None else self.server.url,
            "registry": self._registry_name,
            "channels": list(self._ground.channels()),
            "components": [
                {
                    "name": name,
                    "status": component.made.get_status().value,
                    "services": [spec.name for spec in component.services],
                    "addresses": [list(one) for one in component.addresses],
                }
                for name, component in self._components.items()
            ],
            "elsewhere": {
                name: {
                    channel: [
                        {"address": one.uri, "in_flight": one.in_flight, "failures": one.failures}
                        for one in addresses
                    ]
                    for channel, addresses in located.channels.items()
                }
                for name, located in elsewhere.items()
            },
            "calls": self.hosted.active,
            "cancelled": self._cancelled,
        }


class _ProxyTarget:
    """What a proxy stands for, wherever that is now."""

    def __init__(self, services: Services, spec: ServiceSpec, channel: str, component: str) -> None:
        self.proxy = _proxy.made(spec, self)
        self._services = services
        self._spec = spec
        self._channel = channel
        self._component = component
        self._here = False
        self._remote: Remote | None = None

    def __repr__(self) -> str:
        whose = f"of {self._component} " if self._component else ""
        return f"{whose}over {self._channel or ('local' if self._here else 'the first channel')}"

    def refresh(self) -> None:
        """Look where calls go from now on."""
        found = self._services.implementation(self._spec, self._channel, self._component)
        self._here, self._remote = found is not None, None
        direct = self._here and not self._services.intercepted
        _proxy.bind(self.proxy, self._spec, self._services.direct(self._spec) if direct else None)

    def _elsewhere(self) -> Remote:
        if self._remote is None:
            self._remote = self._services.remote(self._spec, self._channel, self._component)
        return self._remote

    async def invoke(self, spec: MethodSpec, args: Any, kwargs: Any) -> Any:
        """Return the result of a method."""
        home = self._services.loop()
        if asyncio.get_running_loop() is not home:
            calling = self.invoke(spec, args, kwargs)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(calling, home))
        if self._here:
            method = self._services.local(self._spec, spec)
            headers = self._services.headers(method.name)
            return await self._services.hosted.call_here(method, args, kwargs, headers)
        return await self._elsewhere().call(spec, args, kwargs)

    async def stream(self, spec: MethodSpec, args: Any, kwargs: Any) -> AsyncGenerator[Any, None]:
        """Yield what a method yields."""
        if asyncio.get_running_loop() is not self._services.loop():
            raise ServiceError(f"{spec.title}: a stream is read in the event loop that the services run in")
        if self._here:
            method = self._services.local(self._spec, spec)
            headers = self._services.headers(method.name)
            items = self._services.hosted.stream_here(method, args, kwargs, headers)
        else:
            items = self._elsewhere().stream(spec, args, kwargs)
        async with aclosing(items):
            async for item in items:
                yield item

    def wait(self, spec: MethodSpec, args: Any, kwargs: Any) -> Any:
        """Return the result of a plain method, which is waited for."""
        home = self._services.loop()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            why = "interceptors are around it" if self._here else "it is called in another process"
            raise ServiceError(
                f"{spec.title} is a plain method, and {why}: it would hold up the event loop; declare it "
                f"with async def, or call it from a thread: await asyncio.to_thread(proxy.{spec.name}, ...)"
            )
        try:
            return wait_in(home, lambda: self.invoke(spec, args, kwargs))
        except asyncio.CancelledError:
            raise LocalServiceError(f"{spec.title}: the services were stopped while it was called") from None


async def _gone(registry: Registry, name: str) -> None:
    """Make known that a component is gone; what cannot be told is in the log."""
    assert registry.deregister is not None
    try:
        await registry.deregister(name)
    except Exception as exc:
        log.warning(
            "the registry %s was not told that the component %s is gone: %s",
            *(registry.name, name, problem_text(exc)),
        )


def _note(component: Any, status: ComponentStatus) -> None:
    if isinstance(component, AbstractComponent):
        component.status = status


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
