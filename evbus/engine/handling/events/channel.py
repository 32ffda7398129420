"""Channels of events and listeners, in the terms of each transport."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from evbus.engine.core.endpoint import Endpoint, router
from evbus.engine.wire.amqp import profile as amqp_profile
from evbus.engine.wire.amqp.consume import source_of
from evbus.engine.wire.amqp1 import profile as amqp1_profile
from evbus.engine.wire.amqp1.address import model_of, source, target
from evbus.engine.wire.file import console, lines
from evbus.engine.wire.http import webhook
from evbus.engine.wire.stomp import profile as stomp_profile
from evbus.engine.wire.stomp.consume import plan
from evbus.engine.wire.stomp.session import Product, fill
from evbus.errors import ProfileError
from evbus.types import Envelope, Subscription

__all__ = ["PROCESS", "Channel", "received", "sent"]

#: Stands in an address for the part that each process makes up for its own copy.
PROCESS = "{process}"
_AMQP_VERSION = "0.3.0"
_EXPIRES = "x-expires"
#: What the schema of AsyncAPI's AMQP binding knows; plugins of RabbitMQ bring others.
_EXCHANGE_TYPES = ("topic", "direct", "fanout", "headers")


class Channel(NamedTuple):
    """An address, and what AsyncAPI's bindings of its protocol say about it.

    :ivar address: None where there is none, or where it is a secret.
    :ivar kind: what it is: ``queue``, ``exchange``, ``topic``, ``address``, ``events``, ``file``, ...
    :ivar binding: the name of the protocol's bindings.
    :ivar channel: its channel binding, ``operation`` that of the operation.
    :ivar extra: what the protocol's bindings have no place for.
    """

    address: str | None
    kind: str
    binding: str = ""
    channel: dict[str, Any] | None = None
    operation: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


def sent(profile: Endpoint, event: str, sent_with: str) -> Channel:
    """Return the channel that an event goes to.

    :param sent_with: the name of the profile that it is sent with.
    :raises EvbusError: its name makes no address there.
    """
    route = router(profile.routing_key)
    envelope = Envelope(sent_with, event)
    key = (route(envelope) if route else envelope).routing_key
    settings = profile.settings
    if isinstance(settings, amqp_profile.Profile):
        return _to_exchange(settings, key)
    if isinstance(settings, amqp1_profile.Profile):
        where = target(settings, model_of(settings, {}), key)
        return Channel(where.address, "address", "amqp1", extra=_capable(where.capabilities))
    if isinstance(settings, stomp_profile.Profile):
        return _to_destination(settings, key)
    if isinstance(settings, webhook.WebhookProfile):
        return Channel(None, "webhook", "http", operation={"method": "POST", "bindingVersion": "0.3.0"})
    if isinstance(settings, lines.FileProfile):
        return Channel(settings.path, "file")
    if isinstance(settings, console.ConsoleProfile):
        return Channel(settings.stream, "console")
    return Channel(key, "events")


def received(found: Endpoint, wanted: Subscription) -> Channel:
    """Return the channel that a subscription consumes.

    :raises ProfileError: the profile cannot give what is wanted.
    """
    settings = found.settings
    try:
        if isinstance(settings, amqp_profile.Profile):
            return _from_queue(settings, wanted)
        if isinstance(settings, amqp1_profile.Profile):
            own = msgspec.structs.replace(settings, server_name=settings.server_name or PROCESS)
            where = source(own, model_of(own, {}), wanted)
            return Channel(where.address, "queue", "amqp1", extra=_capable(where.capabilities))
        if isinstance(settings, stomp_profile.Profile):
            return _from_destination(settings, wanted)
    except ProfileError as exc:
        raise ProfileError(f"{found.provider}.{found.name}: {exc}") from None
    return Channel(wanted.name, "events")


# -- AMQP 0-9-1: AsyncAPI's bindings 0.3.0 ---------------------------------------------------------


def _to_exchange(settings: amqp_profile.Profile, key: str) -> Channel:
    name = settings.exchange_name()
    exchange: dict[str, Any] = {"name": name}
    if not name:
        exchange["type"] = "default"
    elif isinstance(settings.exchange, amqp_profile.ExchangeDeclaration):
        if settings.exchange.type in _EXCHANGE_TYPES:
            exchange["type"] = settings.exchange.type
        exchange.update(durable=settings.exchange.durable, autoDelete=settings.exchange.auto_delete)
    exchange["vhost"] = settings.where().vhost
    operation: dict[str, Any] = {
        "deliveryMode": 2 if settings.persistent else 1,
        "mandatory": settings.mandatory,
    }
    if settings.priority is not None:
        operation["priority"] = settings.priority
    if settings.expiry is not None:
        operation["expiration"] = round(settings.expiry * 1000)
    return _amqp(key, "exchange" if name else "queue", {"is": "routingKey", "exchange": exchange}, operation)


def _from_queue(settings: amqp_profile.Profile, wanted: Subscription) -> Channel:
    found = source_of(settings, wanted)
    queue, name = found.queue, found.queue.name
    if found.own:
        # What a process calls its own copy ends in something random.
        name = f"{name.rpartition('::')[0]}::{PROCESS}"
    about = {
        "name": name,
        "durable": queue.durable,
        "exclusive": False,
        "autoDelete": queue.auto_delete,
        "vhost": settings.where().vhost,
    }
    extra: dict[str, Any] = {}
    if queue.kind != "classic":
        extra["queueType"] = queue.kind
    if _EXPIRES in queue.arguments:
        # Milliseconds without a consumer, after which it is gone.
        extra["expires"] = queue.arguments[_EXPIRES]
    if found.bind:
        extra["boundTo"] = settings.exchange_name()
        keys = [one for one in found.bind if isinstance(one, str)]
        headers = [one for one in found.bind if not isinstance(one, str)]
        extra |= {"bindingKeys": keys} if keys else {}
        extra |= {"bindingHeaders": headers} if headers else {}
    return _amqp(name, "queue", {"is": "queue", "queue": about}, {"ack": True}, extra or None)


def _amqp(
    address: str,
    kind: str,
    channel: dict[str, Any],
    operation: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> Channel:
    version = {"bindingVersion": _AMQP_VERSION}
    return Channel(address, kind, "amqp", channel | version, operation | version, extra)


# -- AMQP 1.0 and STOMP: AsyncAPI's bindings are there, and empty ------------------------------------


def _capable(capabilities: tuple[str, ...]) -> dict[str, Any] | None:
    return {"capabilities": list(capabilities)} if capabilities else None


def _broker(settings: stomp_profile.Profile) -> Product:
    """Return whom a profile is for, as far as it can be seen without asking."""
    virtual = settings.destination.startswith("/topic/VirtualTopic.")
    return Product.ACTIVEMQ if virtual or settings.client_id else Product.RABBITMQ


def _to_destination(settings: stomp_profile.Profile, key: str) -> Channel:
    address = fill(settings.destination, key, broker=_broker(settings))
    return Channel(address, _kind(address), "stomp")


def _from_destination(settings: stomp_profile.Profile, wanted: Subscription) -> Channel:
    found = plan(settings, wanted, _broker(settings))
    # The others are about this client, and not about what there is.
    said = ("x-queue-name", "durable", "auto-delete", "activemq.subscriptionName")
    headers = {name: found.headers[name] for name in said if name in found.headers}
    extra = {"headers": headers} if headers else None
    return Channel(found.destination, _kind(found.destination), "stomp", extra=extra)


def _kind(destination: str) -> str:
    first = destination.split("/", 2)[1] if destination.startswith("/") else ""
    return first if first in ("queue", "topic", "exchange") else "destination"
