"""Requests that go out through a profile and whose replies come back through it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from evbus.errors import DeliveryTimeout, ProfileError, nearest
from evbus.types import Envelope

from ._plan import Ingress, context_of, router
from ._profiles import Profile

__all__ = ["Link", "find"]


def find(profiles: Sequence[Profile], plugins: Mapping[str, Ingress], wanted: str) -> Profile:
    """Return the profile called ``wanted``, or ``provider.name``, if requests can go through it.

    :raises ProfileError: there is none, there are several, or replies cannot come back through it.
    """
    found = [one for one in profiles if wanted in (one.name, f"{one.provider}.{one.name}")]
    if not found:
        hint = nearest(wanted, [one.name for one in profiles])
        raise ProfileError(f"there is no profile {wanted!r} for requests{hint}")
    able = [one for one in found if plugins[one.plugin].request is not None]
    if not able:
        capable = ", ".join(sorted(name for name, plugin in plugins.items() if plugin.request is not None))
        raise ProfileError(
            f"the plugin {found[0].plugin!r} cannot bring replies back; those that can: {capable or 'none'}",
            path=found[0].path,
        )
    if len(able) > 1:
        choices = " or ".join(f"{one.provider}.{one.name}" for one in able)
        raise ProfileError(f"several profiles are called {wanted!r}; say {choices}")
    return able[0]


class Link:
    """A profile in use for requests, replies or both. Opened by the first of them."""

    def __init__(self, profile: Profile, plugin: Ingress) -> None:
        self.profile = profile
        self._plugin = plugin
        self._route = router(profile.routing_key)
        self._ctx = context_of(profile.name, profile.provider, profile.data, profile.settings)
        self._opening = asyncio.Lock()
        self._open = False

    def __repr__(self) -> str:
        return f"<Link {self.profile.provider}.{self.profile.name} {'open' if self._open else 'closed'}>"

    async def open(self) -> None:
        """Open the plugin's state, unless it is.

        :raises ConnectFailed: there is no connection, and the profile does not say to wait.
        """
        if self._open:
            return
        async with self._opening:
            if not self._open:
                if self._plugin.opener is not None:
                    self._ctx.state = await self._plugin.opener(self._ctx)
                self._open = True

    async def request(self, event: Envelope, seconds: float) -> Envelope:
        """Send a request and return the reply.

        :raises DeliveryTimeout: there was none within ``seconds``.
        :raises Rejected: it can never be delivered.
        :raises Unavailable: there is no connection, or it was lost before the reply came.
        """
        assert self._plugin.request is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if not self._open:
            await self.open()
            seconds = end - loop.time()
            if seconds <= 0:
                raise DeliveryTimeout(seconds)
        routed = event if self._route is None else self._route(event)
        found: Envelope = await self._plugin.request(self._ctx, routed, seconds)
        return found

    async def reply(self, address: str, event: Envelope) -> None:
        """Send a reply to an address that a request named.

        :raises Rejected: nobody waits there any more.
        """
        assert self._plugin.reply is not None
        await self.open()
        await self._plugin.reply(self._ctx, address, event)

    async def close(self) -> None:
        """Close what was opened."""
        async with self._opening:
            if self._open and self._plugin.closer is not None:
                await self._plugin.closer(self._ctx)
            self._open = False
