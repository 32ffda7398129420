"""The bus of a test."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, overload

from evbus.engine.client.handle import Handle
from evbus.engine.codec.wrapped import unwrapped
from evbus.engine.core.lifecycle.running import running
from evbus.engine.core.plugins import dirs
from evbus.engine.core.plugins.in_use import ROOMS
from evbus.engine.core.settings import plain
from evbus.engine.kit.notifier import Notifier
from evbus.errors import EvbusError, SettleTimeout, nearest
from evbus.testing._failures import Failure
from evbus.testing._profiles import names, without_pauses
from evbus.testing._view import View, readable, told, traced
from evbus.testing._watch import Dead, Sent, Watch, unread
from evbus.types import Envelope

__all__ = ["Bus", "change"]

log = logging.getLogger("evbus.testing")

_Event = TypeVar("_Event")


class Bus(Handle):
    """A real bus, on memory, that tells what happened on it.

    :ivar hub: its hub, where everything else is found.
    """

    def __init__(self, the_hub: Any, profiles: Mapping[str, Any], patience: float) -> None:
        super().__init__(the_hub)
        self._profiles = profiles
        self._patience = patience
        self._notifier = Notifier()
        self._watch = Watch(self._read, self._notifier)
        self._view = View(the_hub, profiles, self._watch)
        self._running = contextlib.AsyncExitStack()
        self._started = False
        self._looked_at = 0

    def __repr__(self) -> str:
        state = self.hub.evbus.ENGINE.state.value
        return f"<Bus {state} sent={len(self._watch.sent)} dead={len(self._watch.deaths)}>"

    # What happened

    @property
    def recorded(self) -> list[Sent]:
        """Everything that was put on the bus, in order."""
        return list(self._watch.sent)

    @overload
    def sent(self, event: type[_Event], where: Callable[[_Event], bool] | None = None) -> list[_Event]: ...

    @overload
    def sent(self, event: str | None = None, where: Callable[[Any], bool] | None = None) -> list[Any]: ...

    def sent(self, event: Any = None, where: Callable[[Any], bool] | None = None) -> list[Any]:
        """Return the events that were sent and can be read, in order.

        :param event: a class, those of its subclasses among them; or the name of an event, or None for all.
        :param where: returns whether an event is wanted.
        """
        is_one = self._view.sent_is(event)
        events = readable([one for one in self._watch.sent if is_one(one)])
        return [one for one in events if where is None or where(one)]

    @property
    def dead(self) -> list[Dead]:
        """The dead letters of lanes, listeners and handlers, in order. Who looks at them takes care of them.

        The test does not fail for the sake of what was looked at.
        """
        self._looked_at = len(self._watch.deaths)
        return list(self._watch.deaths)

    # Waiting

    @overload
    async def expect(  # type: ignore[overload-overlap]
        self,
        event: type[_Event],
        where: Callable[[_Event], bool] | None = None,
        *,
        timeout: float = 1.0,
        count: Literal[1] = 1,
    ) -> _Event: ...

    @overload
    async def expect(
        self,
        event: type[_Event],
        where: Callable[[_Event], bool] | None = None,
        *,
        timeout: float = 1.0,
        count: int,
    ) -> list[_Event]: ...

    @overload
    async def expect(
        self, event: str, where: Callable[[Any], bool] | None = None, *, timeout: float = 1.0, count: int = 1
    ) -> Any: ...

    async def expect(
        self,
        event: Any,
        where: Callable[[Any], bool] | None = None,
        *,
        timeout: float = 1.0,
        count: int = 1,
    ) -> Any:
        """Return an event that was sent, or that is sent within ``timeout`` seconds.

        :param event: its class, or its name.
        :param where: returns whether it is the one.
        :param count: how many there have to be; of several a list is returned.
        :raises AssertionError: it was not sent; tells what was.
        """
        __tracebackhide__ = True
        _check_count(count, "expect")
        is_one = self._view.sent_is(event)
        new = unread(self._watch.sent, is_one)
        met: list[Any] = []

        def look() -> list[Any] | None:
            met.extend(one for one in readable(new()) if where is None or where(one))
            return met[:count] if len(met) >= count else None

        found = await self._notifier.until(look, timeout)
        if found is None:
            raise AssertionError(self._view.not_sent(event, where, count, timeout))
        return found[0] if count == 1 else found

    @overload
    async def handled(  # type: ignore[overload-overlap]
        self,
        event: type[_Event],
        where: Callable[[_Event], bool] | None = None,
        *,
        listener: str = "",
        timeout: float = 1.0,
        count: Literal[1] = 1,
    ) -> _Event: ...

    @overload
    async def handled(
        self,
        event: type[_Event],
        where: Callable[[_Event], bool] | None = None,
        *,
        listener: str = "",
        timeout: float = 1.0,
        count: int,
    ) -> list[_Event]: ...

    @overload
    async def handled(
        self,
        event: str,
        where: Callable[[Any], bool] | None = None,
        *,
        listener: str = "",
        timeout: float = 1.0,
        count: int = 1,
    ) -> Any: ...

    async def handled(
        self,
        event: Any,
        where: Callable[[Any], bool] | None = None,
        *,
        listener: str = "",
        timeout: float = 1.0,
        count: int = 1,
    ) -> Any:
        """Return an event that a listener has handled, or handles within ``timeout`` seconds.

        :param listener: the name of the listener; default: any.
        :param count: how often it has to be handled; of several a list is returned.
        :raises AssertionError: it was not handled; tells what listeners did. At once when one gave it up
            that was not meant to.
        """
        __tracebackhide__ = True
        _check_count(count, "handled")
        self._check_started("handled")
        is_one = self._view.handled_is(event, where, listener)

        new = unread(self._watch.handlings, lambda one: one.error is None and is_one(one))
        done: list[Any] = []

        def look() -> list[Any] | Dead | None:
            done.extend(one.event for one in new())
            return done[:count] if len(done) >= count else self._view.given_up(is_one)

        found = await self._notifier.until(look, timeout)
        if isinstance(found, Dead):
            self._looked_at = len(self._watch.deaths)
            raise AssertionError(traced(found, self._watch.errors))  # noqa: TRY004 - the test fails
        if found is None:
            raise AssertionError(self._view.not_handled(event, listener, count, timeout))
        return found[0] if count == 1 else found

    async def settle(self, timeout: float | None = None) -> None:
        """Return when everything that was put is delivered, and every listener is done with it.

        What is on its way to a destination that fails for good (:meth:`fail`) is not waited for.

        :param timeout: seconds; default: what the bus was made with, 5.
        :raises AssertionError: it took longer; tells what is left.
        """
        __tracebackhide__ = True
        self._check_started("settle")
        seconds = self._patience if timeout is None else timeout
        left = await self._settled(seconds)
        if left:
            raise AssertionError(str(SettleTimeout(seconds, left)))

    def _busy(self) -> list[str]:
        return self._view.busy()

    # Failures

    def fail(
        self,
        destination: str = "",
        *,
        listener: str = "",
        times: int | None = 1,
        error: Exception | None = None,
    ) -> Failure:
        """Let deliveries to a destination, or calls of a listener, fail from now on.

        They are tried again as the real ones are, without the pauses. ``Unavailable`` is tried for ever,
        ``Rejected`` never, and other exceptions as often as the profile or the listener says.

        :param destination: the name of a profile.
        :param listener: the name of a listener.
        :param times: how many attempts fail; None for all, until ``mend()`` of what is returned.
        :param error: what is raised; default: ``Unavailable`` for a destination.
        :raises ValueError: there is no such profile.
        """
        __tracebackhide__ = True
        if bool(destination) == bool(listener):
            raise ValueError("say what is to fail: fail('a profile') or fail(listener='a listener')")
        if listener:
            return self._watch.add("listener", listener, error, times)
        known = names(self._profiles)
        if destination not in known:
            raise ValueError(
                f"there is no profile {destination!r} on this bus{nearest(destination, known)}; give it one: "
                f"profiles={{'internal': {{'default': {{}}, {destination!r}: {{}}}}}}"
            )
        return self._watch.add("destination", destination, error, times)

    # Its life

    @contextlib.contextmanager
    def watched(self) -> Iterator[Bus]:
        """Note what happens on the hub from now on, and leave the hub as it was."""
        there = [(entry.listening, entry.listening.spec) for entry in self.hub.event.SUBSCRIPTIONS]
        for listening, _ in there:
            self._watch.subscribed(listening)
        self.hub.evbus.OBSERVERS.add(self._watch)
        try:
            yield self
        finally:
            self.hub.evbus.OBSERVERS.remove(self._watch)
            for listening, spec in there:
                listening.spec = spec

    async def start(self) -> None:
        """Start the bus in the running loop."""
        await self._running.enter_async_context(running(self.hub, without_pauses(self._profiles)))
        self._started = True
        try:
            self._refuse_broken()
        except BaseException:
            await self.stop(hurry=True)
            raise

    def _check_started(self, what: str) -> None:
        if not self._started:
            raise EvbusError(
                f"{what}() waits for a bus that runs, and this one starts and ends with the test"
            )

    def _refuse_broken(self) -> None:
        """Raise what is wrong with a plugin of the application: a test without it would test nothing."""
        folders = self.hub.evbus.init.settings().plugin_dirs
        for found in self.hub.evbus.init.plugins().values():
            for plugin in found:
                own = dirs.inside(folders, plugin.file)
                if plugin.state == "broken" and (own or plugin.subsystem in ROOMS):
                    raise plugin.error()

    async def stop(self, *, hurry: bool) -> None:
        """Stop the bus; what it has still to deliver is left with ``hurry``."""
        self._started = False
        if self.hub.dispatch.init.running():
            await self.hub.dispatch.init.stop(timeout=0 if hurry else None)
        if hurry or any(failure.active for failure in self._watch.all):
            change(self.hub, drain_timeout=0.0)
            self.hub.evbus.ENGINE.hurry()
        await self._running.aclose()

    async def finish(self) -> None:
        """Let everything be done, stop, and fail for what went wrong and nobody looked at.

        :raises AssertionError: tells of each with its traceback.
        """
        __tracebackhide__ = True
        unsettled = ""
        try:
            await self.settle()
        except AssertionError as exc:
            unsettled = str(exc)
        await self.stop(hurry=bool(unsettled))
        problems = [one for one in self._watch.deaths[self._looked_at :] if not one.injected]
        if problems:
            raise AssertionError(told(problems, self._watch.errors))
        if unsettled:
            raise AssertionError(unsettled)
        idle = [failure for failure in self._watch.all if not failure.failed]
        if idle:
            raise AssertionError(
                f"{idle[0].what} was to fail with {idle[0].error!r}, but nothing came to it: "
                f"{self._view.what_was_sent()}"
            )

    async def abandon(self) -> None:
        """Stop at once, as the test has failed; log what else went wrong, which may be the reason."""
        await self.stop(hurry=True)
        problems = [one for one in self._watch.deaths[self._looked_at :] if not one.injected]
        if problems:
            log.error("%s", told(problems, self._watch.errors))

    def _read(self, envelope: Envelope) -> tuple[Any, bool]:
        envelope = unwrapped(envelope)
        event = self.hub.event
        spec = event.REGISTRY.named(envelope.headers.get("evbus-message") or envelope.routing_key)
        if spec is not None and spec.cls is not None:
            return event.READER.read(spec, envelope), True
        kind = envelope.headers.get("content-type", "")
        serialize = self.hub.serialize
        return serialize[serialize.init.by_content_type(kind)].load(envelope.body), False


def _check_count(count: int, what: str) -> None:
    if type(count) is not int or count < 1:
        raise ValueError(
            f"{what} waits for 1 or more; to see that there is none: await bus.settle(), then look at "
            "bus.sent(Event)"
        )


def change(the_hub: Any, **options: Any) -> None:
    """Set options of the section ``evbus``; the others stay."""
    # What is immutable already would be taken for a list of its keys.
    known = plain(the_hub.OPT or {})
    known["evbus"] = {**known.get("evbus", {}), **options}
    the_hub.OPT = the_hub.pop.data.imap(known)
