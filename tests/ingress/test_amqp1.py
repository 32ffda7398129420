"""The destination AMQP 1.0 against real brokers, and against one that a test controls."""

from __future__ import annotations

import asyncio
from typing import Any

import proton
import pytest

from evbus.engine.wire.base import supervisor
from evbus.errors import DeliveryError, Rejected, Unavailable
from evbus.ingress import amqp1 as plugin
from tests.connection.amqp1_kit import (
    WAIT,
    Peer,
    event,
    existing,
    numbered,
    opened,
    peer,
    peer_url,
    publish,
    url,
)
from tests.ingress.amqp_kit import eventually

PLUGIN: Any = plugin  # its functions take the hub, which no type checker knows


@pytest.fixture(scope="session", params=["rabbitmq", "rabbitmq4"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def queue(node: Any, unique: str) -> str:
    """Return the name of a queue that is there: RabbitMQ 4 makes none for who sends."""
    node.declare_queue(unique)
    return unique


def exchange(node: Any, name: str) -> str:
    """Return the template of an exchange's addresses."""
    return f"/exchange{'s' if node.name == 'RabbitMQ 4' else ''}/{name}/{{routing_key}}"


@pytest.mark.parametrize(("durable", "mode"), [(True, 2), (False, 1)])
async def test_what_is_not_durable_is_not_kept(
    hub: Any, node: Any, queue: str, durable: bool, mode: int
) -> None:
    async with opened(hub, url=url(node), durable=durable, address=existing(node)) as ctx:
        assert await publish(hub, ctx, event(queue)) == [None]
    (message,) = node.take(queue)
    # The properties of a message that has none are an empty list.
    assert dict(message["properties"]).get("delivery_mode", 1) == mode


@pytest.mark.parametrize("each_rabbitmq", ["4.0", "4.3"], indirect=True)
@pytest.mark.parametrize("address", ["/queues/{routing_key}", "/exchanges/amq.topic/{routing_key}"])
async def test_what_reaches_no_queue_shortly_after_connecting_is_tried_again_for_a_while(
    hub: Any, each_rabbitmq: Any, unique: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", WAIT)

    async with opened(hub, url=url(each_rabbitmq), address=address) as ctx:
        (outcome,) = await publish(hub, ctx, event(unique))
        assert isinstance(outcome, Unavailable)
        assert "the queue may be about to come back" in str(outcome)
        each_rabbitmq.declare_queue(unique)
        each_rabbitmq.bind("amq.topic", unique, unique)
        assert await publish(hub, ctx, event(unique)) == [None]
        monkeypatch.setattr(supervisor, "SETTLING", 0.0)
        (outcome,) = await publish(hub, ctx, event(f"{unique}-nowhere"))
        assert isinstance(outcome, Rejected)


async def test_rabbitmq_3_declares_the_queue_of_an_event(hub: Any, rabbitmq: Any, unique: str) -> None:
    async with opened(hub, url=url(rabbitmq)) as ctx:
        assert await publish(hub, ctx, event(f"{unique}/ü€")) == [None]
    assert rabbitmq.queue_depth(f"{unique}/ü€") == 1


async def test_what_an_event_says_is_there_for_others(hub: Any, node: Any, queue: str) -> None:
    headers = {"content-type": "text/plain", "message-id": "m", "correlation-id": "c", "ce-id": "7"}

    async with opened(hub, url=url(node), ttl=600, priority=4, headers={"x-tenant": "shop"}) as ctx:
        assert await publish(hub, ctx, event(queue, b"text", headers)) == [None]
    (message,) = node.take(queue)
    properties = message["properties"]
    assert message["payload"] == "text"
    assert (properties["content_type"], properties["correlation_id"]) == ("text/plain", "c")
    assert (properties["delivery_mode"], properties["priority"], properties["expiration"]) == (2, 4, "600000")


async def test_a_missing_exchange_rejects_its_events_with_the_reason_and_no_others(
    hub: Any, node: Any, queue: str
) -> None:
    prefix = "/queues/" if node.name == "RabbitMQ 4" else "/queue/"
    bad = exchange(node, "nope").format(routing_key="k")

    async with opened(hub, url=url(node), address="{routing_key}") as ctx:
        outcomes = await publish(hub, ctx, event(prefix + queue), event(bad), event(prefix + queue))
        assert (outcomes[0], outcomes[2]) == (None, None)
        assert isinstance(outcomes[1], Rejected)
        assert "no exchange 'nope'" in str(outcomes[1])
        assert "\n" not in str(outcomes[1])
        assert ctx.state.connection.connects == 1
    assert node.queue_depth(queue) == 2


@pytest.mark.parametrize("kind", ["missing", "deleted"])
async def test_a_queue_that_is_not_there_rejects_its_events(
    hub: Any, node: Any, queue: str, kind: str
) -> None:
    address = "/queues/{routing_key}" if node.name == "RabbitMQ 4" else "/amq/queue/{routing_key}"

    async with opened(hub, url=url(node), address=address) as ctx:
        if kind == "deleted" and node.name == "RabbitMQ 4":
            assert await publish(hub, ctx, event(queue)) == [None]
        node.delete_queue(queue)
        (outcome,) = await publish(hub, ctx, event(queue))
        assert isinstance(outcome, Rejected)
        assert "no queue" in str(outcome) or "amqp:resource-deleted" in str(outcome)


async def test_rabbitmq_4_tells_of_an_event_that_reaches_no_queue(
    hub: Any, rabbitmq4: Any, unique: str
) -> None:
    rabbitmq4.declare_queue(unique)
    rabbitmq4.bind("amq.topic", unique, unique)

    async with opened(hub, url=url(rabbitmq4), address=exchange(rabbitmq4, "amq.topic")) as ctx:
        reached, lost = await publish(hub, ctx, event(unique), event(f"{unique}.other"))
        assert reached is None
        assert isinstance(lost, Rejected)
        assert "released it: it reached no queue" in str(lost)


async def test_the_subject_routes_when_the_address_is_an_exchange_of_rabbitmq_3(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.bind("amq.topic", unique, "eu.#")

    async with opened(hub, url=url(rabbitmq), address="/exchange/amq.topic") as ctx:
        await publish(hub, ctx, event("eu.created"), event("us.created"), event("eu.paid"))
        assert len(ctx.state._links) == 1
    assert [message["routing_key"] for message in rabbitmq.take(unique)] == ["eu.created", "eu.paid"]


async def test_many_addresses_need_no_more_links_than_are_kept(
    hub: Any, rabbitmq: Any, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evbus.engine.wire.amqp1.publish.LINKS", 5)

    async with opened(hub, url=url(rabbitmq), address="/topic/{routing_key}") as ctx:
        events = [event(f"{unique}.{number % 40}") for number in range(120)]
        for each in events:
            assert await publish(hub, ctx, each) == [None]
        assert len(ctx.state._links) <= 5
        assert len(ctx.state.connection.session._links) <= 5


class Slow(Peer):
    """A peer that says what becomes of messages when it is told to."""

    made: list[Slow]

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[Any, Any]] = []
        self.arrived = asyncio.Semaphore(0)
        self.answers = False
        type(self).made.append(self)

    def received(self, delivery: Any, message: Any) -> None:
        self.got.append((delivery, message))
        self.arrived.release()
        if self.answers:
            self.settle(delivery, proton.Delivery.ACCEPTED)

    async def arrive(self, count: int) -> None:
        for _ in range(count):
            await asyncio.wait_for(self.arrived.acquire(), WAIT)

    def say(self, index: int, state: Any, condition: Any = None) -> None:
        self.settle(self.got[index][0], state, condition)
        self.pump()


@pytest.fixture
def slow() -> type[Slow]:
    class Fresh(Slow):
        pass

    Fresh.made = []
    return Fresh


async def test_delivered_means_accepted_and_every_other_outcome_has_its_error(
    hub: Any, slow: type[Slow]
) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port)) as ctx:
        waiting = asyncio.ensure_future(publish(hub, ctx, *numbered("k", 6)))
        (server,) = slow.made
        await server.arrive(6)
        said = proton.Condition("amqp:not-allowed", "no room\nfor it")
        server.say(1, proton.Delivery.REJECTED, said)
        server.say(2, proton.Delivery.RELEASED)
        server.say(3, proton.Delivery.MODIFIED)
        server.say(4, proton.Delivery.REJECTED, proton.Condition("amqp:resource-limit-exceeded", "full"))
        server.say(5, 0)
        server.say(0, proton.Delivery.ACCEPTED)
        outcomes = await waiting
        assert outcomes[0] is None
        assert all(isinstance(outcome, Rejected) for outcome in outcomes[1:3])
        assert [type(outcome) for outcome in outcomes[3:]] == [DeliveryError] * 3
        assert "amqp:not-allowed: no room" in str(outcomes[1])
        assert all("\n" not in str(outcome) for outcome in outcomes)


async def test_events_go_to_addresses_of_artemis(hub: Any, slow: type[Slow]) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port)) as ctx:
        waiting = asyncio.ensure_future(publish(hub, ctx, event("Placed", b"x", {"a": "b"})))
        (server,) = slow.made
        await server.arrive(1)
        server.say(0, proton.Delivery.ACCEPTED)
        assert await waiting == [None]
        (link,) = server.links.values()
        assert link.remote_target.address == "Placed"
        assert link.remote_target.durability == proton.Terminus.DELIVERIES
        capabilities = link.remote_target.capabilities
        assert capabilities.next()
        assert "topic" in str(capabilities.get_object())
        (_, message) = server.got[0]
        assert (message.durable, message.subject, message.properties) == (True, "Placed", {"a": "b"})


