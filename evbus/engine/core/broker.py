"""The way in: encode a body, intercept it, queue it. This is the path that every put takes."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from evbus.engine.core.queue import Meta, Queue
from evbus.engine.core.settings import Settings
from evbus.engine.kit.counted import counted
from evbus.engine.kit.weight import UNBOUNDED
from evbus.errors import (
    BusForked,
    BusFull,
    BusStopped,
    EvbusError,
    InvalidHeader,
    InvalidRoutingKey,
    PayloadTooLarge,
)
from evbus.types import CONTENT_TYPE, Envelope, OwnHeaders, StandingHeaders, own_headers

__all__ = ["HANDLING", "IN_CALLBACK", "Broker", "Serializer", "put_arguments", "to_bytes"]

log = logging.getLogger("evbus.broker")

#: True where the bus itself runs an application's code: that code may put while the bus drains.
IN_CALLBACK: ContextVar[bool] = ContextVar("evbus_in_callback", default=False)

#: The task that handles an event, in whatever is called by it and in what that begins: none of it waits for
#: room that the end of the task may have to make.
HANDLING: ContextVar[asyncio.Task[Any] | None] = ContextVar("evbus_handling", default=None)

#: Profiles and routing keys whose shared part is remembered.
CACHE_PAIRS = 10_000

#: What is no event, at a glance.
_PLAIN = frozenset((dict, list, tuple, str, bytes, int, float, bool, type(None)))

_monotonic = time.monotonic
_brokers: weakref.WeakSet[Broker] = weakref.WeakSet()


#: A serialize plugin: what makes bytes of a body, and the content type of these.
Serializer = tuple[Callable[[Any], bytes], str]


def to_bytes(apply: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """Return ``apply`` with its text encoded: plugins written for pop-evbus 4 return strings."""

    def applied(body: Any) -> bytes:
        data = apply(body)
        return data.encode() if isinstance(data, str) else data

    return applied


# By profile, routing key, and the standing headers or None.
_Metas = dict[tuple[Any, Any, Any], Meta]
_Chosen = tuple[Callable[[Any], bytes], _Metas, OwnHeaders]


def _nowhere(_slot: Meta | Envelope) -> tuple[Any, ...]:
    return ()


class Broker:
    """Accept events.

    :param queue: where accepted events go.
    :param prepare: has :meth:`configure` called before the first event.
    :param select: returns the serializer that the application chose.
    :param new: the variables of ``hub.evbus``, where it may choose since pop-evbus 6.2 (``SERIAL_PLUGIN``).
    :param old: the variables of ``hub.serialize``, where it may choose up to pop-evbus 4 (``PLUGIN``).
        Either may change at any time; a change makes the broker select again.
    :ivar addressed: returns the routing key and the headers of a body that was put without a routing key.
    :ivar max_body: bytes that the body of an event may have, from here or from outside.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        prepare: Callable[[], None],
        select: Callable[[], Serializer],
        new: dict[str, Any],
        old: dict[str, Any],
    ) -> None:
        self.queue = queue
        self.refusal: type[EvbusError] | None = None
        self.draining = False
        self._route: Callable[[Meta | Envelope], tuple[Any, ...]] = _nowhere
        self.addressed: Callable[[Any, Any], tuple[str | None, Any]] = lambda body, headers: (None, headers)
        self._prepare = prepare
        self._select = select
        self._new = new
        self._old = old
        self._new_name: str | None = None
        self._old_name: str | None = None
        # One attribute, so that no thread sees the encoder of one serializer and the headers of another.
        self._chosen: _Chosen = (bytes, {}, OwnHeaders())
        self._send: Callable[[Envelope], None] | None = None
        self.max_body = 0
        self._full_policy = "raise"
        self._dropped_at = 0.0
        _brokers.add(self)

    def connect(self, route: Callable[[Meta | Envelope], tuple[Any, ...]]) -> None:
        """Let events that are put from now on know the lanes to which they go: ``route`` finds them."""
        self._route = route
        self._new_name = self._old_name = None  # what is remembered has none, or others

    def configure(self, settings: Settings, send: Callable[[Envelope], None] | None) -> None:
        """Take over the options, and the composed pipeline (None: there is none)."""
        self.max_body = settings.max_body or UNBOUNDED
        self.queue.bound(settings.queue_limit, settings.queue_bytes, self.max_body)
        self._full_policy = settings.full_policy
        self._send = send
        self._new_name = self._old_name = None

    def offer(
        self, routing_key: str | None, body: Any, profile: str, headers: Mapping[str, str] | None
    ) -> tuple[Meta | Envelope, bytes] | None:
        """Queue an event if that takes no time, else return what :meth:`insist` and :meth:`wait` take."""
        if self.refusal is not None:
            raise self.refusal
        if self._new["SERIAL_PLUGIN"] is not self._new_name or self._old["PLUGIN"] is not self._old_name:
            self._choose()
        if routing_key is None and type(body) not in _PLAIN:
            routing_key, headers = self.addressed(body, headers)
        meta: Meta | Envelope
        if self._send is None and (headers is None or type(headers) is StandingHeaders):
            apply, metas, shared = self._chosen
            data = apply(body)
            try:
                meta = metas[profile, routing_key, headers]
            except (KeyError, TypeError):
                meta = self._meta(metas, profile, routing_key, headers, shared)
        else:
            meta = self._intercepted(routing_key, body, profile, headers)
            data = meta.body
            self._route(meta)
        queue = self.queue
        inbox = queue.inbox
        size = len(data)
        if size <= queue.body_limit and len(inbox) < queue.inbox_limit:
            inbox.append((meta, data, _monotonic()))
            if queue.idle:
                queue.rouse()
            return None
        if size > self.max_body:
            raise PayloadTooLarge(size, self.max_body)
        return meta, data

    def insist(self, meta: Meta | Envelope, data: bytes) -> None:
        """Queue what :meth:`offer` did not, or do as the option ``full_policy`` says."""
        if not self.queue.put(meta, data, _monotonic()):
            self._overflow(meta, data)

    def refuse_unless_callback(self) -> None:
        """Refuse a put while the bus drains, unless the bus itself called whoever puts."""
        self.refuse_in_child()
        if not IN_CALLBACK.get():
            raise BusStopped

    def refuse_in_child(self) -> None:
        """Refuse what would take from the parent process after a fork.

        :raises BusForked: this process is the child.
        """
        if self.refusal is BusForked:
            raise BusForked

    async def wait(self, left: tuple[Meta | Envelope, bytes]) -> None:
        """Queue what :meth:`offer` did not, as soon as there is room.

        Even when there is room the loop gets its turn: the listener takes what is there, which is
        cheaper for all than to pack it away.
        """
        meta, data = left
        if self.queue.on_event is not None:
            await asyncio.sleep(0)
        handling = HANDLING.get()
        beyond = handling is not None and not handling.done()
        while True:
            since = self.queue.reliefs  # before anything is looked at that another thread may change
            if self.draining:
                self.refuse_unless_callback()
            if self.refusal is not None:
                raise self.refusal
            if self.queue.stalled and not beyond and any(lane.stalled for lane in self._route(meta)):
                await self.queue.wait_relief(since)
                continue
            if self.queue.put(meta, data, _monotonic(), beyond=beyond):
                return
            await self.queue.wait_room(len(data))

    def _meta(self, metas: _Metas, profile: Any, routing_key: Any, headers: Any, shared: OwnHeaders) -> Meta:
        """Return what the events have in common that are put with these names and standing headers."""
        _check_names(profile, routing_key)
        if len(metas) >= CACHE_PAIRS:
            metas.clear()
        known = shared if headers is None else OwnHeaders({**_check_headers(headers), **shared})
        meta = Meta(profile, routing_key or "", known)
        self._route(meta)
        metas[profile, routing_key, headers] = meta
        return meta

    def _choose(self) -> None:
        self._prepare()
        new, old = self._new["SERIAL_PLUGIN"], self._old["PLUGIN"]
        apply, content_type = self._select()
        self._chosen = (apply, {}, OwnHeaders({CONTENT_TYPE: content_type}))
        # Last: another thread that finds the names unchanged uses what was chosen.
        self._new_name, self._old_name = new, old

    def envelope(self, routing_key: Any, body: Any, profile: Any, headers: Any) -> Envelope:
        """Return the envelope that a put would queue, encoded and intercepted.

        :raises PayloadError: it cannot travel.
        """
        if self._new["SERIAL_PLUGIN"] is not self._new_name or self._old["PLUGIN"] is not self._old_name:
            self._choose()
        event = self._intercepted(routing_key, body, profile, headers)
        if len(event.body) > self.max_body:
            raise PayloadTooLarge(len(event.body), self.max_body)
        return event

    def _intercepted(self, routing_key: Any, body: Any, profile: Any, headers: Any) -> Envelope:
        """Make an envelope of its own: it has headers, or interceptors may give it some."""
        _check_names(profile, routing_key)
        own = _check_headers(headers or {})
        if CONTENT_TYPE in own and isinstance(body, bytes):
            data = body
        else:
            apply, _, shared = self._chosen
            data = apply(body)
            own[CONTENT_TYPE] = shared[CONTENT_TYPE]
        event = Envelope(profile, routing_key or "", data, own, _monotonic())
        self.prepare(event)
        return event

    def reply(self, body: Any, headers: Mapping[str, str]) -> Envelope:
        """Return the reply to a request, encoded; :meth:`prepare` runs the interceptors over it.

        :raises PayloadError: it cannot travel.
        """
        if self._new["SERIAL_PLUGIN"] is not self._new_name or self._old["PLUGIN"] is not self._old_name:
            self._choose()
        apply, _, shared = self._chosen
        data = apply(body)
        if len(data) > self.max_body:
            raise PayloadTooLarge(len(data), self.max_body)
        return Envelope("", "", data, {**headers, **shared}, _monotonic())

    @property
    def prepares(self) -> bool:
        """Whether there are interceptors that see what is sent."""
        return self._send is not None

    def prepare(self, event: Envelope) -> None:
        """Run the interceptors on an envelope that came from outside, as on one that is put.

        :raises PayloadError: they made something of it that cannot travel.
        """
        if self._send is not None:
            self._send(event)
            _check_headers(event.headers)
            _check_names(event.profile, event.routing_key)

    def _overflow(self, meta: Meta | Envelope, data: bytes) -> None:
        queue = self.queue
        if self._full_policy == "raise":
            events, size = queue.qsize() + queue.held, queue.size + queue.elsewhere
            raise BusFull(events, queue.limit, size, queue.size_limit)
        if self._full_policy == "drop_oldest":
            # What lanes hold beyond their buffers cannot be dropped here; then the new event gives way.
            queue.drop_oldest(len(data))
        if self._full_policy == "drop_newest" or not queue.put(meta, data, _monotonic()):
            queue.drop_newest()
        now = _monotonic()
        if now - self._dropped_at >= 1:
            self._dropped_at = now
            dropped = counted(queue.dropped, "event", "events")
            log.warning("the bus is full: %s dropped so far (%s)", dropped, self._full_policy)


