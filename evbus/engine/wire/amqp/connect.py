"""Connect to an AMQP 0-9-1 broker. The handshake and the channels are aiormq's, the transport is ours."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import quote

import aiormq
import aiormq.abc
from aiormq.connection import TransportFactory
from yarl import URL

from evbus.engine.kit.redact import one_line, said
from evbus.engine.kit.waiting import call
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.transport import Wire
from evbus.engine.wire.base.address import Address
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
from evbus.engine.wire.base.shared import Role
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryTimeout, Unavailable
from evbus.version import version

__all__ = ["AmqpSession", "connection"]

log = logging.getLogger("evbus.connection")

#: Set in the tasks of connections that are evbus's own: what happens to those is told once, by evbus.
_OURS: ContextVar[bool] = ContextVar("evbus_amqp", default=False)

#: Seconds that a channel may take to open, and each step of a topology.
RPC_TIMEOUT = 10.0


def _not_ours(record: logging.LogRecord) -> bool:
    """Pass what aiormq logs of other people's connections; of ours it would repeat each attempt."""
    return not _OURS.get()


for _name in ("aiormq.connection", "aiormq.channel"):
    logging.getLogger(_name).addFilter(_not_ours)


class _AmqpTransport(TransportFactory):
    """Brings aiormq the transport that :class:`Wire` watches."""

    def __init__(self, way: Way) -> None:
        self.wire = Wire(asyncio.get_running_loop())
        self._way = way

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        transport, _ = await dial(lambda: self.wire, self._way)
        return self.wire.reader, asyncio.StreamWriter(transport, self.wire, self.wire.reader, loop)


class AmqpSession:
    """A connection as long as it lives.

    :ivar wire: its transport, for what is written and read by the thousand.
    :ivar server: the version of the broker, such as ``(4, 0, 5)``; empty when it is no RabbitMQ.
    :ivar told: warnings about what is declared on it, each of which is given once.
    :ivar lost: see :class:`evbus.engine.wire.base.supervisor.LiveSession`.
    """

    def __init__(self, link: aiormq.abc.AbstractConnection, wire: Wire, heartbeat: float) -> None:
        self.wire = wire
        self.lost = wire.lost
        self.frame_max: int = link.connection_tune.frame_max or 2**31
        self.server = _version(link.server_properties)
        self.told: set[str] = set()
        self._link = link
        self._heartbeat = heartbeat
        self._watch = None if not heartbeat else self._later(heartbeat)
        self._probing: asyncio.Task[None] | None = None

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

    async def channel(self) -> aiormq.abc.AbstractChannel:
        """Open a channel without confirms, which aiormq would count itself.

        :raises Unavailable: the connection is lost.
        """
        if self.lost.done():
            raise Unavailable(f"the connection is lost: {self.lost.result()}")
        channel = await self.rpc(self._new_channel())
        assert isinstance(channel, aiormq.abc.AbstractChannel)
        return channel

    async def _new_channel(self) -> aiormq.abc.AbstractChannel:
        # What happens to it is told by evbus, and what aiormq logs of it is let through nowhere.
        token = _OURS.set(True)
        try:
            return await self._link.channel(publisher_confirms=False)
        finally:
            _OURS.reset(token)

    async def rpc(self, call_of_aiormq: Any) -> Any:
        """Await what aiormq does on a channel, for at most ten seconds.

        :raises Unavailable: it took longer, or the connection is lost meanwhile.
        """
        # What aiormq logs of it is known by the context, also that of the tasks that it begins for a channel.
        ours = _OURS.set(True)
        cancels = _cancels()
        try:
            answer = await call(_coroutine(call_of_aiormq), RPC_TIMEOUT)
        except DeliveryTimeout as exc:
            self.probe(RPC_TIMEOUT)
            raise Unavailable(f"the broker did not answer within {RPC_TIMEOUT:g} s") from exc
        except Exception as exc:
            # aiormq closes a channel whose call is cancelled, and may say that instead.
            if _cancels() > cancels:
                raise asyncio.CancelledError from exc
            if self.lost.done():
                raise Unavailable(f"the connection is lost: {self.lost.result()}") from exc
            if self._link.is_closed:
                # Its transport is about to follow: an error of the client library is no fault of the call.
                raise Unavailable(f"the connection is being closed: {one_line(exc)}") from exc
            raise
        finally:
            _OURS.reset(ours)
        if _cancels() > cancels:
            raise asyncio.CancelledError  # which the closing of a channel keeps to itself
        return answer

    async def close(self) -> None:
        """Close the connection as the protocol wants it (section 2.2.4)."""
        self._end_tasks()
        await self._link.close()

    def _end_tasks(self) -> None:
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


def _version(properties: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the version that RabbitMQ shows with its ``connection.start`` (section 1.4.2.1)."""
    product, said = (_text(properties.get(key, "")) for key in ("product", "version"))
    numbers = [int(part) for part in said.split("-")[0].split(".")[:3] if part.isdecimal()]
    return tuple(numbers) if product == "RabbitMQ" else ()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)


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
    transport, address = _AmqpTransport(way), profile.where()
    wire = transport.wire
    url = URL(
        f"amqp://{quote(address.login, safe='')}:{quote(address.password, safe='')}@{_bracketed(way.host)}"
        f":{way.port}/{'' if address.vhost == '/' else quote(address.vhost, safe='')}"
        f"?heartbeat={_whole(profile.heartbeat)}&auth={profile.auth}",
        encoded=True,
    )
    properties = {"product": "evbus", "version": version, "connection_name": f"evbus {name} ({os.getpid()})"}
    made = aiormq.connect(
        url, transport_factory=transport, client_properties={**properties, **profile.client_properties}
    )

    def abort() -> None:
        wire.end("it was never opened")
        wire.abort()

    def why(problem: Exception) -> str:
        return f"{way}: {_why(problem, wire, address, profile)}"

    link = await attempt(_coroutine(made), profile.connect_timeout, abort, why)
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
    if isinstance(problem, aiormq.exceptions.AuthenticationError):
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
