"""Where events go, and where listeners get them from, by transport."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from evbus.api import bus, event
from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.profiles import read_profiles
from evbus.engine.handling.events.channel import Channel, received, sent
from evbus.engine.wire.amqp import profile as amqp_profile
from evbus.engine.wire.amqp1 import profile as amqp1_profile
from evbus.engine.wire.file import console, lines
from evbus.engine.wire.http import webhook
from evbus.engine.wire.memory import queues
from evbus.engine.wire.stomp import profile as stomp_profile
from evbus.errors import EvbusError, ProfileError
from evbus.types import Subscription
from tests.ingress.amqp_kit import eventually
from tests.servers._rabbitmq import RabbitMQ

SCHEMAS = {
    "amqp": amqp_profile.Profile,
    "amqp1": amqp1_profile.Profile,
    "stomp": stomp_profile.Profile,
    "internal": queues.InternalProfile,
    "file": lines.FileProfile,
    "console": console.ConsoleProfile,
    "webhook": webhook.WebhookProfile,
}
ACCEPTS = [Plugin(name, (name,), schema) for name, schema in SCHEMAS.items()] + [Plugin("own", ("own",))]
EVENTS = {"name": "events", "type": "topic"}
ANONYMOUS = {"url": "amqp://mq.example/", "auth": "anonymous"}
STOMP = {"url": "stomp://mq.example/"}


def going(provider: str, event: str = "OrderPlaced", **data: Any) -> Channel:
    (profile,) = read_profiles(
        {provider: {"default": data}}, ACCEPTS, source="p.yml", find=lambda *_: True, broken={}
    )
    return sent(profile, event, "shop")


def coming(provider: str, *, group: str = "billing", durable: bool = True, **data: Any) -> Channel:
    per_process = data.pop("per_process", False)
    schema = SCHEMAS.get(provider)
    source = Endpoint(Plugin(provider), provider, "default", data, schema(**data) if schema else None)
    wanted = Subscription(name="OrderPlaced", group=group, durable=durable, per_process=per_process)
    return received(source, wanted)


# AMQP 0-9-1


def test_rabbitmq_is_sent_to_an_exchange() -> None:
    exchange = amqp_profile.ExchangeDeclaration(name="events", type="topic")
    data = {"vhost": "prod", "priority": 3, "expiry": 1.5, "persistent": False}
    found = going("amqp", exchange=EVENTS, routing_key="{profile}.{routing_key}", **data)
    assert found.address == "shop.OrderPlaced"
    assert found.channel == {
        "is": "routingKey",
        "exchange": {
            "name": exchange.name,
            "type": "topic",
            "durable": True,
            "autoDelete": False,
            "vhost": "prod",
        },
        "bindingVersion": "0.3.0",
    }
    assert found.operation == {
        "deliveryMode": 1,
        "mandatory": True,
        "priority": 3,
        "expiration": 1500,
        "bindingVersion": "0.3.0",
    }


def test_of_an_exchange_that_is_there_already_no_type_is_claimed() -> None:
    channel = going("amqp", exchange="events").channel
    assert channel is not None
    assert channel["exchange"] == {"name": "events", "vhost": "/"}
    channel = going("amqp", exchange={"name": "events", "type": "x-random"}).channel
    assert channel is not None
    assert "type" not in channel["exchange"]


def test_the_default_exchange_leads_to_a_queue() -> None:
    found = going("amqp")
    assert (found.kind, found.address) == ("queue", "OrderPlaced")
    assert found.channel is not None
    assert found.channel["exchange"] == {"name": "", "type": "default", "vhost": "/"}


def test_a_listener_of_rabbitmq_has_a_queue_bound_to_the_exchange() -> None:
    found = coming("amqp", exchange=amqp_profile.ExchangeDeclaration(name="events"))
    assert found.address == "OrderPlaced::billing"
    assert found.channel is not None
    assert found.channel["queue"] == {
        "name": "OrderPlaced::billing",
        "durable": True,
        "exclusive": False,
        "autoDelete": False,
        "vhost": "/",
    }
    assert found.extra == {"boundTo": "events", "bindingKeys": ["OrderPlaced"]}


def test_without_durability_the_queue_goes_when_nobody_comes_back() -> None:
    found = coming("amqp", exchange="events", durable=False)
    assert found.channel is not None
    assert (found.channel["queue"]["durable"], found.channel["queue"]["autoDelete"]) == (True, False)
    assert found.extra == {"expires": 300_000, "boundTo": "events", "bindingKeys": ["OrderPlaced"]}


def test_the_type_of_a_queue_that_is_not_classic_is_told() -> None:
    found = coming("amqp", exchange="events", queue=amqp_profile.QueueDeclaration(type="quorum"))
    assert found.extra is not None
    assert found.extra["queueType"] == "quorum"


def test_a_copy_for_each_process_has_a_parameter_and_is_the_same_every_time() -> None:
    found = coming("amqp", exchange="events", per_process=True)
    assert found.address == "OrderPlaced::billing::{process}"
    assert found.channel is not None
    assert (found.channel["queue"]["exclusive"], found.channel["queue"]["durable"]) == (False, True)
    assert found.extra is not None
    assert found.extra["expires"] == 300_000
    assert coming("amqp", exchange="events", per_process=True) == found


def test_a_profile_that_cannot_feed_groups_is_named() -> None:
    with pytest.raises(ProfileError, match=r"amqp\.default: .*name one, such as 'exchange:"):
        coming("amqp")


@event(durable=True)
@dataclass
class OrderPlaced:
    id: int


def test_the_queues_that_are_told_are_those_that_listeners_make(
    rabbitmq: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    exchange = {"name": unique, "type": "topic", "auto_delete": True}
    data = {"url": rabbitmq.url, "exchange": exchange}
    # Queues of their own: durable ones outlive the test.
    settings = amqp_profile.Profile(
        url=rabbitmq.url, exchange=amqp_profile.ExchangeDeclaration(name=unique, auto_delete=True)
    )
    group = f"{unique}-billing"
    told = {}
    for per_process in (False, True):
        wanted = Subscription(name="OrderPlaced", group=group, durable=True, per_process=per_process)
        found = received(Endpoint(Plugin("amqp"), "amqp", "default", data, settings), wanted)
        assert found.channel is not None
        assert found.extra is not None
        told[found.address] = (found.channel["queue"]["durable"], found.extra["bindingKeys"])

    async def main() -> dict[str, tuple[bool, list[str]]]:
        profiles = {"amqp": {"default": data}}
        async with bus(profiles, dead_store=str(tmp_path / "dead.jsonl")) as running:
            listening = running.hub.event.init
            for per_process in (False, True):
                listening.subscribe(OrderPlaced, lambda event: None, group=group, per_process=per_process)
            place = f"exchanges/%2F/{unique}/bindings/source"
            await eventually(
                lambda: len(rabbitmq.api("GET", place, missing_ok=True) or ()) == 2, "they listen"
            )
            bindings = await asyncio.to_thread(rabbitmq.api, "GET", place)
            made = {}
            for binding in bindings:
                name = binding["destination"]
                queue = await asyncio.to_thread(rabbitmq.api, "GET", f"queues/%2F/{quote(name, safe='')}")
                name = re.sub("[0-9a-f]{16}$", "{process}", name)
                made[name] = (queue["durable"], [binding["routing_key"]])
            return made

    try:
        assert asyncio.run(main()) == told
    finally:
        rabbitmq.delete_queue(f"OrderPlaced::{group}")


# AMQP 1.0


@pytest.mark.parametrize(
    ("model", "exchange", "target", "queue"),
    [
        ("artemis", "", "OrderPlaced", "OrderPlaced::billing"),
        ("auto", "", "OrderPlaced", "OrderPlaced::billing"),
        ("rabbitmq3", "/exchange/shop/", "/exchange/shop/OrderPlaced", "/amq/queue/OrderPlaced::billing"),
        ("rabbitmq4", "/exchanges/shop/", "/exchanges/shop/OrderPlaced", "/queues/OrderPlaced%3A%3Abilling"),
    ],
)
def test_addresses_of_amqp_1_follow_the_model_of_the_broker(
    model: str, exchange: str, target: str, queue: str
) -> None:
    data = {"address_model": model, **ANONYMOUS}
    if exchange:
        data["address"] = exchange + "{routing_key}"
    assert going("amqp1", **data).address == target
    assert coming("amqp1", **data).address == queue


def test_artemis_gives_each_process_its_copy() -> None:
    found = coming("amqp1", per_process=True, **ANONYMOUS)
    assert found.address == "OrderPlaced::billing-{process}"
    named = coming("amqp1", per_process=True, server_name="one", **ANONYMOUS)
    assert named.address == "OrderPlaced::billing-one"
    assert found.extra == {"capabilities": ["topic"]}


def test_a_name_that_makes_no_address_is_refused() -> None:
    with pytest.raises(EvbusError, match="holds '::'"):
        going("amqp1", "a::b", **ANONYMOUS)


# STOMP


def test_destinations_of_stomp_are_filled() -> None:
    found = going("stomp", "a/b", destination="/topic/shop.{routing_key}", **STOMP)
    assert (found.kind, found.address) == ("topic", "/topic/shop.a%2Fb")
    assert going("stomp", **STOMP).kind == "queue"


def test_a_group_of_stomp_is_the_queue_of_a_subscription() -> None:
    found = coming("stomp", destination="/topic/shop.{routing_key}", **STOMP)
    assert found.address == "/topic/shop.OrderPlaced"
    assert found.extra is not None
    headers = found.extra["headers"]
    assert re.fullmatch(r"shop\.OrderPlaced\W+billing", headers.pop("x-queue-name"))
    assert headers == {"durable": "true", "auto-delete": "false"}


def test_a_virtual_topic_is_one_of_activemq() -> None:
    found = coming("stomp", destination="/topic/VirtualTopic.{routing_key}", **STOMP)
    assert found.address == "/queue/Consumer.billing.VirtualTopic.OrderPlaced"


# The others


def test_destinations_without_a_broker_say_what_they_can() -> None:
    assert going("internal", routing_key="all") == Channel("all", "events")
    assert going("file", path="out.jsonl") == Channel("out.jsonl", "file")
    assert going("console") == Channel("stdout", "console")
    assert going("own", anything=1) == Channel("OrderPlaced", "events")
    assert coming("internal") == Channel("OrderPlaced", "events")


def test_the_path_of_a_webhook_stays_secret() -> None:
    found = going("webhook", url="https://hooks.example/T0/s3cr3t")
    assert found.address is None
    assert "s3cr3t" not in repr(found)
