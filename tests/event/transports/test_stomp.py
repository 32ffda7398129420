"""Typed events by STOMP: over topics of RabbitMQ, and over virtual topics of ActiveMQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evbus.engine.wire.stomp import consume
from evbus.errors import ProfileError
from tests.event.transports.behaviour import BrokerBehaviour, Inbox, order
from tests.ingress.amqp_kit import eventually


class Stomp(BrokerBehaviour):
    """With what differs between the brokers left out.

    A topic tells nobody that it has no subscribers: what is sent while a group was never there is lost.
    """

    destination: str

    def profiles(self, port: int = 0) -> dict[str, Any]:
        node = self.node
        return {
            "stomp": {
                "default": {
                    "url": f"stomp://{node.user}:{node.password}@{node.host}:{port or node.stomp_port}/",
                    "destination": self.destination,
                    "reconnect": {"min": 0.01, "max": 0.1},
                }
            }
        }

    async def test_a_queue_is_refused_as_its_listeners_would_share_the_events(self) -> None:
        self.destination = "/queue/{routing_key}"
        with pytest.raises(
            ProfileError, match="gives each event to one consumer, and its listeners would share"
        ):
            async with self.process(Inbox(order(self.name))):
                pass


class TestRabbitmq(Stomp):
    destination = "/topic/{routing_key}"

    @pytest.fixture(autouse=True)
    def _broker(self, rabbitmq: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = rabbitmq, proxy, rabbitmq.stomp_port

    def queues(self) -> list[str]:
        return [found["name"] for found in self.node.api("GET", "queues/%2F")]

    def consumers(self, name: str, group: str) -> int:
        return int(self.node.depth(f"{name}::{group}").consumers)

    async def test_the_queue_of_what_is_not_durable_goes_when_no_listener_comes_back(self) -> None:
        queue = f"{self.name}::inbox"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(consume, "PASSING", 1)
            async with self.process(Inbox(order(self.name))):
                assert self.node.has_queue(queue)
            assert self.node.has_queue(queue)
        # Who declares it, if only passively, uses it, which puts its end off.
        await eventually(lambda: queue not in self.queues(), "the end of the queue")

    @pytest.mark.parametrize(
        ("destination", "reason"),
        [
            ("/exchange/amq.direct/{routing_key}", "takes names as they are"),
            ("/topic/events", "nobody can listen to the pattern"),
            ("/topic/shop-{routing_key}", "nobody can listen to the pattern"),
        ],
    )
    async def test_a_pattern_needs_a_topic(self, destination: str, reason: str) -> None:
        self.destination = destination

        with pytest.raises(ProfileError, match=reason):
            async with self.process(Inbox("order.*")):
                pass

    async def test_an_exchange_of_its_own_does_as_well(self) -> None:
        self.node.declare_exchange(f"{self.name}-events", "topic")
        self.destination = f"/exchange/{self.name}-events/{{routing_key}}"
        kind = order(self.name)
        inboxes = [Inbox(kind, name=name) for name in ("one", "other")]
        async with self.process(*inboxes) as hub:
            await hub.event.init.send(kind(1))
            assert [await inbox.numbers(1) for inbox in inboxes] == [[1], [1]]
        matching = Inbox(f"{self.name}.*")
        async with self.process(matching) as hub:
            await hub.evbus.broker.put(routing_key=f"{self.name}.x", body={"n": 1})
            assert await matching.next() == {"n": 1}


class TestActivemq(Stomp):
    destination = "/topic/VirtualTopic.{routing_key}"
    # Dots are between the parts of "Consumer.<group>.VirtualTopic.<event>", and a group is one part.
    strange_name, strange_group = ".ü/注 :%2C'=$&;<{x}*", "ä/b :%2C{y}"

    @pytest.fixture(autouse=True)
    def _broker(self, activemq: Any, proxy: Callable[..., Any]) -> None:
        self.node, self.proxy, self.port = activemq, proxy, activemq.stomp_port

    def consumers(self, name: str, group: str) -> None:
        return None

    async def test_a_group_is_kept_even_if_its_event_is_not_durable(self) -> None:
        kind = order(self.name)
        before, after = Inbox(kind), Inbox(kind)
        async with self.process() as sender:
            async with self.process(before):
                pass
            await sender.event.init.send(kind(1))
            async with self.process(after):
                assert await after.numbers(1) == [1]

    async def test_a_pattern_that_activemq_does_not_have_is_refused(self) -> None:
        with pytest.raises(ProfileError, match="'#' can be the last word only"):
            async with self.process(Inbox(f"{self.name}.#.placed")):
                pass

    async def test_a_group_with_a_dot_is_refused(self) -> None:
        with pytest.raises(ProfileError, match=r"b\.c"):
            async with self.process(Inbox(order(self.name), group="b.c")):
                pass
