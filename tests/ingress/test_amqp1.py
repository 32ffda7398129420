"""The destination AMQP 1.0 against real brokers, and against one that a test controls."""

from __future__ import annotations

import asyncio
from typing import Any

import proton
import pytest

from evbus.engine.wire.base import supervisor
from evbus.errors import ConnectionLost, DeliveryError, Rejected, Unavailable
from evbus.ingress import amqp1 as plugin
from tests.connection.amqp1_kit import (
    WAIT,
    Peer,
    context,
    event,
    existing,
    new_hub,
    numbered,
    opened,
    peer,
    peer_url,
    publish,
    ready,
    url,
)
from tests.ingress.amqp_kit import eventually, kill
from tests.ingress.poison_kit import GOOD, breaking, send_among_good_ones
from tests.ingress.still_kit import Still

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


def test_the_plugin_declares_its_provider_and_profile() -> None:
    hub = new_hub()
    assert hub.ingress.amqp1.ACCT == ["amqp1"]
    assert hub.ingress.amqp1.PROFILE.__name__ == "Profile"


def test_close_without_open_is_nothing() -> None:
    asyncio.run(PLUGIN.close_(None, context(url="amqp://u:p@h")))


def test_events_arrive_in_their_order(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), window=100) as ctx:
            assert await publish(hub, ctx, *numbered(queue, 2500)) == [None] * 2500
            await hub.ingress.amqp1.publish(ctx, queue, b"last", {"a": "b"})

    asyncio.run(main())
    found = [message["payload"] for message in node.take(queue, 3000)]
    assert found == [*map(str, range(2500)), "last"]


@pytest.mark.parametrize(("durable", "mode"), [(True, 2), (False, 1)])
def test_what_is_not_durable_is_not_kept(node: Any, queue: str, durable: bool, mode: int) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), durable=durable, address=existing(node)) as ctx:
            assert await publish(hub, ctx, event(queue)) == [None]

    asyncio.run(main())
    (message,) = node.take(queue)
    # The properties of a message that has none are an empty list.
    assert dict(message["properties"]).get("delivery_mode", 1) == mode


def test_properties_that_other_clients_of_rabbitmq_cannot_be_told_are_refused(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            bad = event(queue, b"1", {"correlation-id": "c" * 256})
            outcomes = await publish(hub, ctx, bad, event(queue, b"2"))
            assert isinstance(outcomes[0], Rejected)
            assert "'correlation-id' has 256 bytes" in str(outcomes[0])
            assert outcomes[1] is None

    asyncio.run(main())
    assert [message["payload"] for message in node.take(queue)] == ["2"]


def test_an_event_that_breaks_the_connection_is_dead_after_its_attempts_and_the_others_arrive(
    node: Any, proxy: Any, tmp_path: Any, queue: str
) -> None:
    way = proxy(node.port)
    way.filter("up", breaking)
    asyncio.run(send_among_good_ones(tmp_path, "amqp1", {"url": url(node, way.port)}, queue))
    assert node.queue_depth(queue) == GOOD


def test_a_connection_that_answers_nothing_but_beats_is_given_up(node: Any, proxy: Any, queue: str) -> None:
    way, still = proxy(node.port), Still(b"\0\0\0\x08\x02\0\0\0")
    way.filter("down", still)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node, way.port), settle_timeout=1.5, heartbeat=2) as ctx:
            assert await publish(hub, ctx, event(queue, b"0")) == [None]
            still.begin()
            left = numbered(queue, 2, start=1)
            assert all(isinstance(outcome, Unavailable) for outcome in await publish(hub, ctx, *left))
            assert ctx.state.connection.connects == 1
            second = await publish(hub, ctx, *left)
            assert all(isinstance(outcome, Unavailable) for outcome in second)
            assert not any(isinstance(outcome, ConnectionLost) for outcome in second)
            await ready(hub, ctx)
            assert await publish(hub, ctx, *left) == [None, None]
            assert ctx.state.connection.connects == 2

    asyncio.run(main())
    # The broker had taken those that it could not say so of.
    assert node.queue_depth(queue) == 5


