"""Consuming by AMQP 1.0 from real brokers: acks, rejects, copies, and what a lost connection brings again."""

from __future__ import annotations

import asyncio
from typing import Any

import proton
import pytest

from evbus.errors import ConnectFailed, ProfileError
from evbus.types import Subscription
from tests.connection.amqp1_kit import (
    WAIT,
    Peer,
    consuming,
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
from tests.egress.kit import watched
from tests.ingress.amqp_kit import eventually


@pytest.fixture(scope="session", params=["rabbitmq", "rabbitmq4"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def queue(node: Any, unique: str) -> str:
    """Return the name of a queue that is there: RabbitMQ 4 makes none for who consumes."""
    node.declare_queue(unique)
    return unique


def test_the_plugin_declares_its_provider_and_profile() -> None:
    hub = new_hub()
    assert hub.egress.amqp1.ACCT == ["amqp1"]
    assert hub.egress.amqp1.PROFILE.__name__ == "Profile"


def test_an_event_comes_back_as_it_was_sent(node: Any, unique: str) -> None:
    key = f"{unique}.ü/€:%"
    node.declare_queue(key)
    headers = {
        "content-type": "application/json",
        "content-encoding": "zstd",
        "ce-id": "7",
        "ü:b": "c\r\nd\\e",
        "correlation-id": "9",
        "message-id": "m",
        "reply-to": "there",
    }

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), ttl=600, priority=4) as ctx:
            assert await publish(hub, ctx, event(key, bytes(range(256)), headers)) == [None]
        async with consuming(hub, Subscription(name=key), url=url(node)) as following:
            delivery = await following()
            envelope = delivery.envelope
            assert (envelope.profile, envelope.routing_key) == ("orders", key)
            assert envelope.body == bytes(range(256))
            assert envelope.headers == headers
            assert delivery.redelivered is False
            delivery.ack()

    asyncio.run(main())
    assert node.queue_depth(key) == 0


def test_a_large_event_and_an_empty_one_come_back(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        bodies = [bytes(3_000_000), b"", b"x" * 100_000]
        async with opened(hub, url=url(node)) as ctx:
            assert await publish(hub, ctx, *(event(queue, body) for body in bodies)) == [None] * 3
        async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
            for body in bodies:
                assert (await following()).envelope.body == body

    asyncio.run(main())


def test_a_fixed_address_keeps_the_routing_keys(node: Any, queue: str) -> None:
    address = f"/queue{'s' if node.name == 'RabbitMQ 4' else ''}/{queue}"

    async def main() -> None:
        hub = new_hub()
        data = {"url": url(node), "address": address}
        async with opened(hub, **data) as ctx:
            await publish(hub, ctx, event("eu.created"), event(""))
        async with consuming(hub, Subscription(), **data) as following:
            assert [(await following()).envelope.routing_key for _ in range(2)] == ["eu.created", ""]

    asyncio.run(main())


def test_what_others_send_is_read(rabbitmq: Any, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.publish(unique, "by AMQP 0-9-1")

    async def main() -> None:
        async with consuming(new_hub(), Subscription(name=unique), url=url(rabbitmq)) as following:
            envelope = (await following()).envelope
            assert (envelope.body, envelope.routing_key) == (b"by AMQP 0-9-1", unique)

    asyncio.run(main())


def test_what_is_acked_is_gone_and_the_rest_comes_again(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, *numbered(queue, 4))
        async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
            found = [await following() for _ in range(4)]
            assert [delivery.envelope.body for delivery in found] == [b"0", b"1", b"2", b"3"]
            found[0].ack()
            found[2].ack()
            found[2].reject(requeue=True)
        async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
            again = [await following() for _ in range(2)]
            assert [delivery.envelope.body for delivery in again] == [b"1", b"3"]
            for delivery in again:
                assert delivery.redelivered
                delivery.ack()

    asyncio.run(main())
    assert node.queue_depth(queue) == 0


def test_a_consumer_that_ends_leaves_its_messages_to_the_others_of_its_connection(
    node: Any, queue: str
) -> None:
    async def main() -> None:
        hub = new_hub()
        wanted = Subscription(name=queue, prefetch=3)
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, *numbered(queue, 3))
            async with consuming(hub, wanted, url=url(node)) as first:
                assert (await first()).envelope.body == b"0"
            for _ in range(5):
                async with consuming(hub, wanted, url=url(node)) as following:
                    found = [await following() for _ in range(3)]
                    assert [delivery.envelope.body for delivery in found] == [b"0", b"1", b"2"]
            assert ctx.state.connection.connects == 1

    asyncio.run(main())


def test_no_more_than_prefetch_is_unsettled(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, *numbered(queue, 4))
        async with consuming(hub, Subscription(name=queue, prefetch=2), url=url(node)) as following:
            found = [await following() for _ in range(2)]
            waiting = asyncio.ensure_future(following())
            assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
            found[0].ack()
            assert (await waiting).envelope.body == b"2"

    asyncio.run(main())


def test_a_rejected_event_is_given_up_and_a_requeued_one_comes_again(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(queue, b"bad"), event(queue, b"later"))
        async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
            first, second = await following(), await following()
            first.reject()
            second.reject(requeue=True)
            again = await following()
            assert again.envelope.body == b"later"
            assert again.redelivered
            again.ack()

    asyncio.run(main())
    assert node.queue_depth(queue) == 0


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_is_requeued_disturbs_no_other(node: Any, unique: str, kind: str) -> None:
    node.declare_queue(unique, {"x-queue-type": kind})
    again = [b"5", b"12"]

    async def main() -> list[bytes]:
        hub = new_hub()
        seen: list[bytes] = []
        data = {"url": url(node), "address": existing(node)}
        async with opened(hub, **data) as ctx:
            assert await publish(hub, ctx, *numbered(unique, 20)) == [None] * 20
        async with consuming(hub, Subscription(name=unique, prefetch=5), **data) as following:
            while len(seen) < 22:
                delivery = await following()
                seen.append(delivery.envelope.body)
                if delivery.envelope.body in again and not delivery.redelivered:
                    delivery.reject(requeue=True)
                else:
                    delivery.ack()
        return seen

    seen = asyncio.run(main())
    assert sorted(seen, key=int) == sorted([*(b"%d" % number for number in range(20)), *again], key=int)
    assert node.queue_depth(unique) == 0


def test_what_nobody_began_with_goes_back_at_once_and_the_rest_can_be_settled(
    each_rabbitmq: Any, unique: str
) -> None:
    node = each_rabbitmq
    node.declare_queue(unique)
    address = "/amq/queue/{routing_key}" if node.version < (4,) else "/queues/{routing_key}"
    data = {"url": url(node), "address": address}
    wanted = Subscription(name=unique, prefetch=3)

    async def main() -> None:
        async with opened(new_hub(), **data) as ctx:
            assert await ctx.state.publish(numbered(unique, 5)) == [None] * 5
        async with consuming(new_hub(), wanted, **data) as one, consuming(new_hub(), wanted, **data) as other:
            begun, waiting = await one(), await one()
            assert begun.origin is not None
            begun.origin.pause()
            waiting.give_back()
            seen = set()
            while seen < {b"1", b"2", b"3", b"4"}:
                delivery = await other()
                seen.add(delivery.envelope.body)
                delivery.ack()
            assert seen == {b"1", b"2", b"3", b"4"}
            assert not begun.gone
            begun.ack()

    asyncio.run(main())
    assert node.queue_depth(unique) == 0


def test_what_is_acknowledged_after_a_pause_does_not_come_again(each_rabbitmq: Any, unique: str) -> None:
    node = each_rabbitmq
    node.declare_queue(unique)
    address = "/amq/queue/{routing_key}" if node.version < (4,) else "/queues/{routing_key}"
    data = {"url": url(node), "address": address}

    async def main() -> None:
        async with opened(new_hub(), **data) as ctx:
            assert await ctx.state.publish(numbered(unique, 2)) == [None] * 2
        # There is credit left for more.
        async with consuming(new_hub(), Subscription(name=unique, prefetch=10), **data) as following:
            taken = [await following(), await following()]
            assert taken[0].origin is not None
            taken[0].origin.pause()
            for delivery in taken:
                delivery.ack()

    asyncio.run(main())
    assert node.queue_depth(unique) == 0


def test_what_is_given_back_is_no_failed_delivery(rabbitmq43: Any, unique: str) -> None:
    rabbitmq43.declare_queue(unique, {"x-queue-type": "quorum"})

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq43)) as ctx:
            await publish(hub, ctx, event(unique))
        async with consuming(hub, Subscription(name=unique), url=url(rabbitmq43)) as following:
            for _ in range(3):
                delivery = await following()
                assert delivery.delivery_count == 0
                delivery.give_back()
            delivery = await following()
            delivery.reject(requeue=True)
            assert (await following()).delivery_count == 1

    asyncio.run(main())