def put_arguments(
    args: tuple[Any, ...], routing_key: Any, body: Any, profile: Any, headers: Any
) -> tuple[Any, Any, Any, Any]:
    """Return ``(routing_key, body, profile, headers)`` of a put with positional arguments.

    pop-evbus 4 had ``(routing_key, body, profile)``, 6 and 7 had ``(body, profile)``. A single argument is
    the body, as only 6 and 7 allowed it; of two the first is the body when it is no string. Of two strings
    the first is the routing key, which is told once where the second looks like the name of a profile.
    """
    given = {"routing_key": routing_key, "body": body, "headers": headers}
    given = {name: value for name, value in given.items() if value is not None}
    if profile != "default":
        given["profile"] = profile
    names: tuple[str, ...] = ("routing_key", "body", "profile", "headers")
    if len(args) == 1 and body is None:
        names = ("body",)
    elif len(args) == 2 and args[0] is not None and not isinstance(args[0], str):
        names = ("body", "profile")
    elif len(args) == 2 and args[1] == "default" and profile == "default":
        _tell_order()
    if len(args) > len(names):
        raise TypeError(f"put takes at most {len(names)} positional arguments, but {len(args)} were given")
    named = dict(zip(names, args))  # noqa: B905 - fewer arguments than names are the rule
    twice = named.keys() & given.keys()
    if twice:
        raise TypeError(f"put got several values for {', '.join(sorted(twice))}")
    merged = {"routing_key": None, "body": None, "profile": "default", "headers": None, **given, **named}
    return merged["routing_key"], merged["body"], merged["profile"], merged["headers"]


@functools.cache
def _tell_order() -> None:
    log.warning(
        "put(text, 'default') puts the body 'default' with a routing key; for a body and its profile, as in "
        "pop-evbus 6 and 7, write put(body=..., profile='default')"
    )


def _check_names(profile: Any, routing_key: Any) -> None:
    if not isinstance(profile, str):
        raise InvalidRoutingKey(f"a profile is a string, not {type(profile).__name__}")
    if routing_key is not None and not isinstance(routing_key, str):
        raise InvalidRoutingKey(f"a routing key is a string or None, not {type(routing_key).__name__}")


def _check_headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise InvalidHeader(f"headers are a mapping of strings to strings, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            wrong = (
                f"{name!r} is a header of type {type(value).__name__}"
                if isinstance(name, str)
                else f"{name!r}"
            )
            raise InvalidHeader(f"headers are a mapping of strings to strings; {wrong}")
    return own_headers(headers)


def _refuse_in_child() -> None:
    for broker in _brokers:
        broker.refusal = BusForked
        broker.queue.free_lock()


# What is queued and the loop that would drain it are the parent's.
os.register_at_fork(after_in_child=_refuse_in_child)