def test_a_broker_that_blocks_publishers_is_waited_for_on_the_same_connection(
    each_broken_rabbitmq: Any, unique: str
) -> None:
    node = each_broken_rabbitmq
    node.declare_queue(unique)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), settle_timeout=0.3) as ctx:
            assert await publish(hub, ctx, event(unique, b"0")) == [None]
            await asyncio.to_thread(node.memory_alarm, True)
            left = numbered(unique, 2, start=1)
            for _ in range(4):
                # RabbitMQ 3 takes what comes by AMQP 1.0, alarm or not.
                outcomes = await publish(hub, ctx, *left)
                assert all(outcome is None or isinstance(outcome, Unavailable) for outcome in outcomes)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            await asyncio.to_thread(node.memory_alarm, False)
            while left and (await publish(hub, ctx, *left)) != [None, None]:
                pass
            assert ctx.state.connection.connects == 1

    asyncio.run(main())
    assert node.queue_depth(unique) == 3


@pytest.mark.parametrize("each_rabbitmq", ["4.0", "4.3"], indirect=True)
@pytest.mark.parametrize("address", ["/queues/{routing_key}", "/exchanges/amq.topic/{routing_key}"])
def test_what_reaches_no_queue_shortly_after_connecting_is_tried_again_for_a_while(
    each_rabbitmq: Any, unique: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", WAIT)

    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_rabbitmq_3_declares_the_queue_of_an_event(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq)) as ctx:
            assert await publish(hub, ctx, event(f"{unique}/ü€")) == [None]

    asyncio.run(main())
    assert rabbitmq.queue_depth(f"{unique}/ü€") == 1


def test_what_an_event_says_is_there_for_others(node: Any, queue: str) -> None:
    headers = {"content-type": "text/plain", "message-id": "m", "correlation-id": "c", "ce-id": "7"}

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), ttl=600, priority=4, headers={"x-tenant": "shop"}) as ctx:
            assert await publish(hub, ctx, event(queue, b"text", headers)) == [None]

    asyncio.run(main())
    (message,) = node.take(queue)
    properties = message["properties"]
    assert message["payload"] == "text"
    assert (properties["content_type"], properties["correlation_id"]) == ("text/plain", "c")
    assert (properties["delivery_mode"], properties["priority"], properties["expiration"]) == (2, 4, "600000")


def test_what_cannot_be_carried_is_refused_and_the_rest_is_sent(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            outcomes = await publish(
                hub, ctx, event(queue, b"1"), event(queue, b"2", {"a": "\ud800"}), event(""), event(queue)
            )
            assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, Rejected, type(None)]

    asyncio.run(main())
    assert node.queue_depth(queue) == 2


def test_a_missing_exchange_rejects_its_events_with_the_reason_and_no_others(node: Any, queue: str) -> None:
    prefix = "/queues/" if node.name == "RabbitMQ 4" else "/queue/"
    bad = exchange(node, "nope").format(routing_key="k")

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), address="{routing_key}") as ctx:
            outcomes = await publish(hub, ctx, event(prefix + queue), event(bad), event(prefix + queue))
            assert (outcomes[0], outcomes[2]) == (None, None)
            assert isinstance(outcomes[1], Rejected)
            assert "no exchange 'nope'" in str(outcomes[1])
            assert "\n" not in str(outcomes[1])
            assert ctx.state.connection.connects == 1

    asyncio.run(main())
    assert node.queue_depth(queue) == 2


@pytest.mark.parametrize("kind", ["missing", "deleted"])
def test_a_queue_that_is_not_there_rejects_its_events(node: Any, queue: str, kind: str) -> None:
    address = "/queues/{routing_key}" if node.name == "RabbitMQ 4" else "/amq/queue/{routing_key}"

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), address=address) as ctx:
            if kind == "deleted" and node.name == "RabbitMQ 4":
                assert await publish(hub, ctx, event(queue)) == [None]
            node.delete_queue(queue)
            (outcome,) = await publish(hub, ctx, event(queue))
            assert isinstance(outcome, Rejected)
            assert "no queue" in str(outcome) or "amqp:resource-deleted" in str(outcome)

    asyncio.run(main())


def test_rabbitmq_4_tells_of_an_event_that_reaches_no_queue(rabbitmq4: Any, unique: str) -> None:
    rabbitmq4.declare_queue(unique)
    rabbitmq4.bind("amq.topic", unique, unique)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq4), address=exchange(rabbitmq4, "amq.topic")) as ctx:
            reached, lost = await publish(hub, ctx, event(unique), event(f"{unique}.other"))
            assert reached is None
            assert isinstance(lost, Rejected)
            assert "released it: it reached no queue" in str(lost)

    asyncio.run(main())


