"""The one place where others learn what happens on a bus: tests, the error callback, what shows it live.

Who wants to know derives :class:`Observer`, overrides what it wants to be told, and is added to the
:class:`Observers` of a hub (``hub.evbus.OBSERVERS``). Where nobody has asked for a kind of happening, its
attribute of :class:`Observers` is None, and looking at that is all that the bus does for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from evbus.engine.core.endpoint import Plugin
from evbus.types import Delivery, Envelope

__all__ = ["Observer", "Observers", "Told", "Where"]

log = logging.getLogger("evbus.observe")

#: The key of a lane, which is its plugin, provider and profile; ``listener <name>``, or ``handler <name>``.
Where = tuple[str, str, str] | str


class Observer:
    """Somebody who is told what happens on a bus.

    Unless it is said below, a function is called after the thing has happened, in the thread of the bus's
    event loop; it must not wait. What it raises is logged, and harms neither the bus nor other observers.
    ``listening`` is the ``Listening`` of a listener, which tells ``listener.name`` and ``spec``.
    """

    def accepted(self, event: Envelope, body: bytes) -> None:
        """Be told of an event that is put, or that comes in to be sent on, in the thread that puts it.

        It has passed the interceptors, and is queued next: only a bus that is full still refuses it.

        :param body: the encoded body, as it was before the interceptors changed it.
        """

    def delivered(self, where: Where, events: Sequence[Envelope]) -> None:
        """Be told of events that a lane has delivered, also in the thread that puts them."""

    def retried(self, where: Where, problem: BaseException, count: int) -> None:
        """Be told of an attempt that failed, with the number of events that are tried again."""

    def dead(
        self,
        event: Envelope | object,
        where: Where,
        reason: str,
        attempts: int,
        problem: BaseException,
    ) -> None:
        """Be told of an event that was given up, before that is recorded.

        :param event: the message itself where that was no event, but one of the dispatcher's.
        :param reason: in one line and without secrets, which ``problem`` may hold.
        """

    def left(self, event: Envelope, where: Where, reason: str) -> None:
        """Be told of an event that a stop of the bus has left undelivered, before that is recorded."""

    def dropped(self, where: Where, count: int) -> None:
        """Be told how many events gave way to others, from any thread, which has the queue's lock."""

    def subscribed(self, listening: Any) -> None:
        """Be told of a new listener, before it listens; the options in its ``spec`` may still be changed."""

    def received(self, listening: Any, deliveries: Sequence[Delivery]) -> None:
        """Be told of deliveries that a listener gets, before it is called with them."""

    def calling(self, listening: Any, events: Sequence[Any]) -> None:
        """Be told that a listener is called next; what this raises is what the attempt fails with."""

    def handled(self, listening: Any, events: Sequence[Any], problem: BaseException | None) -> None:
        """Be told that a listener has returned, or what it raised."""

    def connected(self, name: str) -> None:
        """Be told that the connection of a profile (``provider.profile``) is there."""

    def disconnected(self, name: str, reason: str) -> None:
        """Be told that a connection is lost, or closed (then without a reason)."""

    def gate(self, plugin: Plugin) -> Plugin:
        """Return the ingress plugin by which lanes publish, in place of the given one.

        Asked when the bus starts; what this raises ends the start.
        """
        return plugin


#: What an observer may be told, but for what the bus asks it.
KINDS = tuple(name for name in vars(Observer) if not name.startswith("_") and name != "gate")
#: Those whose exceptions are those of what is about to happen.
BEFORE = frozenset({"calling"})

Told = Callable[..., None]


class Observers:
    """All observers of a hub. Each kind of happening is an attribute: a function that tells them, or None."""

    accepted: Told | None
    delivered: Told | None
    retried: Told | None
    dead: Told | None
    left: Told | None
    dropped: Told | None
    subscribed: Told | None
    received: Told | None
    calling: Told | None
    handled: Told | None
    connected: Told | None
    disconnected: Told | None

    def __init__(self) -> None:
        self._all: tuple[Observer, ...] = ()
        self._changed: list[Callable[[], None]] = []
        self._compose()

    def __repr__(self) -> str:
        return f"<Observers {', '.join(type(one).__name__ for one in self._all)}>"

    def add(self, observer: Observer) -> None:
        """Tell an observer of what happens from now on."""
        self._all = (*self._all, observer)
        self._compose()

    def remove(self, observer: Observer) -> None:
        """Tell it nothing more."""
        self._all = tuple(one for one in self._all if one is not observer)
        self._compose()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever there are other observers, for what is composed of their functions."""
        self._changed.append(changed)

    def gate(self, plugin: Plugin) -> Plugin:
        """Return the ingress plugin that observers want in place of one."""
        for one in self._all:
            plugin = one.gate(plugin)
        return plugin

    def before(
        self, send: Callable[[Envelope], None] | None, limit: int
    ) -> Callable[[Envelope], None] | None:
        """Return ``send``, which runs the interceptors, so that observers are told of what passes it.

        :param limit: bytes of a body, beyond which it is refused next; 0 for any number.
        """
        accepted = self.accepted
        if accepted is None:
            return send

        def tell(event: Envelope) -> None:
            body = event.body
            if send is not None:
                send(event)
            # Messages of the dispatcher pass as well: they have no profile, and are not put on the bus.
            if event.profile and (not limit or len(event.body) <= limit):
                accepted(event, body)

        return tell

    def around(self, listening: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call``, which calls a listener, so that observers are told before and after it."""
        calling, handled = self.calling, self.handled
        if calling is None and handled is None:
            return call

        async def tell(event: Any, *more: Any) -> Any:
            events = event if listening.spec.batch else (event,)
            problem = None
            try:
                if calling is not None:
                    calling(listening, events)
                return await call(event, *more)
            except BaseException as exc:
                problem = exc
                raise
            finally:
                if handled is not None:
                    handled(listening, events, problem)

        return tell

    def connection(self, name: str, is_up: bool, reason: str) -> None:
        """Tell whether a connection is there."""
        if is_up and self.connected is not None:
            self.connected(name)
        elif not is_up and self.disconnected is not None:
            self.disconnected(name, reason)

    def _compose(self) -> None:
        for kind in KINDS:
            plain = getattr(Observer, kind)
            told = [getattr(one, kind) for one in self._all if getattr(type(one), kind) is not plain]
            setattr(self, kind, (_first if kind in BEFORE else _each)(told) if told else None)
        for changed in self._changed:
            changed()


def _each(told: Sequence[Told]) -> Told:
    def tell(*about: Any) -> None:
        for one in told:
            try:
                one(*about)
            except Exception:
                log.exception("an observer of the bus failed")

    return tell


def _first(told: Sequence[Told]) -> Told:
    """Return a function that lets the first exception through."""

    def tell(*about: Any) -> None:
        for one in told:
            one(*about)

    return tell
