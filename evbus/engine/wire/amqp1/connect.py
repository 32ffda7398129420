"""Connect to an AMQP 1.0 broker: TCP, TLS, SASL, ``open``, and what goes wrong on the way in one sentence."""

from __future__ import annotations

import asyncio
import os
import secrets

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp1.address import model_of
from evbus.engine.wire.amqp1.profile import Model, Profile
from evbus.engine.wire.amqp1.session import Amqp1Session
from evbus.engine.wire.base.dial import (
    TLS_ALERT,
    Way,
    attempt,
    connection_of,
    dial,
    hung_up,
    reason,
    wants_tls,
)
from evbus.engine.wire.base.profile import Address
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryTimeout

__all__ = ["Amqp1Connection", "connection", "model"]

Amqp1Connection = Connection[Amqp1Session]


def connection(profile: Profile, name: str, provider: str = "amqp1") -> Amqp1Connection:
    """Return the connection of a profile, not yet open.

    :raises ProfileError: a file of ``tls`` is not usable.
    """
    # Brokers of one container id take a second connection for the first one come back (section 2.4.1).
    container = f"evbus-{name}-{os.getpid()}-{secrets.token_hex(4)}"

    async def make(way: Way) -> Amqp1Session:
        address = profile.where()
        session = Amqp1Session(profile, _hostname(profile, address, way.host), container)

        def why(problem: Exception) -> str:
            return f"{way}: {_reason(problem, session, address, profile)}"

        await attempt(_open(session, way), profile.connect_timeout, session.abort, why)
        return session

    return connection_of(profile, f"{provider} profile {name!r}", make)


def model(profile: Profile, session: Amqp1Session) -> Model:
    """Return the address model of a session's broker."""
    return model_of(profile, session.opened.result())


def _hostname(profile: Profile, address: Address, host: str) -> str:
    """Return the field of ``open`` by which brokers choose a vhost.

    RabbitMQ takes it for one only if it says so; Artemis if it has one of that name.
    """
    if address.vhost and profile.address_model != "artemis":
        return f"vhost:{address.vhost}"
    return address.vhost or host


async def _open(session: Amqp1Session, way: Way) -> None:
    await dial(lambda: session, way)
    await session.opened
    # A broker that refuses may open first and close in the same breath (section 2.4.2).
    await asyncio.sleep(0)
    if session.lost.done():
        raise ConnectionError(session.lost.result())


def _reason(problem: Exception, session: Amqp1Session, address: Address, profile: Profile) -> str:
    """Return why a connection attempt failed: the one table of it."""
    name, text = session.refused
    if session.heard.startswith(TLS_ALERT):
        return wants_tls("amqps")
    if session.heard and not session.heard.startswith(b"AMQP"):
        return f"what answers there is no AMQP 1.0 broker (it said {one_line(session.heard[:20])})"
    if session.heard.startswith((b"AMQP\x00\x00\x09", b"AMQP\x01\x01")):
        return (
            "the broker speaks an older AMQP on this port, and no AMQP 1.0; RabbitMQ 3 needs its plugin "
            "rabbitmq_amqp1_0 (or use the provider amqp)"
        )
    found = reason(problem)
    if found:
        return found
    if name or text:
        return _refusal(name, one_line(text), session, address, profile)
    return _silent(problem, session, address, profile)


def _vhost(address: Address) -> str:
    return f"the vhost {address.vhost!r}" if address.vhost else "its default vhost"


def _refusal(name: str, text: str, session: Amqp1Session, address: Address, profile: Profile) -> str:
    """Return a sentence for the condition with which the broker, or the engine for it, gave up."""
    if "Authentication failed" in text or ("unauthorized" in name and not session.authenticated):
        if profile.auth == "external":
            return f"the broker refused the login by certificate: {text}"
        if profile.auth == "anonymous":
            return f"the broker refused a login without a name: {text}"
        return (
            f"the broker refused the login of the user {address.login!r}: login and password are to be "
            f"checked ({text})"
        )
    if "mechanism" in text.lower():
        return f"the broker offers no login of the kind {profile.auth} (auth): {text}"
    if name in ("amqp:not-found", "amqp:not-allowed", "amqp:unauthorized-access", "amqp:invalid-field"):
        return f"the broker refused {_vhost(address)}, or the user may not use it: {text or name}"
    return f"the broker refused: {': '.join(part for part in (name, text) if part)}"


def _silent(problem: Exception, session: Amqp1Session, address: Address, profile: Profile) -> str:
    if isinstance(problem, DeliveryTimeout):
        hint = "" if session.heard else "; is this the port of an AMQP 1.0 broker, and with or without TLS?"
        return f"no answer within {profile.connect_timeout:g} s (connect_timeout){hint}"
    if isinstance(problem, ConnectionError) and not session.heard:
        return hung_up(address.tls, "amqps")
    if session.authenticated:
        # RabbitMQ 4 writes the reason into its log alone.
        return (
            f"the broker took the login and then ended the connection; is there {_vhost(address)}, and may "
            "the user use it?"
        )
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return one_line(f"cannot connect: {text}")