async def test_without_outcomes_an_event_is_unavailable_and_not_sent_twice_over_one_connection(
    hub: Any,
    slow: type[Slow],
) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port), settle_timeout=0.05) as ctx:
        events = [event("k", b"same"), event("k", b"other")]
        twins = [*events, events[0].replace(), events[0].replace()]
        outcomes = await publish(hub, ctx, *twins)
        assert all("settle_timeout" in str(outcome) for outcome in outcomes)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        (server,) = slow.made
        server.say(0, proton.Delivery.ACCEPTED)
        again = asyncio.ensure_future(publish(hub, ctx, *(one.replace() for one in twins)))
        for index in range(1, 4):
            server.say(index, proton.Delivery.ACCEPTED)
        assert await again == [None] * 4
        assert len(server.got) == 4
        server.answers = True
        assert await publish(hub, ctx, events[0]) == [None]
        assert len(server.got) == 5


async def test_what_was_refused_after_the_timeout_is_sent_again(hub: Any, slow: type[Slow]) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port), settle_timeout=0.05) as ctx:
        one = event("k")
        await publish(hub, ctx, one)
        (server,) = slow.made
        server.say(0, proton.Delivery.MODIFIED)
        server.answers = True
        await eventually(lambda: not ctx.state.connection.session.receipts, "the outcome")
        assert await publish(hub, ctx, one) == [None]
        assert len(server.got) == 2


