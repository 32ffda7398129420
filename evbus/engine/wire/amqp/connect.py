"""Connect to an AMQP 0-9-1 broker: handshake, channels, declarations are aio-pika's, the transport is ours.

What lies below aio-pika, aiormq, is used in this file only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, Self
from urllib.parse import quote

import aio_pika
import aiormq.connection
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, UnderlayConnection
from yarl import URL

from evbus.engine.kit.redact import one_line, said
from evbus.engine.kit.waiting import call
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.transport import Sink, Wire
from evbus.engine.wire.base.dial import (
    TLS_ALERT,
    Way,
    attempt,
    causes,
    connection_of,
    dial,
    hung_up,
    reason,
    wants_tls,
)
from evbus.engine.wire.base.profile import Address
from evbus.engine.wire.base.shared import Role
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryTimeout, Unavailable
from evbus.version import version

__all__ = ["AmqpSession", "Name", "Refused", "connection", "never"]

log = logging.getLogger("evbus.connection")

#: Set in the tasks of connections that are evbus's own: what happens to those is told once, by evbus.
_OURS: ContextVar[bool] = ContextVar("evbus_amqp", default=False)

#: Seconds that a channel may take to open, and each step of a topology.
RPC_TIMEOUT = 10.0
#: Bytes of a short string (section 4.2.5.3), which names of queues and exchanges are.
LONGEST_NAME = 255
#: What the broker has closed a channel with (section 1.2).
_CODES = {
    aiormq.exceptions.ChannelAccessRefused: 403,
    aiormq.exceptions.ChannelNotFoundEntity: 404,
    aiormq.exceptions.ChannelLockedResource: 405,
    aiormq.exceptions.ChannelPreconditionFailed: 406,
}


def _not_ours(record: logging.LogRecord) -> bool:
    """Pass what aiormq logs of other people's connections; of ours it would repeat each attempt."""
    return not _OURS.get()


for _name in ("aiormq.connection", "aiormq.channel"):
    logging.getLogger(_name).addFilter(_not_ours)


class Refused(Unavailable):
    """The broker refuses what was to be done on a channel, and has closed that.

    :ivar code: its reply code (section 1.2), 0 when it is another than 403 to 406.
    :ivar text: what it says.
    """

    def __init__(self, code: int, text: str, said: str = "") -> None:
        super().__init__(said or text)
        self.code = code
        self.text = text


