"""Where events go, and where listeners get them from, by transport."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from evbus.api import bus, event
from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.profiles import read_profiles
from evbus.engine.handling.events.channel import received, sent, servers, transport
from evbus.engine.wire.amqp import describe as amqp_describe
from evbus.engine.wire.amqp import profile as amqp_profile
from evbus.engine.wire.amqp1 import describe as amqp1_describe
from evbus.engine.wire.amqp1 import profile as amqp1_profile
from evbus.engine.wire.base.describe import UNKNOWN
from evbus.engine.wire.file import console, lines
from evbus.engine.wire.http import webhook
from evbus.engine.wire.memory import queues
from evbus.engine.wire.stomp import describe as stomp_describe
from evbus.engine.wire.stomp import profile as stomp_profile
from evbus.errors import EvbusError, ProfileError
from evbus.ingress import console as console_plugin
from evbus.ingress import file as file_plugin
from evbus.ingress import internal as internal_plugin
from evbus.types import Channel, Host, Subscription
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
DESCRIBE = {
    "amqp": amqp_describe.describe,
    "amqp1": amqp1_describe.describe,
    "stomp": stomp_describe.describe,
    "internal": partial(internal_plugin.describe, None),
    "file": partial(file_plugin.describe, None),
    "console": partial(console_plugin.describe, None),
    "webhook": webhook.describe,
}
PLUGINS = {
    name: Plugin(name, (name,), schema, {"describe": DESCRIBE[name]}) for name, schema in SCHEMAS.items()
}
ACCEPTS = [*PLUGINS.values(), Plugin("own", ("own",))]
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
    settings = schema(**data) if schema else None
    source = Endpoint(PLUGINS.get(provider, Plugin(provider)), provider, "default", data, settings)
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
        found = received(Endpoint(PLUGINS["amqp"], "amqp", "default", data, settings), wanted)
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


@pytest.mark.parametrize(
    ("provider", "data", "channel"),
    [
        ("internal", {"routing_key": "all"}, Channel("all", "events")),
        ("file", {"path": "out.jsonl"}, Channel("out.jsonl", "file")),
        ("console", {}, Channel("stdout", "console")),
        ("own", {"anything": 1}, Channel("OrderPlaced", "events")),
    ],
)
def test_destinations_without_a_broker_say_what_they_can(provider: str, data: Any, channel: Channel) -> None:
    assert going(provider, **data) == channel
    assert coming("internal") == Channel("OrderPlaced", "events")


def test_the_path_of_a_webhook_stays_secret() -> None:
    found = going("webhook", url="https://hooks.example/T0/s3cr3t")
    assert found.address is None
    assert "s3cr3t" not in repr(found)


# Hosts

SECRET = "s3cr3t-w0rd"


def hosts(schema: Any, **data: Any) -> list[Host]:
    (provider,) = (name for name, known in SCHEMAS.items() if known is schema)
    return servers(Endpoint(PLUGINS[provider], provider, "default", data, schema(**data)))


@pytest.mark.parametrize(
    ("schema", "data", "right"),
    [
        (
            amqp_profile.Profile,
            {"url": f"amqps://app:{SECRET}@rabbit.example/prod%2Fone"},
            ("rabbit.example:5671", "amqps", "0-9-1", "/prod%2Fone", "userPassword"),
        ),
        (amqp_profile.Profile, {}, ("localhost:5672", "amqp", "0-9-1", "", "userPassword")),
        (
            amqp1_profile.Profile,
            {"url": "amqp://[::1]:5673/", "auth": "anonymous"},
            ("[::1]:5673", "amqp1", "1.0", "", ""),
        ),
        (
            stomp_profile.Profile,
            {"url": f"stomp+ssl://app:{SECRET}@mq.example", "vhost": "v"},
            ("mq.example:61614", "stomps", "1.2", "/v", "userPassword"),
        ),
        (stomp_profile.Profile, {"url": "stomp://mq.example"}, ("mq.example:61613", "stomp", "1.2", "", "")),
        (
            webhook.WebhookProfile,
            {
                "url": f"https://u:{SECRET}@hooks.example:8443/T0/{SECRET}?k={SECRET}",
                "secret": f"raw:{SECRET}",
            },
            ("hooks.example:8443", "https", "", "", ""),
        ),
    ],
)
def test_of_a_profile_host_and_protocol_are_told(schema: Any, data: dict[str, Any], right: Any) -> None:
    (server,) = hosts(schema, **data)
    assert server[:5] == right
    assert SECRET not in repr(server)


def test_every_host_of_a_cluster_is_one() -> None:
    found = hosts(amqp_profile.Profile, hosts=["a.example", "b.example:5000"], login="app", password=SECRET)
    assert [server.host for server in found] == ["a.example:5672", "b.example:5000"]


def test_a_client_certificate_is_a_login() -> None:
    tls = amqp_profile.Tls(cert_file="c.pem", key_file="k.pem")
    (server,) = hosts(amqp_profile.Profile, auth="external", tls=tls)
    assert server.login == "X509"


def test_what_is_in_the_process_has_no_host_of_its_own() -> None:
    assert hosts(queues.InternalProfile) == [Host("localhost", "internal", description="within the process")]


@pytest.mark.parametrize(
    ("data", "host"),
    [
        ({"url": f"http://me:{SECRET}@other.example:81/{SECRET}"}, "other.example:81"),
        ({"url": "http://[broken"}, UNKNOWN),
        ({"url": 5}, UNKNOWN),
        ({"token": SECRET}, UNKNOWN),
    ],
)
def test_of_a_plugin_that_is_not_known_only_a_host_is_taken(data: dict[str, Any], host: str) -> None:
    assert servers(Endpoint(Plugin("other"), "other", "default", data)) == [Host(host, "other")]


# What a transport can


@pytest.mark.parametrize(
    ("provider", "data", "can"),
    [
        ("amqp", {"exchange": EVENTS}, "topics groups copies durable dead_letters headers"),
        ("amqp", {"exchange": "amq.direct"}, "groups copies durable dead_letters headers"),
        ("amqp", {"exchange": "", "persistent": False}, "dead_letters headers"),
        ("amqp1", ANONYMOUS, "groups copies durable dead_letters headers"),
        ("amqp1", {**ANONYMOUS, "address_model": "rabbitmq4"}, "durable dead_letters headers"),
        ("stomp", STOMP, "durable dead_letters headers"),
        (
            "stomp",
            {**STOMP, "destination": "/topic/{routing_key}"},
            "topics groups copies durable dead_letters headers",
        ),
        ("internal", {}, "topics groups copies headers"),
        ("file", {"path": "a.jsonl", "format": "body"}, "durable"),
        ("console", {"format": "event"}, "headers"),
        ("webhook", {"url": "https://h.example/"}, "headers"),
    ],
)
def test_a_transport_says_what_it_can(provider: str, data: dict[str, Any], can: str) -> None:
    settings = msgspec.convert(data, SCHEMAS[provider])
    found = transport(Endpoint(PLUGINS[provider], provider, "p", data, settings))
    assert [name for name, value in found._asdict().items() if value is True] == can.split()
    assert found.largest_body is None


async def test_a_plugin_that_is_dropped_in_may_say_it_too(tmp_path: Path) -> None:
    code = (
        "from evbus.types import Channel, Host, Transport\n"
        "async def publish(hub, ctx, routing_key, body): ...\n"
        "def describe(hub, profile):\n"
        "    return Transport([Host(profile['to'], 'pigeon')], Channel('loft', 'nest'), largest_body=20)\n"
    )
    (tmp_path / "ingress").mkdir()
    (tmp_path / "ingress" / "pigeon.py").write_text(code)

    async with bus({"pigeon": {"p": {"to": "tower"}}}, plugin_dirs=[tmp_path]) as here:
        (profile,) = here.hub.evbus.init.check({"pigeon": {"p": {"to": "tower"}}})
        assert servers(profile) == [Host("tower", "pigeon")]
        assert sent(profile, "OrderPlaced", "p") == Channel("loft", "nest")
        assert transport(profile).largest_body == 20