def test_how_often_an_event_was_delivered_is_told_by_rabbitmq_4(rabbitmq4: Any, unique: str) -> None:
    rabbitmq4.declare_queue(unique, {"x-queue-type": "quorum"})

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq4)) as ctx:
            assert await publish(hub, ctx, event(unique)) == [None]
        async with consuming(hub, Subscription(name=unique), url=url(rabbitmq4)) as following:
            for count in range(3):
                delivery = await following()
                assert (delivery.delivery_count, delivery.redelivered) == (count, count > 0)
                delivery.reject(requeue=True)
            (await following()).ack()

    asyncio.run(main())


def test_rabbitmq_3_does_not_tell_how_often(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq)) as ctx:
            await publish(hub, ctx, event(unique))
        async with consuming(hub, Subscription(name=unique), url=url(rabbitmq)) as following:
            assert (await following()).delivery_count is None

    asyncio.run(main())


def test_groups_consume_the_queues_that_are_bound_for_them(node: Any, unique: str) -> None:
    for group in ("one", "two"):
        node.declare_queue(f"{unique}::{group}")
        node.bind("amq.topic", f"{unique}::{group}", unique)
    address = f"/exchange{'s' if node.name == 'RabbitMQ 4' else ''}/amq.topic/{{routing_key}}"

    async def main() -> None:
        hub = new_hub()
        data = {"url": url(node), "address": address}
        async with opened(hub, **data) as ctx:
            assert await publish(hub, ctx, *numbered(unique, 2)) == [None, None]
        for group in ("one", "two"):
            async with consuming(hub, Subscription(name=unique, group=group), **data) as following:
                found = [await following() for _ in range(2)]
                assert [delivery.envelope.body for delivery in found] == [b"0", b"1"]
                assert {delivery.envelope.routing_key for delivery in found} == {unique}

    asyncio.run(main())


