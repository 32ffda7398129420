"""What a STOMP subscription asks the broker for, and which routing key a message had."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.engine.wire.stomp.consume import _SubscribePlan, plan, routing_key
from evbus.engine.wire.stomp.profile import Profile
from evbus.engine.wire.stomp.session import Product
from evbus.errors import ProfileError
from evbus.types import Subscription

RABBIT, ACTIVE = Product.RABBITMQ, Product.ACTIVEMQ
PREFETCH = {RABBIT: {"prefetch-count": "100"}, ACTIVE: {"activemq.prefetchSize": "100"}}


def profile(**data: Any) -> Profile:
    return msgspec.convert({"url": "stomp://h", **data}, type=Profile, strict=False)


@pytest.mark.parametrize("broker", [RABBIT, ACTIVE])
def test_a_queue_is_shared_by_its_consumers(broker: Product) -> None:
    assert plan(profile(), Subscription(name="orders"), broker) == _SubscribePlan(
        "/queue/orders", PREFETCH[broker]
    )
    for made in (profile(destination="/queue/orders"), profile(routing_key="orders")):
        assert plan(made, Subscription(), broker).destination == "/queue/orders"


@pytest.mark.parametrize(("broker", "topic"), [(RABBIT, "/topic/"), (ACTIVE, "/topic/VirtualTopic.")])
def test_a_queue_has_no_copies_for_groups(broker: Product, topic: str) -> None:
    with pytest.raises(ProfileError) as caught:
        plan(profile(), Subscription(name="orders", group="g"), broker)
    assert str(caught.value) == (
        "destination: /queue/orders gives each event to one consumer, and its listeners would share them; "
        f"write 'destination: {topic}{{routing_key}}'"
    )


@pytest.mark.parametrize("strange", [".", "*", ">"])
def test_a_group_of_a_virtual_topic_has_a_name_that_it_takes(strange: str) -> None:
    topic = profile(destination="/topic/VirtualTopic.{routing_key}")
    with pytest.raises(ProfileError) as caught:
        plan(topic, Subscription(name="orders", group=f"a{strange}b"), ACTIVE)
    assert str(caught.value) == (
        f"subscription: a group of a virtual topic of ActiveMQ holds no {strange!r}, "
        f"or it would get nothing: a{strange}b"
    )


def test_prefetch_is_the_subscriptions_else_the_profiles() -> None:
    assert plan(profile(prefetch=7), Subscription(name="a"), RABBIT).headers == {"prefetch-count": "7"}
    assert plan(profile(), Subscription(name="a", prefetch=3), RABBIT).headers == {"prefetch-count": "3"}
    assert plan(profile(), Subscription(name="a", concurrency=8), RABBIT).headers == {"prefetch-count": "16"}


def test_a_group_on_a_topic_of_rabbitmq_has_a_queue_of_its_own() -> None:
    topic = profile(destination="/topic/{routing_key}", declare={"x-queue-type": "quorum"})
    assert plan(topic, Subscription(name="a.b", group="g"), RABBIT) == _SubscribePlan(
        "/topic/a.b",
        {
            "x-queue-type": "quorum",
            "prefetch-count": "100",
            "x-queue-name": "a.b::g",
            "durable": "true",
            "auto-delete": "false",
            "exclusive": "false",
        },
    )


def test_what_is_not_kept_outlives_its_consumers_for_a_while_and_is_classic() -> None:
    declare = {"x-queue-type": "quorum", "x-max-length": "5"}
    topic = profile(destination="/topic/{routing_key}", declare=declare)
    passing = {
        "x-max-length": "5",
        "prefetch-count": "100",
        "durable": "true",
        "auto-delete": "false",
        "exclusive": "false",
        "x-expires": "300000",
    }
    shared = plan(topic, Subscription(name="a/b", group="g", durable=False), RABBIT, "7f")
    assert shared == _SubscribePlan("/topic/a%2Fb", {**passing, "x-queue-name": "a.b::g"})
    for wanted, queue in (
        (Subscription(name="a", group="g", per_process=True), "a::g::7f"),
        (Subscription(name="a", per_process=True), "a::7f"),
    ):
        own = plan(topic, wanted, RABBIT, "7f")
        assert own == _SubscribePlan("/topic/a", {**passing, "x-queue-name": queue}, queue)
    alone = plan(profile(destination="/topic/t", durable=False), Subscription(), RABBIT, "7f")
    assert alone.own == alone.headers["x-queue-name"] == "t::7f"


def test_a_queue_that_is_there_is_taken_as_it_is() -> None:
    topic = profile(destination="/topic/{routing_key}", declare={"x-max-length": "5"})
    found = plan(topic, Subscription(name="a", group="b/c", prefetch=7), RABBIT)
    assert found.as_it_is() == _SubscribePlan("/amq/queue/a::b%2Fc", {"prefetch-count": "7"})
    assert plan(profile(), Subscription(name="a"), RABBIT).as_it_is() is None


def test_the_profiles_subscription_is_the_group_of_who_has_none() -> None:
    made = profile(destination="/exchange/events/{routing_key}", subscription="copy")
    assert plan(made, Subscription(name="a"), RABBIT).headers["x-queue-name"] == "a::copy"


def test_a_copy_for_a_process_is_temporary() -> None:
    topic = profile(destination="/topic/{routing_key}", subscription="copy")
    found = plan(topic, Subscription(name="a", per_process=True), RABBIT)
    assert found == _SubscribePlan("/topic/a", PREFETCH[RABBIT], lossy=True)


def test_groups_on_activemq_consume_the_queues_of_a_virtual_topic() -> None:
    topic = profile(destination="/topic/VirtualTopic.{routing_key}")
    found = plan(topic, Subscription(name="a", group="g"), ACTIVE)
    assert found == _SubscribePlan("/queue/Consumer.g.VirtualTopic.a", PREFETCH[ACTIVE])


def test_a_durable_subscription_of_activemq_needs_a_client_id() -> None:
    topic = {"destination": "/topic/{routing_key}"}
    with pytest.raises(ProfileError, match="client_id"):
        plan(profile(**topic), Subscription(name="a", group="g"), ACTIVE)
    found = plan(profile(**topic, client_id="c"), Subscription(name="a", group="g"), ACTIVE)
    assert found.headers["activemq.subscriptionName"] == "g"


@pytest.mark.parametrize(
    ("data", "wanted", "sentence"),
    [
        ({}, Subscription(), "does not say what to consume"),
        ({"routing_key": "x.{routing_key}"}, Subscription(), "does not say what to consume"),
        ({}, Subscription(name="a", per_process=True), "needs a topic"),
        ({"destination": "/topic/{routing_key}"}, Subscription(name="a"), "needs a name"),
        ({"destination": "{routing_key}"}, Subscription(name="a"), "no '/'"),
        ({}, Subscription(name="a\0"), "NUL"),
    ],
)
def test_what_a_destination_cannot_give_is_refused_with_a_sentence(
    data: dict[str, Any], wanted: Subscription, sentence: str
) -> None:
    with pytest.raises(ProfileError, match=sentence):
        plan(profile(**data), wanted, RABBIT)


@pytest.mark.parametrize(
    ("broker", "template", "headers", "key"),
    [
        (RABBIT, "/queue/{routing_key}", {"destination": "/queue/a%2Fb%25"}, "a/b%"),
        (ACTIVE, "/queue/{routing_key}", {"destination": "/queue/a%2Fb"}, "a%2Fb"),
        (RABBIT, "/queue/all", {"destination": "/queue/all", "evbus-routing-key": "k"}, "k"),
        (RABBIT, "/queue/all", {"destination": "/exchange/e/k"}, "k"),
        (RABBIT, "/topic/x.{routing_key}", {"destination": "/topic/x.k"}, "k"),
        (RABBIT, "{routing_key}", {"destination": "/queue/a"}, "/queue/a"),
        (
            ACTIVE,
            "/topic/VirtualTopic.{routing_key}",
            {
                "destination": "/queue/Consumer.g.VirtualTopic.k",
                "original-destination": "/topic/VirtualTopic.k",
            },
            "k",
        ),
    ],
)
def test_the_routing_key_of_a_message_is_found(
    broker: Product, template: str, headers: dict[str, str], key: str
) -> None:
    assert routing_key(profile(destination=template), headers, broker) == key