def test_the_subject_routes_when_the_address_is_an_exchange_of_rabbitmq_3(rabbitmq: Any, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.bind("amq.topic", unique, "eu.#")

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), address="/exchange/amq.topic") as ctx:
            await publish(hub, ctx, event("eu.created"), event("us.created"), event("eu.paid"))
            assert len(ctx.state._links) == 1

    asyncio.run(main())
    assert [message["routing_key"] for message in rabbitmq.take(unique)] == ["eu.created", "eu.paid"]


def test_many_addresses_need_no_more_links_than_are_kept(
    rabbitmq: Any, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evbus.engine.wire.amqp1.publish.LINKS", 5)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), address="/topic/{routing_key}") as ctx:
            events = [event(f"{unique}.{number % 40}") for number in range(120)]
            for each in events:
                assert await publish(hub, ctx, each) == [None]
            assert len(ctx.state._links) <= 5
            assert len(ctx.state.connection.session._links) <= 5

    asyncio.run(main())


def test_a_lost_connection_makes_unavailable_and_events_go_on_afterwards(
    node: Any, proxy: Any, queue: str
) -> None:
    way = proxy(node.port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node, way.port)) as ctx:
            assert await publish(hub, ctx, event(queue, b"1")) == [None]
            way.freeze("down")
            waiting = asyncio.ensure_future(ctx.state.publish(numbered(queue, 2)))
            await asyncio.sleep(0)
            assert ctx.state._flying == 2
            way.cut()
            outcomes = await waiting
            assert [isinstance(outcome, Unavailable) for outcome in outcomes] == [True, True]
            assert "connection was lost before the outcome" in str(outcomes[0])
            way.thaw("down")
            await ready(hub, ctx)
            assert await publish(hub, ctx, event(queue, b"4")) == [None]

    asyncio.run(main())


def test_while_the_broker_is_down_events_are_unavailable(node: Any, proxy: Any, queue: str) -> None:
    way = proxy(node.port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node, way.port)) as ctx:
            way.refuse()
            way.cut()
            await asyncio.wait_for(asyncio.shield(ctx.state.connection.session.lost), WAIT)
            (outcome,) = await publish(hub, ctx, event(queue))
            assert isinstance(outcome, Unavailable)
            why, back = hub.ingress.amqp1.ready(ctx)
            assert "not connected" in why
            way.accept()
            await asyncio.wait_for(back, WAIT)
            assert await publish(hub, ctx, event(queue)) == [None]

    asyncio.run(main())


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


def test_delivered_means_accepted_and_every_other_outcome_has_its_error(slow: type[Slow]) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_events_go_to_addresses_of_artemis(slow: type[Slow]) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_without_outcomes_an_event_is_unavailable_and_not_sent_twice_over_one_connection(
    slow: type[Slow],
) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_what_was_refused_after_the_timeout_is_sent_again(slow: type[Slow]) -> None:
    async def main() -> None:
        hub = new_hub()
        async with peer(slow) as port, opened(hub, **peer_url(port), settle_timeout=0.05) as ctx:
            one = event("k")
            await publish(hub, ctx, one)
            (server,) = slow.made
            server.say(0, proton.Delivery.MODIFIED)
            server.answers = True
            await eventually(lambda: ctx.state._flying == 0, "the outcome")
            assert await publish(hub, ctx, one) == [None]
            assert len(server.got) == 2

    asyncio.run(main())


def test_a_cancelled_event_is_still_in_flight_and_its_outcome_is_taken_next_time(slow: type[Slow]) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_no_more_than_the_window_is_in_flight(slow: type[Slow]) -> None:
    async def main() -> None:
        hub = new_hub()
        async with peer(slow) as port, opened(hub, **peer_url(port), window=2) as ctx:
            waiting = asyncio.ensure_future(publish(hub, ctx, *numbered("k", 5)))
            (server,) = slow.made
            for sent in range(2, 6):
                await server.arrive(2 if sent == 2 else 1)
                assert len(server.got) == sent
                server.say(sent - 2, proton.Delivery.ACCEPTED)
            server.say(4, proton.Delivery.ACCEPTED)
            assert await waiting == [None] * 5

    asyncio.run(main())


def test_no_more_is_sent_than_the_peer_gives_credit_for(slow: type[Slow]) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