def test_processes_have_copies_of_their_own_on_rabbitmq_3(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        data = {"url": url(rabbitmq), "address": "/exchange/amq.topic/{routing_key}"}
        there = asyncio.Semaphore(0)
        wanted = Subscription(name=unique, per_process=True, on_ready=there.release)
        async with (
            consuming(hub, wanted, **data) as one,
            consuming(hub, wanted, **data) as two,
            opened(hub, **data) as ctx,
        ):
            both = [asyncio.ensure_future(following()) for following in (one, two)]
            for _ in both:
                await asyncio.wait_for(there.acquire(), WAIT)
            await publish(hub, ctx, event(unique, b"1"))
            assert [(await waiting).envelope.body for waiting in both] == [b"1", b"1"]

    asyncio.run(main())


def test_a_refused_link_is_told(node: Any, unique: str) -> None:
    async def main() -> None:
        wanted = Subscription(name=unique, group="g")
        room = "exchanges" if node.name == "RabbitMQ 4" else "exchange"
        address = f"/{room}/amq.topic/{{routing_key}}"
        async with consuming(new_hub(), wanted, url=url(node), address=address) as following:
            with pytest.raises(ConnectFailed, match="amqp1 profile 'orders': cannot consume /") as caught:
                await following()
            assert "no queue" in str(caught.value)
            assert "declare and bind it, or take the provider amqp" in str(caught.value)
            assert "\n" not in str(caught.value)

    asyncio.run(main())


def test_what_the_broker_cannot_give_is_told(node: Any) -> None:
    async def main() -> None:
        wanted = Subscription(name="a", per_process=True)
        async with consuming(new_hub(), wanted, url=url(node)) as following:
            with pytest.raises(ProfileError, match="amqp1 profile 'orders': a copy for every process"):
                await following()

    asyncio.run(main())


def test_a_lost_connection_brings_the_unsettled_again_and_old_deliveries_settle_nothing(
    node: Any, proxy: Any, queue: str
) -> None:
    way = proxy(node.port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(queue, b"1"), event(queue, b"2"))
            async with consuming(hub, Subscription(name=queue), url=url(node, way.port)) as following:
                old = [await following(), await following()]
                way.cut()
                again = [await following(), await following()]
                assert [delivery.envelope.body for delivery in again] == [b"1", b"2"]
                assert all(delivery.redelivered for delivery in again)
                for delivery in old:
                    delivery.ack()
                again[0].ack()
                await publish(hub, ctx, event(queue, b"3"))
                assert (await following()).envelope.body == b"3"

    asyncio.run(main())
    # The second and third were never acknowledged over the connection that they came by last.
    assert node.queue_depth(queue) == 2


def test_lanes_are_told_that_a_consumer_is_away_and_back(node: Any, proxy: Any, queue: str) -> None:
    way = proxy(node.port)

    async def main() -> None:
        hub = new_hub()
        there = asyncio.Event()
        wanted = Subscription(name=queue, on_ready=there.set)
        async with consuming(hub, wanted, url=url(node, way.port)) as following:
            waiting = asyncio.ensure_future(following())
            await asyncio.wait_for(there.wait(), WAIT)
            (entry,) = hub.connection.SHARED._entries.values()
            consumers = entry.connection.consumers
            assert not consumers
            way.refuse()
            way.cut()
            await eventually(lambda: bool(consumers), "it is away")
            way.accept()
            await eventually(lambda: not consumers, "it is back")
            waiting.cancel()
            await asyncio.wait({waiting})
        assert not consumers

    asyncio.run(main())


def test_deliveries_are_told_that_their_connection_or_their_link_is_gone(
    node: Any, proxy: Any, queue: str
) -> None:
    way = proxy(node.port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(queue, b"1"), event(queue, b"2"))
        async with consuming(hub, Subscription(name=queue), url=url(node, way.port)) as following:
            old = [await following(), await following()]
            ended = watched(old[0])
            assert old[0].origin is old[1].origin
            assert not old[1].gone
            way.cut()
            # Nobody asks for the next delivery meanwhile.
            assert await asyncio.wait_for(ended, WAIT)
            assert all(delivery.gone for delivery in old)
            last = await following()
            assert not last.gone
        assert last.gone
        last.ack()

    asyncio.run(main())
    assert node.queue_depth(queue) == 2


def test_deliveries_are_told_that_the_broker_has_ended_their_link(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(queue, b"1"))
        async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
            ended = watched(await following())
            await asyncio.to_thread(node.delete_queue, queue)
            # RabbitMQ 3 resets the connection, RabbitMQ 4 detaches the link.
            assert await asyncio.wait_for(ended, WAIT)

    asyncio.run(main())


def test_a_consumer_waits_out_the_death_of_its_broker(broken_rabbitmq: Any, unique: str) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(node)) as ctx,
            consuming(hub, Subscription(name=unique), url=url(node)) as following,
        ):
            await publish(hub, ctx, event(unique, b"1"), event(unique, b"2"))
            (await following()).ack()
            await asyncio.to_thread(node.sync)
            await asyncio.to_thread(node.restart)
            await ready(hub, ctx)
            seen = {(await following()).envelope.body}
            # The acknowledgement may have died with the broker.
            if seen == {b"1"}:
                seen = {(await following()).envelope.body}
            assert seen == {b"2"}

    asyncio.run(main())