class Name(str):
    """A name of a queue or an exchange: any UTF-8 of 255 bytes, as AMQP and the brokers have it.

    aio-pika takes letters of ASCII and few signs only. It looks at the characters of a text, of which this
    has none, and writes what :meth:`encode` returns.

    :raises ValueError: it is longer.
    """

    __slots__ = ("_name",)
    _name: str

    def __new__(cls, name: str) -> Self:  # noqa: D102 - documented with the class
        if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
            raise ValueError(f"it has more than {LONGEST_NAME} bytes of UTF-8")
        made = super().__new__(cls)
        made._name = name
        return made

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return bool(self._name)

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Return the bytes of the name."""
        return self._name.encode(encoding, errors)


class _Transport(aiormq.connection.TransportFactory):
    """Brings aiormq the transport that :class:`Wire` watches."""

    def __init__(self, way: Way) -> None:
        self.wire = Wire(asyncio.get_running_loop())
        self._way = way

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        transport, _ = await dial(lambda: self.wire, self._way)
        return self.wire.reader, asyncio.StreamWriter(transport, self.wire, self.wire.reader, loop)


class _Link(aio_pika.Connection):
    """A connection of aio-pika that is closed by its session, and not by whoever collects garbage."""

    def __del__(self) -> None:
        pass


class AmqpSession:
    """A connection as long as it lives.

    :ivar wire: its transport, for what is written and read by the thousand.
    :ivar transport: what aio-pika opens channels on.
    :ivar server: the version of the broker, such as ``(4, 0, 5)``; empty when it is no RabbitMQ.
    :ivar told: warnings about what is declared on it, each of which is given once.
    :ivar lost: see :class:`evbus.engine.wire.base.supervisor.LiveSession`.
    """

    def __init__(self, link: aio_pika.Connection, wire: Wire, heartbeat: float) -> None:
        assert link.transport is not None
        self.wire = wire
        self.lost = wire.lost
        self.transport: UnderlayConnection = link.transport
        tune, properties = _negotiated(link.transport)
        self.frame_max: int = tune.frame_max or 2**31
        self.server = _version(properties)
        self.told: set[str] = set()
        self._link = link
        self._heartbeat = heartbeat
        self._watch = None if not heartbeat else self._later(heartbeat)
        self._probing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def blocked(self) -> str:
        """The reason for which the broker takes nothing (an alarm), ``""`` when it does."""
        return self.wire.blocked

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever the broker blocks the connection or no longer does."""
        self.wire.on_blocked = changed

    def _later(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Give the connection up when two heartbeats are missing (section 4.2.7)."""
        if self.lost.done():
            return
        silence = asyncio.get_running_loop().time() - self.wire.last_received
        if silence > 2 * self._heartbeat:
            self.wire.end(f"nothing came from the broker for {silence:.0f} s (two heartbeats)")
            self.wire.abort()
            return
        self._watch = self._later(self._heartbeat / 2)

    def probe(self, seconds: float) -> None:
        """Give the connection up when its heartbeats go on and it answers nothing else within ``seconds``.

        For whoever waits for an answer too long. One that an alarm blocks is not read by the broker, and one
        without heartbeats is looked after already.
        """
        if not self.lost.done() and not self.blocked and (self._probing is None or self._probing.done()):
            self._probing = asyncio.ensure_future(self._probe(seconds))

    async def _probe(self, seconds: float) -> None:
        began = asyncio.get_running_loop().time()
        opening = asyncio.ensure_future(self._new_channel())
        try:
            while not (await asyncio.wait({opening}, timeout=seconds))[0]:
                if not self.blocked and self.wire.last_received > began:
                    self.wire.end(f"the broker sends heartbeats, and answered nothing else for {seconds:g} s")
                    self.abort()
                    return
            await opening.result().close()
        except Exception as exc:
            # The broker refuses one more channel, or the connection is lost.
            log.debug("looking whether a connection answers failed: %s", one_line(exc))
        finally:
            opening.cancel()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """Open a channel.

        :param confirms: let the broker confirm what is published on it; they are counted by who attaches.
        :raises Unavailable: the connection is lost.
        """
        if self.lost.done():
            raise Unavailable(f"the connection is lost: {self.lost.result()}")
        found: AbstractChannel = await self.rpc(self._new_channel(confirms=confirms))
        return found

    async def _new_channel(self, *, confirms: bool = False) -> AbstractChannel:
        # What happens to it is told by evbus, and what aiormq logs of it is let through nowhere.
        token = _OURS.set(True)
        try:
            channel = self._link.channel(publisher_confirms=confirms)
            await channel.initialize()
        finally:
            _OURS.reset(token)
        self.wire.opened(channel.number)
        return channel

    async def leave(self, channel: AbstractChannel, sink: Sink | None = None) -> None:
        """Close a channel, unless the broker has, and hand its frames to ``sink`` no more.

        Cancelled, that still goes on: a broker ends the connection when a channel is closed twice.
        """
        closing = asyncio.ensure_future(self._close(channel, sink))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.wait({closing})

    async def _close(self, channel: AbstractChannel, sink: Sink | None) -> None:
        try:
            if not self.lost.done() and not channel.is_closed and not self.wire.is_closed(channel.number):
                await self.rpc(channel.close())
        except Exception as exc:
            log.debug("closing a channel failed: %s", one_line(exc))
        finally:
            if sink is not None:
                self.wire.detach(channel.number, sink)

    async def rpc(self, call_of_aio_pika: Any) -> Any:
        """Await what aio-pika does on a channel, for at most ten seconds.

        :raises Refused: the broker has closed the channel.
        :raises Unavailable: it took longer, or the connection is lost meanwhile.
        """
        # What aiormq logs of it is known by the context, also that of the tasks that it begins for a channel.
        ours = _OURS.set(True)
        cancels = _cancels()
        try:
            answer = await call(_coroutine(call_of_aio_pika), RPC_TIMEOUT)
        except DeliveryTimeout as exc:
            self.probe(RPC_TIMEOUT)
            raise Unavailable(f"the broker did not answer within {RPC_TIMEOUT:g} s") from exc
        except Exception as exc:
            # aiormq closes a channel whose call is cancelled, and may say that instead.
            if _cancels() > cancels:
                raise asyncio.CancelledError from exc
            if self.lost.done():
                raise Unavailable(f"the connection is lost: {self.lost.result()}") from exc
            if self.transport.connection.is_closed:
                # Its transport is about to follow: an error of the client library is no fault of the call.
                raise Unavailable(f"the connection is being closed: {one_line(exc)}") from exc
            if isinstance(exc, aio_pika.exceptions.AMQPChannelError):
                text = one_line(exc.args[0] if exc.args else exc)
                raise Refused(
                    next((code for kind, code in _CODES.items() if isinstance(exc, kind)), 0), text
                ) from exc
            raise
        finally:
            _OURS.reset(ours)
        if _cancels() > cancels:
            raise asyncio.CancelledError  # which the closing of a channel keeps to itself
        return answer

    async def close(self) -> None:
        """Close the connection as the protocol wants it (section 2.2.4)."""
        if self._closing:
            await asyncio.wait(self._closing)
        self._end_tasks()
        await self._link.close()

    def _end_tasks(self) -> None:
        for closing in self._closing:
            closing.cancel()
        if self._watch is not None:
            self._watch.cancel()
        # One that finds the connection silent ends it, and so itself.
        if self._probing is not None and self._probing is not asyncio.current_task():
            self._probing.cancel()

    def abort(self) -> None:
        """Drop it."""
        self._end_tasks()
        self.wire.end("it was closed")
        self.wire.abort()


def _cancels() -> int:
    """Return how often the present task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _negotiated(transport: UnderlayConnection) -> tuple[Any, Mapping[str, Any]]:
    """Return what was agreed upon in the handshake, and what the broker says of itself."""
    link = transport.connection
    return link.connection_tune, link.server_properties


def _version(properties: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the version that RabbitMQ shows with its ``connection.start`` (section 1.4.2.1)."""
    product, said = (_text(properties.get(key, "")) for key in ("product", "version"))
    numbers = [int(part) for part in said.split("-")[0].split(".")[:3] if part.isdecimal()]
    return tuple(numbers) if product == "RabbitMQ" else ()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)


async def never(_: Any) -> None:
    """Stand for a consumer of aio-pika whose deliveries :class:`Wire` hands to a sink."""


async def _coroutine(awaitable: Any) -> Any:
    return await awaitable


def connection(
    profile: Profile, name: str, provider: str = "amqp", role: Role = "lanes"
) -> Connection[AmqpSession]:
    """Return the connection of a profile, not yet open.

    :raises ProfileError: a file of ``tls`` is not usable.
    """
    shown = name if role == "lanes" else f"{name} {role}"
    return connection_of(profile, f"{provider} profile {name!r}", partial(_dial, profile, shown))


async def _dial(profile: Profile, name: str, way: Way) -> AmqpSession:
    _OURS.set(True)
    transport, address = _Transport(way), profile.where()
    wire = transport.wire
    url = URL(
        f"amqp://{quote(address.login, safe='')}:{quote(address.password, safe='')}@{_bracketed(way.host)}"
        f":{way.port}/{'' if address.vhost == '/' else quote(address.vhost, safe='')}"
        f"?heartbeat={_whole(profile.heartbeat)}&auth={profile.auth}",
        encoded=True,
    )
    properties = {"product": "evbus", "version": version, "connection_name": f"evbus {name} ({os.getpid()})"}
    link = _Link(url, client_properties={**properties, **profile.client_properties})
    link.kwargs["transport_factory"] = transport

    def abort() -> None:
        wire.end("it was never opened")
        wire.abort()

    def why(problem: Exception) -> str:
        return f"{way}: {_why(problem, wire, address, profile)}"

    await attempt(link.connect(), profile.connect_timeout, abort, why)
    return AmqpSession(link, wire, _whole(profile.heartbeat))


def _whole(seconds: float) -> int:
    """Return the heartbeat as AMQP has it, in whole seconds."""
    return max(1, round(seconds)) if seconds else 0


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _why(problem: Exception, wire: Wire, address: Address, profile: Profile) -> str:
    """Return why connecting failed and what would be right."""
    if wire.closed_by is not None:
        return _refusal(*wire.closed_by, address, profile)
    found = reason(problem, unresolved="cannot be reached: ")
    if found:
        return found
    for cause in causes(problem):
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
            return f"cannot be reached: {cause.strerror or cause}"
    return _silent(problem, wire, address, profile)


def _silent(problem: Exception, wire: Wire, address: Address, profile: Profile) -> str:
    if wire.strange.startswith(TLS_ALERT):
        return wants_tls("amqps")
    if wire.strange:
        return f"what answers there is no AMQP 0-9-1 broker (it said {one_line(wire.strange[:20])})"
    if isinstance(problem, DeliveryTimeout):
        hint = "; is this the port of an AMQP broker?" if wire.connections_made else ""
        return f"no answer within {profile.connect_timeout:g} s (connect_timeout){hint}"
    if isinstance(problem, aio_pika.exceptions.AuthenticationError):
        by = "certificate" if profile.auth == "external" else "password"
        return f"the broker offers no login by {by} (auth: {profile.auth})"
    if wire.connections_made and not wire.heard:
        return hung_up(address.tls, "amqps")
    return said(problem)


def _refusal(code: int, text: str, address: Address, profile: Profile) -> str:
    """Return a sentence for the ``connection.close`` of a handshake (section 1.2 lists the codes)."""
    external = profile.auth == "external"
    if code == 403 and external:
        return f"the broker refused the login by certificate: {one_line(text)}"
    if code == 403:
        user = repr(address.login)
        return f"the broker refused the login of the user {user}: login and password are to be checked"
    if code == 530 and "not found" in text:
        return f"there is no vhost {address.vhost!r} on the broker"
    if code == 530:
        user = "of the certificate" if external else repr(address.login)
        return f"the user {user} may not use the vhost {address.vhost!r}: {one_line(text)}"
    return f"the broker refused: {one_line(text)} ({code})"