@pytest.mark.parametrize(
    ("condition", "alone", "several"),
    [
        ("amqp:link:message-size-exceeded", Rejected, DeliveryError),
        ("amqp:link:detach-forced", Unavailable, Unavailable),
        ("amqp:unauthorized-access", Unavailable, Unavailable),
    ],
)
def test_a_link_that_ends_tells_its_events_why_and_is_attached_again(
    slow: type[Slow], condition: str, alone: type, several: type
) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_a_broker_that_does_not_read_does_not_stop_the_loop(node: Any, proxy: Any, queue: str) -> None:
    way = proxy(node.port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node, way.port), settle_timeout=0.3) as ctx:
            assert await publish(hub, ctx, event(queue)) == [None]
            way.freeze()
            events = [event(queue, bytes(100_000)) for _ in range(200)]
            outcomes = await publish(hub, ctx, *events)
            assert {type(outcome) for outcome in outcomes} == {Unavailable}
            way.thaw()
            left = events
            while left:
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]

    asyncio.run(main())
    assert node.queue_depth(queue) == 201


def test_nothing_is_lost_when_the_broker_is_killed(broken_rabbitmq: Any, unique: str) -> None:
    async def main() -> int:
        hub = new_hub()
        count = 0
        left: list[Any] = []
        async with opened(hub, url=url(broken_rabbitmq), window=200) as ctx:
            await publish(hub, ctx, event(unique, b"first"))
            killing = asyncio.ensure_future(kill(broken_rabbitmq))
            while left or not killing.done():
                if not left:
                    left = numbered(unique, 200, start=count)
                    count += 200
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
                if left:
                    await killing
                    if not broken_rabbitmq.alive:
                        await asyncio.to_thread(broken_rabbitmq.start)
                    await ready(hub, ctx)
        return count

    count = asyncio.run(main())
    if not broken_rabbitmq.alive:
        broken_rabbitmq.start()
    bodies = {message["payload"] for message in broken_rabbitmq.take(unique, 1_000_000)}
    assert bodies == {"first", *map(str, range(count))}


def test_cancelled_anywhere_an_event_is_sent_exactly_once_over_one_connection(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), window=50) as ctx:
            for turn in range(100):
                events = [event(queue, b"%d.%d" % (turn, number)) for number in range(10)]
                trying = asyncio.ensure_future(ctx.state.publish(events))
                for _ in range(turn % 25):
                    await asyncio.sleep(0)
                trying.cancel()
                await asyncio.wait({trying})
                outcomes = [] if trying.cancelled() else trying.result()
                if outcomes != [None] * 10:
                    assert await publish(hub, ctx, *events) == [None] * 10
            assert ctx.state._flying == 0

    asyncio.run(main())
    assert node.queue_depth(queue) == 1000


def test_events_behind_a_memory_alarm_are_delivered_once_when_it_ends(
    broken_rabbitmq: Any, unique: str
) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), settle_timeout=0.3) as ctx:
            assert await publish(hub, ctx, event(unique)) == [None]
            await asyncio.to_thread(node.memory_alarm, True)
            left = numbered(unique, 300)
            for _ in range(3):
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            await asyncio.to_thread(node.memory_alarm, False)
            while left:
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]

    asyncio.run(main())
    assert node.queue_depth(unique) == 301


def test_revoked_permissions_are_waited_for(rabbitmq: Any, unique: str) -> None:
    rabbitmq.add_user(unique, "pa55word")
    rabbitmq.set_permissions(unique, configure="^$", write="^$", read="^$")

    async def main() -> None:
        hub = new_hub()
        address = f"amqp://{unique}:pa55word@127.0.0.1:{rabbitmq.port}"
        async with opened(hub, url=address) as ctx:
            (outcome,) = await publish(hub, ctx, event(unique))
            assert isinstance(outcome, Unavailable)
            assert "amqp:unauthorized-access" in str(outcome)
            rabbitmq.set_permissions(unique)
            assert await publish(hub, ctx, event(unique)) == [None]

    asyncio.run(main())
    rabbitmq.delete_user(unique)


def test_an_operator_who_closes_the_connection_rejects_nothing(broken_rabbitmq: Any, unique: str) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            assert await publish(hub, ctx, event(unique)) == [None]
            await asyncio.to_thread(node.memory_alarm, True)
            waiting = asyncio.ensure_future(publish(hub, ctx, *numbered(unique, 2)))
            await asyncio.to_thread(node.close_connections)
            outcomes = await waiting
            assert {type(outcome) for outcome in outcomes} <= {Unavailable, type(None)}
            await asyncio.to_thread(node.memory_alarm, False)
            await ready(hub, ctx)
            assert await publish(hub, ctx, event(unique)) == [None]

    asyncio.run(main())
