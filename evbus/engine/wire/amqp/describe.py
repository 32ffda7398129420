"""What RabbitMQ does with a profile, in the terms of AsyncAPI's AMQP bindings 0.3.0."""

from __future__ import annotations

from functools import partial
from typing import Any

from evbus.engine.wire.amqp.consume import source_of
from evbus.engine.wire.amqp.profile import ExchangeDeclaration, Profile
from evbus.engine.wire.amqp.topology import STANDARD, TOPIC
from evbus.engine.wire.base.describe import PROCESS, brokers, login_of
from evbus.types import Channel, Subscription, Transport

__all__ = ["describe"]

_VERSION = {"bindingVersion": "0.3.0"}
_EXPIRES = "x-expires"
#: What the schema of the bindings knows; plugins of RabbitMQ bring others.
_EXCHANGE_TYPES = ("topic", "direct", "fanout", "headers")


def describe(profile: Profile) -> Transport:
    """Return what there is to say of a profile."""
    where, name, exchange = profile.where(), profile.exchange_name(), profile.exchange
    kind = exchange.type if isinstance(exchange, ExchangeDeclaration) else STANDARD.get(name, TOPIC)
    return Transport(
        brokers(where, "amqps" if where.tls else "amqp", "0-9-1", login_of(profile.auth, where)),
        partial(_to_exchange, profile),
        partial(_from_queue, profile),
        topics=bool(name) and kind == TOPIC,
        groups=bool(name),
        copies=bool(name),
        durable=profile.persistent,
        dead_letters=True,
        delays=kind == "x-delayed-message",
    )


def _to_exchange(profile: Profile, key: str) -> Channel:
    name = profile.exchange_name()
    exchange: dict[str, Any] = {"name": name}
    if not name:
        exchange["type"] = "default"
    elif isinstance(profile.exchange, ExchangeDeclaration):
        if profile.exchange.type in _EXCHANGE_TYPES:
            exchange["type"] = profile.exchange.type
        exchange.update(durable=profile.exchange.durable, autoDelete=profile.exchange.auto_delete)
    exchange["vhost"] = profile.where().vhost
    operation: dict[str, Any] = {
        "deliveryMode": 2 if profile.persistent else 1,
        "mandatory": profile.mandatory,
    }
    if profile.priority is not None:
        operation["priority"] = profile.priority
    if profile.expiry is not None:
        operation["expiration"] = round(profile.expiry * 1000)
    return _amqp(key, "exchange" if name else "queue", {"is": "routingKey", "exchange": exchange}, operation)


def _from_queue(profile: Profile, wanted: Subscription) -> Channel:
    found = source_of(profile, wanted)
    queue, name = found.queue, found.queue.name
    if found.own:
        # What a process calls its own copy ends in something random.
        name = f"{name.rpartition('::')[0]}::{PROCESS}"
    about = {
        "name": name,
        "durable": queue.durable,
        "exclusive": False,
        "autoDelete": queue.auto_delete,
        "vhost": profile.where().vhost,
    }
    extra: dict[str, Any] = {}
    if queue.kind != "classic":
        extra["queueType"] = queue.kind
    if _EXPIRES in queue.arguments:
        # Milliseconds without a consumer, after which it is gone.
        extra["expires"] = queue.arguments[_EXPIRES]
    if found.bind:
        extra["boundTo"] = profile.exchange_name()
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
    return Channel(address, kind, "amqp", channel | _VERSION, operation | _VERSION, extra)
