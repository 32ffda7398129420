"""Addresses of AMQP 1.0 as brokers write them: Artemis, RabbitMQ 3 and RabbitMQ 4."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from evbus.engine.kit.topics import check_template, is_pattern, key_of
from evbus.engine.wire.amqp1.profile import KEY, Model, Profile
from evbus.engine.wire.base.profile import unfit
from evbus.errors import InvalidRoutingKey, ProfileError
from evbus.types import Subscription

__all__ = ["Terminus", "is_rabbitmq3", "model_of", "source", "target"]

_DEFAULT: dict[Model, str] = {
    "artemis": KEY,
    "rabbitmq3": f"/queue/{KEY}",
    "rabbitmq4": f"/queues/{KEY}",
}
#: The most bytes of a routing key or the name of a queue of RabbitMQ.
SHORT = 255
#: What RabbitMQ 3 makes a queue of this consumer's own for.
_COPIES = ("/exchange/", "/topic/")


class Terminus(NamedTuple):
    """The end of a link that the broker has: the address to which messages go, or from which they come.

    :ivar capabilities: what is asked of the node there.
    :ivar keyed: a message that goes there has to bring its routing key along.
    :ivar durable: the queue outlives its consumers.
    """

    address: str
    capabilities: tuple[str, ...] = ()
    keyed: bool = False
    durable: bool = True


def model_of(profile: Profile, properties: Mapping[str, Any]) -> Model:
    """Return the address model of a broker, by the profile or by what it calls itself in ``open``."""
    if profile.address_model != "auto":
        return profile.address_model
    if properties.get("product") != "RabbitMQ":
        return "artemis"
    return "rabbitmq3" if is_rabbitmq3(properties) else "rabbitmq4"


def is_rabbitmq3(properties: Mapping[str, Any]) -> bool:
    """Return whether a broker is a RabbitMQ whose AMQP 1.0 is a plugin, by what it says in ``open``."""
    major = str(properties.get("version", "")).partition(".")[0]
    return properties.get("product") == "RabbitMQ" and major in ("1", "2", "3")


def target(profile: Profile, model: Model, key: str) -> Terminus:
    """Return the target of an event, by its routing key.

    :raises InvalidRoutingKey: the key makes no address.
    """
    if unfit(key):
        raise InvalidRoutingKey("the routing key holds a NUL or a lone surrogate")
    template = profile.address or _DEFAULT[model]
    kinds = (("topic",) if profile.routing == "multicast" else ("queue",)) if model == "artemis" else ()
    if KEY not in template:
        return Terminus(template, kinds, keyed=True)
    if not key:
        raise InvalidRoutingKey(f"the event has no routing key, and the address {template!r} needs one")
    if model != "artemis" and template != KEY and len(key.encode()) > SHORT:
        raise InvalidRoutingKey(
            f"the routing key {key[:60]!r}... has more than the {SHORT} bytes of RabbitMQ"
        )
    return Terminus(_filled(template, model, key), kinds)


def _filled(template: str, model: Model, key: str) -> str:
    if template == KEY or model == "artemis":
        if model == "artemis" and "::" in key:
            raise InvalidRoutingKey(
                f"the routing key {key[:100]!r} holds '::', which Artemis takes for the name of a queue"
            )
        return template.replace(KEY, key)
    if model == "rabbitmq4":
        return template.replace(KEY, quote(key, safe=""))
    if "%2f" in key.lower():
        raise InvalidRoutingKey(f"the routing key {key[:100]!r} holds %2F, which RabbitMQ 3 takes for '/'")
    return template.replace(KEY, _latin(key))


def _latin(name: str) -> str:
    """Return a name as RabbitMQ 3 has it in addresses: with characters for bytes, and one escape."""
    return name.replace("/", "%2F").encode().decode("latin-1")


def source(profile: Profile, model: Model, wanted: Subscription) -> Terminus:
    """Return the node that a subscription consumes from.

    :raises ProfileError: the profile leads to no queue, or the broker cannot give what is wanted.
    """
    if is_pattern(wanted.name):
        if model == "artemis":
            raise ProfileError(
                f"whether the broker matches {wanted.name!r} is a matter of its settings, which it does not "
                "tell: listen to each event by its name",
                path="address",
            )
        check_template(profile.address or _DEFAULT[model], wanted.name, "address")
        key_of(profile.routing_key, wanted.name)
    if model == "artemis":
        return _artemis(profile, wanted)
    return _rabbitmq(profile, model, wanted)


def _artemis(profile: Profile, wanted: Subscription) -> Terminus:
    address = _address(profile, "artemis", wanted.name)
    kinds = ("topic",) if profile.routing == "multicast" else ("queue",)
    queue = wanted.group
    if wanted.per_process:
        own = profile.server_name or secrets.token_hex(8)
        queue = f"{queue}-{own}" if queue else own
    if not queue:
        return Terminus(address, kinds, durable=wanted.durable)
    if profile.routing != "multicast":
        raise ProfileError(
            f"the queue {queue!r} of {address!r} has a copy of its own, and routing: anycast gives none",
            path="routing",
        )
    # The name of a queue within an address, "fully qualified queue name" in Artemis' manual.
    return Terminus(f"{address}::{queue}", kinds, durable=wanted.durable and not wanted.per_process)


def _rabbitmq(profile: Profile, model: Model, wanted: Subscription) -> Terminus:
    template = profile.address or _DEFAULT[model]
    copies = model == "rabbitmq3" and template.startswith(_COPIES)
    if wanted.per_process:
        if not copies:
            needs = (
                "an address of an exchange, such as '/exchange/events/{routing_key}'"
                if model == "rabbitmq3"
                else "a queue of its own, which RabbitMQ 4 makes for no consumer: use the provider amqp"
            )
            raise ProfileError(f"a copy for every process needs {needs}", path="address")
        return Terminus(_address(profile, model, wanted.name), durable=False)
    if wanted.group:
        exchange = "/exchange/" if model == "rabbitmq3" else "/exchanges/"
        if not template.startswith((exchange, *_COPIES)):
            raise ProfileError(
                f"{template!r} is a queue, and gives each event to one consumer: its listeners would not get "
                f"all; write 'address: {exchange}events/{{routing_key}}'",
                path="address",
            )
        # Neither version binds a queue to an exchange for a consumer of AMQP 1.0, so it has to be there.
        name = f"{wanted.name}::{wanted.group}" if wanted.name else wanted.group
        return Terminus(_queue(model, name))
    if copies or (model == "rabbitmq4" and template.startswith("/exchanges/")):
        return Terminus(_queue(model, wanted.name)) if wanted.name else _unnamed(template)
    return Terminus(_address(profile, model, wanted.name))


def _unnamed(template: str) -> Terminus:
    raise ProfileError(
        f"{template!r} is where events are sent; say what to consume, such as the queue bound there",
        path="address",
    )


def _queue(model: Model, name: str) -> str:
    if model == "rabbitmq4":
        return f"/queues/{quote(name, safe='')}"
    return f"/amq/queue/{_latin(name)}"


def _address(profile: Profile, model: Model, name: str) -> str:
    template = profile.address or _DEFAULT[model]
    if KEY not in template:
        return template
    name = key_of(profile.routing_key, name)
    if not name:
        raise ProfileError(
            f"nothing says what to consume: the address {template!r} needs a name", path="address"
        )
    try:
        return _filled(template, model, name)
    except InvalidRoutingKey as exc:
        raise ProfileError(str(exc), path="address") from None
