"""Connect to a STOMP 1.2 broker: TCP, TLS, CONNECT, and what goes wrong on the way in one sentence."""

from __future__ import annotations

import re
import socket
import ssl
from functools import partial

import msgspec

from evbus.engine.kit.redact import one_line, secrets_of
from evbus.engine.kit.waiting import call
from evbus.engine.wire.base.address import Address
from evbus.engine.wire.base.dial import dial
from evbus.engine.wire.base.shared import Role
from evbus.engine.wire.base.supervisor import Connection
from evbus.engine.wire.base.tls import client_context, tls_reason
from evbus.engine.wire.stomp import library
from evbus.engine.wire.stomp.frame import Frame, escape
from evbus.engine.wire.stomp.profile import Profile
from evbus.engine.wire.stomp.session import Product, StompSession, error_text
from evbus.errors import DeliveryTimeout, Unavailable

__all__ = ["StompConnection", "connection"]

StompConnection = Connection[StompSession]

NO_TLS = "it may speak no TLS on this port: leave out tls, or name its TLS port"


def connection(
    profile: Profile, name: str, provider: str = "stomp", role: Role = "consumers"
) -> StompConnection:
    """Return the connection of a profile, not yet open.

    :raises ProfileError: a file of ``tls`` is not usable.
    """
    if role == "lanes":
        # It names who subscribes, and ActiveMQ takes one connection of each name.
        profile = msgspec.structs.replace(profile, client_id=None)
    address = profile.where()
    context = client_context(address.tls) if address.tls is not None else None

    async def dial(attempt: int) -> StompSession:
        session = await _dial(profile, address, address.hosts[attempt % len(address.hosts)], context)
        session.redial = partial(dial, attempt)
        return session

    return Connection(
        f"{provider} profile {name!r}",
        dial,
        pause=(profile.reconnect.min, profile.reconnect.max),
        wait=profile.first_connect == "wait",
        attempts=len(address.hosts),
        secrets=secrets_of(msgspec.to_builtins(profile)),
    )


async def _dial(
    profile: Profile, address: Address, host: tuple[str, int], context: ssl.SSLContext | None
) -> StompSession:
    session = StompSession()
    where = f"{host[0]}:{host[1]}"
    try:
        await call(_connect(session, address, host, context), profile.connect_timeout)
        frame = await call(_login(session, profile, address, host), profile.connect_timeout)
    except BaseException as exc:
        session.abort()
        if not isinstance(exc, Exception):
            raise
        raise Unavailable(_reason(exc, where, profile, secure=context is not None)) from exc
    if frame.command == "ERROR":
        session.abort()
        raise Unavailable(_refusal(frame, where, address))
    if frame.headers.get("version") != "1.2":
        session.abort()
        version = frame.headers.get("version", "1.0")
        raise Unavailable(f"{where} speaks STOMP {one_line(version, 20)} only; evbus needs STOMP 1.2")
    server = frame.headers.get("server", "")
    session.broker = Product.of(server)
    if session.broker is Product.RABBITMQ:
        session.version = tuple(int(part) for part in re.findall(r"\d+", server)[:3])
    session.beat(profile.heartbeat, frame.headers.get("heart-beat", ""))
    return session


async def _connect(
    session: StompSession, address: Address, host: tuple[str, int], context: ssl.SSLContext | None
) -> None:
    server_name = address.tls.server_name if address.tls is not None else None
    transport, _ = await dial(lambda: session, *host, context=context, server_name=server_name)
    raw = transport.get_extra_info("socket")
    if raw is not None:
        # Without heartbeats this is the only sign of life that is asked for.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def _login(session: StompSession, profile: Profile, address: Address, host: tuple[str, int]) -> Frame:
    session.library = library.protocol(session.write, host, escape(address.vhost))
    beat = int(profile.heartbeat * 1000)
    headers = {"heart-beat": f"{beat},{beat}"}
    if profile.client_id:
        headers["client-id"] = escape(profile.client_id)
    # The command is STOMP and not CONNECT, whose headers are not escaped ("Value Encoding"), so that a
    # password may hold anything.
    session.library.connect(escape(address.login) or None, escape(address.password) or None, headers=headers)
    return await session.connected


def _reason(problem: Exception, where: str, profile: Profile, *, secure: bool) -> str:
    """Return why a connection attempt failed: the one table of it."""
    tls = tls_reason(problem)
    if tls:
        return f"no secure connection to {where}: {tls}"
    if isinstance(problem, DeliveryTimeout):
        hint = f"; {NO_TLS}" if secure else "; it may speak TLS on this port (tls: true)"
        return f"{where} did not answer within {profile.connect_timeout:g} s (connect_timeout){hint}"
    if isinstance(problem, socket.gaierror):
        return f"the host name of {where} cannot be resolved: {problem.strerror}"
    if isinstance(problem, ConnectionRefusedError):
        return f"{where} refused the connection: nothing listens there; check host and port"
    text = str(problem)
    if "it sent b" in text:
        return f"{where} {_other(text)}"
    if isinstance(problem, ConnectionError):
        hint = NO_TLS if secure else "it may speak TLS on this port (tls: true), or no STOMP"
        return f"{where} closed the connection before the login was answered; {hint}"
    return (
        f"cannot connect to {where}: {getattr(problem, 'strerror', None) or text or type(problem).__name__}"
    )


def _other(text: str) -> str:
    """Return the protocol of the other side, by its first bytes."""
    if "\\\\x15\\\\x03" in text or "\\x15\\x03" in text:
        return "speaks TLS on this port; set tls: true, or name its plain port"
    for name in ("AMQP", "HTTP"):
        if f"b'{name}" in text:
            return f"speaks {name} on this port; the usual ports of STOMP are 61613 and, with TLS, 61614"
    return f"does not speak STOMP on this port: {text.rpartition('it sent ')[2]}"


def _refusal(frame: Frame, where: str, address: Address) -> str:
    said = error_text(frame)
    if "irtual host" in said:
        return f"{where} refused the vhost {address.vhost!r}: {said}; the first vhost of a broker is '/'"
    if not address.login:
        return (
            f"{where} wants a login, and none was given: write login and password into the profile, or its "
            f"url (stomp://login:password@host): {said}"
        )
    return f"{where} refused the login as {address.login!r} on the vhost {address.vhost!r}: {said}"