async def test_a_cancelled_event_is_still_in_flight_and_its_outcome_is_taken_next_time(
    hub: Any,
    slow: type[Slow],
) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port)) as ctx:
        one = event("k", b"1")
        waiting = asyncio.ensure_future(publish(hub, ctx, one))
        await eventually(lambda: slow.made, "the connection")
        (server,) = slow.made
        await server.arrive(1)
        waiting.cancel()
        await asyncio.wait({waiting})
        again = asyncio.ensure_future(publish(hub, ctx, one))
        await asyncio.sleep(0)
        server.say(0, proton.Delivery.ACCEPTED)
        assert await again == [None]
        assert len(server.got) == 1


async def test_no_more_than_the_window_is_in_flight(hub: Any, slow: type[Slow]) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port), window=2) as ctx:
        waiting = asyncio.ensure_future(publish(hub, ctx, *numbered("k", 5)))
        (server,) = slow.made
        for sent in range(2, 6):
            await server.arrive(2 if sent == 2 else 1)
            assert len(server.got) == sent
            server.say(sent - 2, proton.Delivery.ACCEPTED)
        server.say(4, proton.Delivery.ACCEPTED)
        assert await waiting == [None] * 5


async def test_no_more_is_sent_than_the_peer_gives_credit_for(hub: Any, slow: type[Slow]) -> None:
    slow.credit = 2
    async with peer(slow) as port, opened(hub, **peer_url(port)) as ctx:
        waiting = asyncio.ensure_future(publish(hub, ctx, *numbered("k", 4)))
        (server,) = slow.made
        await server.arrive(2)
        for index in range(2):
            server.say(index, proton.Delivery.ACCEPTED)
        assert len(server.got) == 2
        (link,) = server.links.values()
        link.flow(2)
        server.pump()
        await server.arrive(2)
        for index in range(2, 4):
            server.say(index, proton.Delivery.ACCEPTED)
        assert await waiting == [None] * 4


@pytest.mark.parametrize(
    ("condition", "alone", "several"),
    [
        ("amqp:link:message-size-exceeded", Rejected, DeliveryError),
        ("amqp:link:detach-forced", Unavailable, Unavailable),
        ("amqp:unauthorized-access", Unavailable, Unavailable),
    ],
)
async def test_a_link_that_ends_tells_its_events_why_and_is_attached_again(
    hub: Any, slow: type[Slow], condition: str, alone: type, several: type
) -> None:
    async with peer(slow) as port, opened(hub, **peer_url(port)) as ctx:
        for count, kind in ((1, alone), (2, several)):
            waiting = asyncio.ensure_future(publish(hub, ctx, *numbered("k", count)))
            (server,) = slow.made
            await server.arrive(count)
            (link,) = server.links.values()
            server.end(link, condition, "too much")
            server.pump()
            outcomes = await waiting
            assert {type(outcome) for outcome in outcomes} == {kind}
            # One error for all makes the lane send each alone.
            assert all(outcome is outcomes[0] for outcome in outcomes)
            assert f"{condition}: too much" in str(outcomes[0])
        server.answers = True
        assert await publish(hub, ctx, event("k")) == [None]
        assert ctx.state.connection.connects == 1
