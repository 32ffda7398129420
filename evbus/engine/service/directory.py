"""Where components are, as a registry tells it: the addresses of each, kept up to date while it is called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing

from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import problem_text
from evbus.engine.service.declare import ChannelAddress
from evbus.engine.service.instance import Instances
from evbus.engine.service.settings import ChannelSettings
from evbus.errors import ServiceCommunicationError, ServiceError, nearest

__all__ = ["Directory", "Located"]

log = logging.getLogger("evbus.service")

#: Seconds between two attempts to be told by a registry; one that answers for the longer of them is well.
PAUSE = (0.1, 10.0)

Watch = Callable[[str], AsyncGenerator[Iterable[ChannelAddress], None]]


class Located:
    """Where a component is.

    :ivar channels: its addresses, by the names of channels, in the order of the registry.
    """

    def __init__(self, settings: Callable[[str], ChannelSettings]) -> None:
        self.channels: dict[str, Instances] = {}
        self._settings = settings

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {len(addresses)}" for name, addresses in self.channels.items())
        return f"<Located {told}>"

    def set(self, found: Iterable[ChannelAddress]) -> None:
        """Be told where it is now."""
        uris: dict[str, list[str]] = {}
        for channel, uri in found:
            uris.setdefault(channel, []).append(uri)
        before, self.channels = self.channels, {}
        for channel, each in uris.items():
            self.channels[channel] = before.get(channel) or Instances(self._settings(channel))
            self.channels[channel].set(each)


class Directory:
    """Where components are; each is looked for when it is first called.

    :param watch: yields the addresses of a component, and again whenever they change.
    :param settings: returns those of a channel.
    :param registry: what the registry is called.
    :param components: returns the names of all components that it knows; None if it cannot tell.
    """

    def __init__(
        self,
        watch: Watch,
        settings: Callable[[str], ChannelSettings],
        registry: str,
        components: Callable[[], Awaitable[Iterable[str]]] | None = None,
    ) -> None:
        self._watch = watch
        self._settings = settings
        self._registry = registry
        self._components = components
        self._watching: dict[str, asyncio.Task[None]] = {}
        #: How often in a row the watches failed of those that fail.
        self._failing: dict[str, int] = {}
        self._first: dict[str, asyncio.Future[Located]] = {}

    def __repr__(self) -> str:
        return f"<Directory {self._registry}: {', '.join(self._watching) or 'nobody is looked for'}>"

    def known(self) -> dict[str, Located]:
        """Return the components that were found so far."""
        return {
            name: first.result()
            for name, first in self._first.items()
            if first.done() and not first.cancelled() and first.exception() is None
        }

    async def find(self, component: str) -> Located:
        """Return where a component is, once the registry has told it.

        :raises ServiceError: the registry cannot be asked, or knows no such component.
        """
        first = self._first.get(component)
        if first is None or (first.done() and (first.cancelled() or first.exception() is not None)):
            first = self._first[component] = asyncio.get_running_loop().create_future()
            first.add_done_callback(_look)
            self._watching[component] = asyncio.create_task(
                self._follow(component, first), name=f"evbus-watch-{component}"
            )
        if first.done():
            return first.result()
        return await asyncio.shield(first)

    async def _follow(self, component: str, first: asyncio.Future[Located]) -> None:
        """Keep the addresses of a component up to date, as long as the registry has something to tell."""
        located, loop = Located(self._settings), asyncio.get_running_loop()
        self._failing.pop(component, None)
        while True:
            steady: asyncio.TimerHandle | None = None
            known = False
            try:
                async with aclosing(self._watch(component)) as told:
                    async for found in told:
                        known = True
                        located.set(found)
                        if steady is None:
                            # One that answers, and fails again and again, is not back with each answer.
                            steady = loop.call_later(PAUSE[1], self._back, component)
                        if not first.done():
                            first.set_result(located)
                if not known:
                    # Where it was known before, its registry may have come back with nothing in it yet.
                    raise await self._unknown(component)
            except Exception as exc:
                if not first.done():
                    first.set_exception(self._lost(component, exc))
                    return
                failures = self._failing[component] = self._failing.get(component, 0) + 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "%s; what is known of it stays", self._lost(component, exc))
            else:
                self._back(component)
                return
            finally:
                if steady is not None:
                    steady.cancel()
            await asyncio.sleep(backoff(failures, *PAUSE))

    def _back(self, component: str) -> None:
        if self._failing.pop(component, 0):
            log.warning("the registry %s tells again where the component %r is", self._registry, component)

    async def _unknown(self, component: str) -> ServiceError:
        known = [] if self._components is None else await self._components()
        hint = nearest(component, known)
        if self._registry == "local" and not hint:
            hint = (
                "; it knows those of this process alone: start its implementation here, or say in the option "
                "services where it is, such as registry: {static: ...}"
            )
        return ServiceError(f"the registry {self._registry} has no component {component!r}{hint}")

    def _lost(self, component: str, problem: Exception) -> ServiceError:
        if isinstance(problem, ServiceError):
            return problem
        return ServiceCommunicationError(
            f"the registry {self._registry} cannot tell where the component {component!r} is: "
            f"{problem_text(problem)}",
            handed_over=False,
        )

    async def close(self) -> None:
        """Look for nothing any more."""
        tasks, self._watching = list(self._watching.values()), {}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for first in self._first.values():
            first.cancel()
        self._first.clear()


def _look(future: asyncio.Future[Located]) -> None:
    """Look at an error, or asyncio would log that nobody did."""
    if not future.cancelled():
        future.exception()
