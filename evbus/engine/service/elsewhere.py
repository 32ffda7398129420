"""The components of other processes: where they are, and the channels to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing

from evbus.engine.service.declare import ChannelAddress, ServiceSpec
from evbus.engine.service.directory import Directory, Located
from evbus.engine.service.ground import Ground, Registry, asked
from evbus.engine.service.remote import ChannelRoute, OpenChannel
from evbus.engine.service.settings import ServiceSettings
from evbus.errors import LocalServiceError, ServiceCommunicationError, ServiceError, nearest

__all__ = ["LOCAL", "Elsewhere"]

log = logging.getLogger("evbus.service")

#: The channel within a process.
LOCAL = "local"


class Elsewhere:
    """The components of other processes, as a registry has them, as long as services run.

    :param own: returns the addresses of a component of this process, None when it does not run here.
    """

    def __init__(
        self,
        ground: Ground,
        settings: ServiceSettings,
        registry: Registry,
        own: Callable[[str], Sequence[ChannelAddress] | None],
    ) -> None:
        self._ground = ground
        self._settings = settings
        self._registry = registry
        self._own = own
        # Asked once for all calls, as asking a hub takes as long as much else of a call.
        self._known = ground.channels()
        self._directory = Directory(
            self._watch,
            lambda name: ground.channel_settings(name, settings),
            registry.name,
            registry.components,
        )
        self._channels: dict[str, asyncio.Task[OpenChannel]] = {}
        self._closing: list[Callable[[], Awaitable[None]]] = []

    def __repr__(self) -> str:
        return f"<Elsewhere {self._registry.name}, {', '.join(self._channels) or 'no channels'}>"

    async def route(self, spec: ServiceSpec, component: str, channel: str, preferred: str) -> ChannelRoute:
        """Return the channel to a component, and its addresses over it.

        :param channel: ``""`` for any: the preferred one, else the first that it has.
        :raises LocalServiceError: it is asked for within this process, and is not there.
        :raises ServiceCommunicationError: it has no address.
        :raises ServiceError: it cannot be called over the channel, or over any that there is here.
        """
        if channel == LOCAL:
            raise LocalServiceError(
                f"{spec.cls.__qualname__} is not implemented in this process; start its implementation here, "
                "or call it over another channel"
            )
        located = await self._directory.find(component)
        name = self._choose(component, located, channel, preferred)
        return ChannelRoute(await self._channel(name), located.channels[name])

    def _choose(self, component: str, located: Located, channel: str, preferred: str) -> str:
        known, found = self._known, located.channels
        if not found and self._own(component) is not None:
            raise ServiceCommunicationError(
                f"the component {component!r} runs here, and nothing takes calls of it from elsewhere: start "
                "the services with a server, port=8000 or 0 for any port that is free, or call it over local",
                handed_over=False,
            )
        if not found:
            raise ServiceCommunicationError(
                f"the component {component!r} has no address now; see that an instance of it runs and is "
                f"well, and that the registry {self._registry.name} knows it",
                handed_over=False,
            )
        if channel:
            if channel in found:
                return channel
            raise ServiceError(
                f"the component {component!r} cannot be called over {channel}; the registry "
                f"{self._registry.name} has it over {', '.join(found) or 'none'}"
            )
        for name in (preferred, *found):
            if name in found and name in known:
                return name
        hint = next((said for name in found if (said := nearest(name, known))), "")
        raise ServiceError(
            f"the component {component!r} can be called over {', '.join(found) or 'no channel'}, and this "
            f"process has {', '.join(name for name in known if name != LOCAL) or 'none'}{hint}"
        )

    async def _channel(self, name: str) -> OpenChannel:
        task = self._channels.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._channels[name] = asyncio.ensure_future(self._open(name))
        if task.done():
            return task.result()
        return await asyncio.shield(task)

    async def _open(self, name: str) -> OpenChannel:
        channel, close = await self._ground.open_channel(name, self._settings)
        self._closing.append(close)
        return channel

    async def _watch(self, component: str) -> AsyncGenerator[Iterable[ChannelAddress], None]:
        """Yield the addresses of a component; those of this process where the registry has none.

        Channels that know where it is need no registry, and stand last.
        """
        own, told = self._own(component), False
        reached = list(self._ground.reached(self._settings, component))
        async with aclosing(self._registry.watch(component)) as found:
            async for addresses in found:
                told = True
                known = list(addresses)
                over = {channel for channel, _ in known}
                yield [*known, *(one for one in reached if one.channel not in over)]
        if not told and (own is not None or reached):
            yield reached if own is None else own

    async def look(self) -> None:
        """Have the registry say of every component that it knows where it is.

        :raises ServiceError: it cannot be asked, or does not know which components there are.
        """
        if self._registry.components is None:
            raise ServiceError(f"the registry {self._registry.name} cannot say which components there are")
        names = await asked(
            self._registry.components(), f"the registry {self._registry.name} cannot be asked"
        )
        await asyncio.gather(*map(self._directory.find, names))

    def known(self) -> Mapping[str, Located]:
        """Return the components that were asked for, by their names."""
        return self._directory.known()

    async def close(self) -> None:
        """Close the channels, and follow the registry no longer."""
        opened, self._channels = self._channels, {}
        for task in opened.values():
            task.cancel()
        for close in self._closing:
            try:
                await close()
            except Exception:
                log.exception("a channel could not be closed")
        self._closing.clear()
        await self._directory.close()
