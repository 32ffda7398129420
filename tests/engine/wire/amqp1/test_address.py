"""How brokers write addresses of AMQP 1.0."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.engine.wire.amqp1.address import Terminus, model_of, source, target
from evbus.engine.wire.amqp1.profile import Profile
from evbus.errors import InvalidRoutingKey, ProfileError
from evbus.types import Subscription


def profile(**data: Any) -> Profile:
    return msgspec.convert({"url": "amqp://u:p@h", **data}, type=Profile, strict=False)


@pytest.mark.parametrize(
    ("properties", "model"),
    [
        ({"product": "RabbitMQ", "version": "3.10.8"}, "rabbitmq3"),
        ({"product": "RabbitMQ", "version": "3.13.7"}, "rabbitmq3"),
        ({"product": "RabbitMQ", "version": "4.0.5"}, "rabbitmq4"),
        ({"product": "RabbitMQ"}, "rabbitmq4"),
        ({"product": "apache-activemq-artemis", "version": "2.40.0"}, "artemis"),
        ({}, "artemis"),
    ],
)
def test_a_broker_is_known_by_what_it_calls_itself(properties: dict[str, str], model: str) -> None:
    assert model_of(profile(), properties) == model
    assert model_of(profile(address_model="rabbitmq3"), properties) == "rabbitmq3"


@pytest.mark.parametrize(
    ("model", "data", "key", "found"),
    [
        ("artemis", {}, "a.b", Terminus("a.b", ("topic",))),
        ("artemis", {"routing": "anycast"}, "a/b", Terminus("a/b", ("queue",))),
        ("artemis", {"address": "events"}, "a", Terminus("events", ("topic",), keyed=True)),
        ("rabbitmq3", {}, "a/b ü", Terminus("/queue/a%2Fb Ã¼")),
        ("rabbitmq3", {"address": "/exchange/x/{routing_key}"}, "a.b", Terminus("/exchange/x/a.b")),
        ("rabbitmq3", {"address": "{routing_key}"}, "/topic/a", Terminus("/topic/a")),
        ("rabbitmq3", {"address": "/exchange/x"}, "a", Terminus("/exchange/x", keyed=True)),
        ("rabbitmq4", {}, "a/b ü", Terminus("/queues/a%2Fb%20%C3%BC")),
        ("rabbitmq4", {"address": "/exchanges/x/{routing_key}"}, "a.b", Terminus("/exchanges/x/a.b")),
        ("rabbitmq4", {"address": "{routing_key}"}, "/queues/a%2Fb", Terminus("/queues/a%2Fb")),
    ],
)
def test_where_an_event_goes(model: Any, data: dict[str, Any], key: str, found: Terminus) -> None:
    assert target(profile(**data), model, key) == found


@pytest.mark.parametrize(
    ("model", "key", "said"),
    [
        ("rabbitmq3", "", "no routing key"),
        ("rabbitmq3", "a%2fb", "takes for '/'"),
        ("rabbitmq4", "ü" * 128, "255 bytes"),
        ("artemis", "a::b", "name of a queue"),
        ("artemis", "a\0", "NUL"),
        ("artemis", "\ud800", "surrogate"),
    ],
)
def test_a_key_that_makes_no_address_is_refused(model: Any, key: str, said: str) -> None:
    with pytest.raises(InvalidRoutingKey, match=said):
        target(profile(), model, key)


@pytest.mark.parametrize(
    ("model", "data", "wanted", "found"),
    [
        ("artemis", {}, {"name": "Placed"}, Terminus("Placed", ("topic",))),
        ("artemis", {}, {"name": "Placed", "group": "mail"}, Terminus("Placed::mail", ("topic",))),
        (
            "artemis",
            {"server_name": "one"},
            {"name": "Placed", "group": "mail", "per_process": True},
            Terminus("Placed::mail-one", ("topic",), durable=False),
        ),
        (
            "artemis",
            {},
            {"name": "P", "group": "g", "durable": False},
            Terminus("P::g", ("topic",), durable=False),
        ),
        ("artemis", {"routing": "anycast"}, {"name": "Placed"}, Terminus("Placed", ("queue",))),
        ("rabbitmq3", {}, {"name": "a/b"}, Terminus("/queue/a%2Fb")),
        (
            "rabbitmq3",
            {"address": "/exchange/x/{routing_key}"},
            {"name": "a", "group": "g"},
            Terminus("/amq/queue/a::g"),
        ),
        ("rabbitmq3", {"address": "/queue/fixed"}, {}, Terminus("/queue/fixed")),
        ("rabbitmq3", {"address": "/exchange/x/{routing_key}"}, {"name": "a"}, Terminus("/amq/queue/a")),
        (
            "rabbitmq3",
            {"address": "/exchange/x/{routing_key}"},
            {"name": "a.#", "per_process": True},
            Terminus("/exchange/x/a.#", durable=False),
        ),
        ("rabbitmq4", {}, {"name": "a/b"}, Terminus("/queues/a%2Fb")),
        (
            "rabbitmq4",
            {"address": "/exchanges/x/{routing_key}"},
            {"name": "a", "group": "g"},
            Terminus("/queues/a%3A%3Ag"),
        ),
        ("rabbitmq4", {"address": "/exchanges/x/{routing_key}"}, {"name": "a"}, Terminus("/queues/a")),
    ],
)
def test_where_a_subscription_consumes(model: Any, data: Any, wanted: Any, found: Terminus) -> None:
    assert source(profile(**data), model, Subscription(**wanted)) == found


def test_every_process_has_a_name_of_its_own_on_artemis() -> None:
    wanted = Subscription(name="Placed", per_process=True)
    one, two = (source(profile(), "artemis", wanted) for _ in range(2))
    assert one.address.startswith("Placed::")
    assert one.address != two.address


@pytest.mark.parametrize(
    ("model", "data", "wanted", "said"),
    [
        ("rabbitmq3", {}, {}, "nothing says what to consume"),
        ("rabbitmq3", {}, {"name": "a%2fb"}, "takes for '/'"),
        ("rabbitmq3", {}, {"name": "a", "per_process": True}, "an address of an exchange"),
        ("rabbitmq4", {}, {"name": "a", "per_process": True}, "use the provider amqp"),
        ("rabbitmq4", {"address": "/exchanges/x"}, {}, "say what to consume"),
        ("artemis", {"routing": "anycast"}, {"name": "a", "group": "g"}, "anycast gives none"),
        ("rabbitmq3", {}, {"name": "a", "group": "g"}, "write 'address: /exchange/events/{routing_key}'"),
        ("rabbitmq4", {}, {"name": "a", "group": "g"}, "write 'address: /exchanges/events/{routing_key}'"),
    ],
)
def test_what_a_broker_cannot_give_is_told(model: Any, data: Any, wanted: Any, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        source(profile(**data), model, Subscription(**wanted))
