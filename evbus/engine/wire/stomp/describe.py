"""What a broker of STOMP does with a profile; AsyncAPI's bindings of it are there, and empty."""

from __future__ import annotations

from functools import partial

from evbus.engine.wire.base.describe import brokers, login_of
from evbus.engine.wire.stomp.consume import TOPICS, VIRTUAL, plan
from evbus.engine.wire.stomp.profile import Profile
from evbus.engine.wire.stomp.session import Product, fill
from evbus.types import Channel, Subscription, Transport

__all__ = ["describe"]

#: The others are about this client, and not about what there is.
_SAID = ("x-queue-name", "durable", "auto-delete", "activemq.subscriptionName")


def describe(profile: Profile) -> Transport:
    """Return what there is to say of a profile; which broker it is for, as far as it can be seen."""
    where = profile.where()
    topic = profile.destination.startswith(TOPICS)
    return Transport(
        brokers(where, "stomps" if where.tls else "stomp", "1.2", login_of("plain", where)),
        partial(_sent, profile),
        partial(_received, profile),
        topics=topic,
        groups=topic,
        copies=topic,
        durable=profile.persistent,
        dead_letters=True,
    )


def _broker(profile: Profile) -> Product:
    virtual = profile.destination.startswith(VIRTUAL)
    return Product.ACTIVEMQ if virtual or profile.client_id else Product.RABBITMQ


def _sent(profile: Profile, key: str) -> Channel:
    address = fill(profile.destination, key, broker=_broker(profile))
    return Channel(address, _kind(address), "stomp")


def _received(profile: Profile, wanted: Subscription) -> Channel:
    found = plan(profile, wanted, _broker(profile))
    headers = {name: found.headers[name] for name in _SAID if name in found.headers}
    extra = {"headers": headers} if headers else None
    return Channel(found.destination, _kind(found.destination), "stomp", extra=extra)


def _kind(destination: str) -> str:
    first = destination.split("/", 2)[1] if destination.startswith("/") else ""
    return first if first in ("queue", "topic", "exchange") else "destination"
