"""Connect to a STOMP 1.2 broker: TCP, TLS, CONNECT, and what goes wrong on the way in one sentence."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from importlib import import_module

import msgspec

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.base.dial import Way, attempt, connection_of, dial, reason
from evbus.engine.wire.base.profile import Address
from evbus.engine.wire.base.shared import Role
from evbus.engine.wire.base.supervisor import Connection
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
    return connection_of(profile, f"{provider} profile {name!r}", partial(_dial, profile))


async def _dial(profile: Profile, way: Way) -> StompSession:
    # In a thread, as importing stomp.py asks for this host's names.
    library = await asyncio.to_thread(import_module, "evbus.engine.wire.stomp.library")
    session, address, where = StompSession(library), profile.where(), str(way)
    session.redial = partial(_dial, profile, way)

    def why(problem: Exception) -> str:
        return _reason(problem, where, profile, secure=way.context is not None)

    seconds = profile.connect_timeout
    await attempt(dial(lambda: session, way), seconds, session.abort, why)
    frame = await attempt(_login(session, profile, address, way), seconds, session.abort, why)
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


async def _login(session: StompSession, profile: Profile, address: Address, way: Way) -> Frame:
    session.control = session.library.protocol(session.write, (way.host, way.port), escape(address.vhost))
    beat = int(profile.heartbeat * 1000)
    headers = {"heart-beat": f"{beat},{beat}"}
    if profile.client_id:
        headers["client-id"] = escape(profile.client_id)
    # The command is STOMP and not CONNECT, whose headers are not escaped ("Value Encoding"), so that a
    # password may hold anything.
    session.control.connect(escape(address.login) or None, escape(address.password) or None, headers=headers)
    return await session.opened


def _reason(problem: Exception, where: str, profile: Profile, *, secure: bool) -> str:
    """Return why a connection attempt failed: the one table of it."""
    if isinstance(problem, DeliveryTimeout):
        hint = f"; {NO_TLS}" if secure else "; it may speak TLS on this port (tls: true)"
        return f"{where} did not answer within {profile.connect_timeout:g} s (connect_timeout){hint}"
    found = reason(
        problem,
        tls=f"no secure connection to {where}: ",
        unresolved=f"the host name of {where} cannot be resolved: ",
        refused=f"{where} refused the connection: nothing listens there; check host and port",
    )
    if found:
        return found
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