def test_a_frozen_broker_is_waited_out(broken_rabbitmq: Any, unique: str) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        data = {"url": url(node), "heartbeat": 1, "connect_timeout": 1}
        async with (
            opened(hub, **data) as ctx,
            consuming(hub, Subscription(name=unique), **data) as following,
        ):
            await publish(hub, ctx, event(unique, b"1"))
            (await following()).ack()
            await asyncio.to_thread(node.freeze)
            lost = ctx.state.connection.session.lost
            assert "two heartbeats" in await asyncio.wait_for(asyncio.shield(lost), WAIT)
            await asyncio.to_thread(node.thaw)
            await ready(hub, ctx)
            left = numbered(unique, 3)
            while left:
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            seen: set[bytes] = set()
            while not seen >= {b"0", b"2"}:
                seen.add((await following()).envelope.body)

    asyncio.run(main())


def test_a_deleted_queue_is_waited_for(node: Any, queue: str, caplog: pytest.LogCaptureFixture) -> None:

    async def main() -> None:
        hub = new_hub()
        wanted = Subscription(name=queue)
        async with consuming(hub, wanted, url=url(node), address=existing(node)) as following:
            node.publish(queue, "1")
            (await following()).ack()
            waiting = asyncio.ensure_future(following())
            await asyncio.sleep(0)
            node.delete_queue(queue)
            await asyncio.to_thread(eventually_logged, caplog)
            node.declare_queue(queue)
            node.publish(queue, "2")
            assert (await waiting).envelope.body == b"2"

    asyncio.run(main())


