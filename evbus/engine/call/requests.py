"""Requests that go out through a profile and whose replies come back through it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from evbus.engine.core.endpoint import Endpoint, Plugin, router
from evbus.engine.kit.redact import problem_text, secrets_of
from evbus.engine.kit.waiting import Deadline
from evbus.engine.wire.base.requests import SingleFlight
from evbus.errors import DeliveryError, DeliveryTimeout, EvbusError, ProfileError, Unavailable, nearest
from evbus.types import Envelope

__all__ = ["RequestLink", "find"]

log = logging.getLogger("evbus.rpc")

_Done = TypeVar("_Done")


def find(
    profiles: Sequence[Endpoint], plugins: Iterable[Plugin], wanted: str, *, replies: bool = False
) -> Endpoint:
    """Return the profile called ``wanted``, or ``provider.name``, if requests can go through it.

    :param replies: it is to send replies to the requests of others, instead.
    :raises ProfileError: there is none, there are several, or its plugin cannot do that.
    """
    found = [one for one in profiles if wanted in (one.name, f"{one.provider}.{one.name}")]
    if not found:
        hint = nearest(wanted, [one.name for one in profiles])
        raise ProfileError(f"there is no profile {wanted!r} for requests{hint}")
    function = "reply" if replies else "request"
    capable = sorted(plugin.name for plugin in plugins if function in plugin.functions)
    able = [one for one in found if one.plugin.name in capable]
    if not able:
        what = "send replies" if replies else "bring replies back"
        can = ", ".join(capable) or "none"
        raise ProfileError(
            f"the plugin {found[0].plugin.name!r} cannot {what}; those that can: {can}", path=found[0].path
        )
    if len(able) > 1:
        choices = " or ".join(f"{one.provider}.{one.name}" for one in able)
        raise ProfileError(f"several profiles are called {wanted!r}; say {choices}")
    return able[0]


class RequestLink:
    """A profile in use for requests, replies or both. Opened by the first of them, and closed once.

    What a plugin raises that is no error of evbus comes out as :class:`~evbus.errors.DeliveryError`, without
    the secrets of the profile.
    """

    def __init__(self, profile: Endpoint) -> None:
        self.profile = profile
        self.name = f"{profile.provider} profile {profile.name!r}"
        self._functions = profile.plugin.functions
        self._route = router(profile.routing_key)
        self._ctx = profile.context()
        self._opening = SingleFlight(self._attempt, self._gone)
        self._open = False

    def __repr__(self) -> str:
        state = "closed" if self._opening.closed else "open" if self._open else "not open yet"
        return f"<Link {self.profile.provider}.{self.profile.name} {state}>"

    async def open(self) -> None:
        """Open the plugin's state, unless it is.

        :raises ConnectFailed: there is no connection, and the profile does not say to wait.
        """
        await self._opened(None)

    async def request(self, event: Envelope, seconds: float) -> Envelope:
        """Send a request and return the reply.

        :raises DeliveryTimeout: there was none within ``seconds``.
        :raises Rejected: it can never be delivered.
        :raises Unavailable: there is no connection, or it was lost before the reply came.
        """
        left = seconds
        if not self._open:
            loop = asyncio.get_running_loop()
            end = loop.time() + seconds
            await self._opened(seconds)
            left = end - loop.time()
            if left <= 0:
                raise self._late(seconds)
        routed = event if self._route is None else self._route(event)
        deadline = Deadline(left)
        try:
            return await self._do(self._functions["request"](self._ctx, routed, left), deadline)
        except DeliveryTimeout as exc:
            raise self._late(seconds) from exc.__cause__
        finally:
            deadline.close()

    async def reply(self, address: str, event: Envelope) -> None:
        """Send a reply to an address that a request named.

        :raises Rejected: nobody waits there any more.
        :raises Unavailable: there is no connection.
        """
        if not self._open:
            await self._opened(None)
        await self._do(self._functions["reply"](self._ctx, address, event))

    async def close(self) -> None:
        """Close what was opened. Requests that are under way fail."""
        await self._opening.close()
        if self._open:
            self._open = False
            if "close" in self._functions:
                await self._do(self._functions["close"](self._ctx))

    # Opening

    async def _opened(self, seconds: float | None) -> None:
        """Return when it is open; all who need it wait for the same attempt."""
        if self._open:
            return
        try:
            await self._opening.open(seconds)
        except TimeoutError:
            assert seconds is not None
            raise self._late(seconds) from None

    async def _attempt(self) -> None:
        if "open" in self._functions:
            self._ctx.state = await self._do(self._functions["open"](self._ctx))
        self._open = True

    async def _do(self, coroutine: Coroutine[Any, Any, _Done], deadline: Deadline | None = None) -> _Done:
        """Await what a plugin does, without a deadline as long as it takes."""
        try:
            found: _Done = await (deadline or Deadline(0)).call(coroutine)
        except EvbusError:
            raise
        except Exception as exc:
            raise self.problem(exc, "the plugin failed") from None
        return found

    def problem(self, exc: Exception, what: str) -> DeliveryError:
        """Return an error for an exception of a plugin, without the secrets of the profile."""
        log.debug("%s: %s", self.name, what, exc_info=exc)
        reason = problem_text(exc, secrets_of(self.profile.data))
        return DeliveryError(f"{self.name}: {what}: {reason}")

    def _late(self, seconds: float) -> DeliveryTimeout:
        problem = DeliveryTimeout(seconds)
        # By itself it speaks of an option of deliveries, which has no say here.
        problem.args = (f"{self.name}: no reply came within {seconds:g} s",)
        return problem

    def _gone(self) -> Unavailable:
        return Unavailable(f"{self.name}: it was closed, and takes no requests any more")
