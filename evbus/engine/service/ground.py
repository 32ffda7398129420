"""What the services of a process stand on: the hub, their registry, and what takes calls of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from evbus.engine.handling.dispatch.core import Around
from evbus.engine.kit.redact import problem_text
from evbus.engine.service.declare import ChannelAddress
from evbus.engine.service.guard import Guard
from evbus.engine.service.health import Health, Result
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.remote import OpenChannel, Prepare
from evbus.engine.service.settings import ChannelSettings, ServerSettings, ServiceSettings
from evbus.errors import EvbusError, ServiceCommunicationError

__all__ = ["Ground", "Registry", "RunningServer", "Served", "TakingCalls", "asked"]

_Result = TypeVar("_Result")


class Registry(NamedTuple):
    """A registry that is open.

    :ivar watch: yields the addresses of a component, and again whenever they change.
    :ivar register: makes known where a component of this process is, and ``deregister`` that it is gone.
    :ivar components: returns the names of all that it knows.
    """

    name: str
    watch: Callable[[str], AsyncGenerator[Iterable[ChannelAddress], None]]
    register: Callable[[str, Sequence[ChannelAddress]], Awaitable[None]] | None = None
    deregister: Callable[[str], Awaitable[None]] | None = None
    components: Callable[[], Awaitable[Iterable[str]]] | None = None
    close: Callable[[], Awaitable[None]] | None = None


class TakingCalls(Protocol):
    """Something that takes calls from outside."""

    async def stop(self, seconds: float) -> int:
        """Take no more requests, and end when those under way have; return how many were cancelled."""

    def hurry(self) -> None:
        """Let a stop that is under way wait for no request any more."""


class RunningServer(TakingCalls, Protocol):
    """An HTTP server that runs. ``url`` is where it is reached from this machine."""

    port: int
    url: str


class Served(NamedTuple):
    """What a channel takes calls of.

    :ivar components: the names of the components of this process.
    :ivar guard: says who calls, None where nobody is asked.
    """

    components: tuple[str, ...]
    hosted: Hosted
    guard: Guard | None


class Ground(NamedTuple):
    """What the services of a hub stand on.

    :ivar interceptors: returns the pipeline's ``send`` and ``handle``, each None where there is none.
    :ivar seconds: returns how long calls may take that say nothing themselves.
    :ivar build: awaits an object of an implementation.
    :ivar channels: returns the channels that there are, in the order of preference; true are those that the
        HTTP server has.
    :ivar channel_settings: returns what every channel may be told, of one.
    :ivar open_channel: awaits a channel, and what closes it.
    :ivar open_registry: awaits the registry, which is handed what tells the path of a component's health, and
        how this process is.
    :ivar serve: starts the HTTP server of the services that it is handed.
    :ivar serve_over: has a channel take calls, if it does that by itself.
    :ivar reached: returns where a component is called over the channels that know it by themselves.
    :ivar bus: says of a result how the bus is.
    """

    interceptors: Callable[[], tuple[Prepare | None, Around | None]]
    seconds: Callable[[], float]
    build: Callable[[type], Awaitable[Any]]
    channels: Callable[[], Mapping[str, bool]]
    channel_settings: Callable[[str, ServiceSettings], ChannelSettings]
    open_channel: Callable[
        [str, ServiceSettings], Awaitable[tuple[OpenChannel, Callable[[], Awaitable[None]]]]
    ]
    open_registry: Callable[
        [ServiceSettings, Callable[[str], str], Callable[[], Awaitable[Health]]], Awaitable[Registry]
    ]
    serve: Callable[[ServerSettings, Any], Awaitable[RunningServer]]
    serve_over: Callable[[str, ServiceSettings, Served], Awaitable[TakingCalls | None]]
    reached: Callable[[ServiceSettings, str], Iterable[ChannelAddress]]
    bus: Callable[[Result], None]


async def asked(asking: Awaitable[_Result], what: str) -> _Result:
    """Await something of a registry.

    :raises ServiceCommunicationError: it failed: says what.
    """
    try:
        return await asking
    except EvbusError:
        raise
    except Exception as exc:
        raise ServiceCommunicationError(f"{what}: {problem_text(exc)}", handed_over=False) from exc