def eventually_logged(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(eventually(lambda: "tries again for ever" in caplog.text, "the warning"))


class Giving(Peer):
    """A peer that sends what a test says to who attaches, as Artemis might."""

    made: list[Giving]
    messages: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.states: list[tuple[str, Any]] = []
        self.settled = asyncio.Semaphore(0)
        type(self).made.append(self)

    def on_link_flow(self, event: Any) -> None:
        link = event.link
        while link.is_sender and link.credit and self.messages:
            message = self.messages.pop(0)
            message.send(link) if isinstance(message, proton.Message) else self.raw(link, message)

    def raw(self, link: Any, data: bytes) -> None:
        link.delivery(link.delivery_tag())
        link.stream(data)
        link.advance()

    def outcome(self, delivery: Any) -> None:
        failed = delivery.remote.failed if delivery.remote_state == proton.Delivery.MODIFIED else None
        self.states.append((delivery.remote_state.name, failed))
        self.settled.release()


@pytest.fixture
def giving() -> type[Giving]:
    class Fresh(Giving):
        pass

    Fresh.made = []
    Fresh.messages = [proton.Message(body=b"%d" % number) for number in range(3)]
    return Fresh


def test_an_address_and_its_queue_are_named_as_artemis_does(giving: type[Giving]) -> None:
    async def main() -> None:
        wanted = Subscription(name="Placed", group="billing")
        async with peer(giving) as port, consuming(new_hub(), wanted, **peer_url(port)) as following:
            await following()
            (server,) = giving.made
            (link,) = server.links.values()
            assert link.remote_source.address == "Placed::billing"
            assert link.remote_source.durability == proton.Terminus.DELIVERIES
            assert link.remote_source.expiry_policy == proton.Terminus.EXPIRE_NEVER

    asyncio.run(main())


def test_a_copy_of_a_process_is_named_after_its_server_and_not_kept(giving: type[Giving]) -> None:
    async def main() -> None:
        wanted = Subscription(name="Placed", group="billing", per_process=True)
        data = {"server_name": "node-1"}
        async with peer(giving) as port, consuming(new_hub(), wanted, **peer_url(port), **data) as following:
            await following()
            (link,) = giving.made[0].links.values()
            assert link.remote_source.address == "Placed::billing-node-1"
            assert link.remote_source.durability == proton.Terminus.NONDURABLE

    asyncio.run(main())


def test_settling_tells_the_peer_what_became_of_each(giving: type[Giving]) -> None:
    async def main() -> None:
        async with (
            peer(giving) as port,
            consuming(new_hub(), Subscription(name="k"), **peer_url(port)) as following,
        ):
            found = [await following() for _ in range(3)]
            found[0].ack()
            found[1].reject()
            found[2].reject(requeue=True)
            (server,) = giving.made
            for _ in range(3):
                await asyncio.wait_for(server.settled.acquire(), WAIT)
            assert sorted(server.states) == [("ACCEPTED", None), ("MODIFIED", True), ("REJECTED", None)]

    asyncio.run(main())


def test_what_is_no_message_is_handed_on_as_it_is(
    giving: type[Giving], caplog: pytest.LogCaptureFixture
) -> None:
    giving.messages = [b"\xff\xff", b"\xff\xfe", proton.Message(body=b"good")]

    async def main() -> None:
        async with (
            peer(giving) as port,
            consuming(new_hub(), Subscription(name="k"), **peer_url(port)) as following,
        ):
            found = [await following() for _ in range(3)]
            assert [delivery.envelope.body for delivery in found] == [b"\xff\xff", b"\xff\xfe", b"good"]

    asyncio.run(main())
    assert caplog.text.count("a message is no AMQP 1.0") == 1


def test_deliveries_may_be_dropped_by_any_thread_at_any_time(node: Any, queue: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            for turn in range(20):
                assert await publish(hub, ctx, *numbered(queue, 20)) == [None] * 20
                async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
                    found = [await following() for _ in range(20)]
                    for delivery in found[turn:]:
                        delivery.ack()
                # They settle nothing any more, and the last that knows of their link is another thread.
                dropping = asyncio.get_running_loop().run_in_executor(None, found.clear)
                del delivery
                await asyncio.gather(dropping, publish(hub, ctx, *numbered(queue, 20)))
                node.purge_queue(queue)
            assert ctx.state.connection.connects == 1

    asyncio.run(main())
