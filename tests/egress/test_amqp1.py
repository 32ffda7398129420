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
    url,
)
from tests.ingress.amqp_kit import eventually
from tests.transports.kit import watched


@pytest.fixture(scope="session", params=["rabbitmq", "rabbitmq4"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def queue(node: Any, unique: str) -> str:
    """Return the name of a queue that is there: RabbitMQ 4 makes none for who consumes."""
    node.declare_queue(unique)
    return unique


async def test_a_fixed_address_keeps_the_routing_keys(hub: Any, node: Any, queue: str) -> None:
    address = f"/queue{'s' if node.name == 'RabbitMQ 4' else ''}/{queue}"

    data = {"url": url(node), "address": address}
    async with opened(hub, **data) as ctx:
        await publish(hub, ctx, event("eu.created"), event(""))
    async with consuming(hub, Subscription(), **data) as following:
        assert [(await following()).envelope.routing_key for _ in range(2)] == ["eu.created", ""]


async def test_what_others_send_is_read(rabbitmq: Any, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.publish(unique, "by AMQP 0-9-1")

    async with consuming(new_hub(), Subscription(name=unique), url=url(rabbitmq)) as following:
        envelope = (await following()).envelope
        assert (envelope.body, envelope.routing_key) == (b"by AMQP 0-9-1", unique)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_what_is_requeued_disturbs_no_other(hub: Any, node: Any, unique: str, kind: str) -> None:
    node.declare_queue(unique, {"x-queue-type": kind})
    again = [b"5", b"12"]

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
    assert sorted(seen, key=int) == sorted([*(b"%d" % number for number in range(20)), *again], key=int)
    assert node.queue_depth(unique) == 0


async def test_what_is_given_back_is_no_failed_delivery(hub: Any, rabbitmq43: Any, unique: str) -> None:
    rabbitmq43.declare_queue(unique, {"x-queue-type": "quorum"})

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


async def test_how_often_an_event_was_delivered_is_told_by_rabbitmq_4(
    hub: Any, rabbitmq4: Any, unique: str
) -> None:
    rabbitmq4.declare_queue(unique, {"x-queue-type": "quorum"})

    async with opened(hub, url=url(rabbitmq4)) as ctx:
        assert await publish(hub, ctx, event(unique)) == [None]
    async with consuming(hub, Subscription(name=unique), url=url(rabbitmq4)) as following:
        for count in range(3):
            delivery = await following()
            assert (delivery.delivery_count, delivery.redelivered) == (count, count > 0)
            delivery.reject(requeue=True)
        (await following()).ack()


async def test_rabbitmq_3_does_not_tell_how_often(hub: Any, rabbitmq: Any, unique: str) -> None:
    async with opened(hub, url=url(rabbitmq)) as ctx:
        await publish(hub, ctx, event(unique))
    async with consuming(hub, Subscription(name=unique), url=url(rabbitmq)) as following:
        assert (await following()).delivery_count is None


async def test_a_refused_link_is_told(node: Any, unique: str) -> None:
    wanted = Subscription(name=unique, group="g")
    room = "exchanges" if node.name == "RabbitMQ 4" else "exchange"
    address = f"/{room}/amq.topic/{{routing_key}}"
    async with consuming(new_hub(), wanted, url=url(node), address=address) as following:
        with pytest.raises(ConnectFailed, match="amqp1 profile 'orders': cannot consume /") as caught:
            await following()
        assert "no queue" in str(caught.value)
        assert "declare and bind it, or take the provider amqp" in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_what_the_broker_cannot_give_is_told(node: Any) -> None:
    wanted = Subscription(name="a", per_process=True)
    async with consuming(new_hub(), wanted, url=url(node)) as following:
        with pytest.raises(ProfileError, match="amqp1 profile 'orders': a copy for every process"):
            await following()


async def test_deliveries_are_told_that_the_broker_has_ended_their_link(
    hub: Any, node: Any, queue: str
) -> None:
    async with opened(hub, url=url(node)) as ctx:
        await publish(hub, ctx, event(queue, b"1"))
    async with consuming(hub, Subscription(name=queue), url=url(node)) as following:
        ended = watched(await following())
        await asyncio.to_thread(node.delete_queue, queue)
        # RabbitMQ 3 resets the connection, RabbitMQ 4 detaches the link.
        assert await asyncio.wait_for(ended, WAIT)


async def test_a_deleted_queue_is_waited_for(
    hub: Any, node: Any, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
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


async def test_an_address_and_its_queue_are_named_as_artemis_does(giving: type[Giving]) -> None:
    wanted = Subscription(name="Placed", group="billing")
    async with peer(giving) as port, consuming(new_hub(), wanted, **peer_url(port)) as following:
        await following()
        (server,) = giving.made
        (link,) = server.links.values()
        assert link.remote_source.address == "Placed::billing"
        assert link.remote_source.durability == proton.Terminus.DELIVERIES
        assert link.remote_source.expiry_policy == proton.Terminus.EXPIRE_NEVER


async def test_a_copy_of_a_process_is_named_after_its_server_and_not_kept(giving: type[Giving]) -> None:
    wanted = Subscription(name="Placed", group="billing", per_process=True)
    data = {"server_name": "node-1"}
    async with peer(giving) as port, consuming(new_hub(), wanted, **peer_url(port), **data) as following:
        await following()
        (link,) = giving.made[0].links.values()
        assert link.remote_source.address == "Placed::billing-node-1"
        assert link.remote_source.durability == proton.Terminus.NONDURABLE


async def test_settling_tells_the_peer_what_became_of_each(giving: type[Giving]) -> None:
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


async def test_what_is_no_message_is_handed_on_as_it_is(
    giving: type[Giving], caplog: pytest.LogCaptureFixture
) -> None:
    giving.messages = [b"\xff\xff", b"\xff\xfe", proton.Message(body=b"good")]

    async with (
        peer(giving) as port,
        consuming(new_hub(), Subscription(name="k"), **peer_url(port)) as following,
    ):
        found = [await following() for _ in range(3)]
        assert [delivery.envelope.body for delivery in found] == [b"\xff\xff", b"\xff\xfe", b"good"]
    assert caplog.text.count("a message is no AMQP 1.0") == 1


async def test_deliveries_may_be_dropped_by_any_thread_at_any_time(hub: Any, node: Any, queue: str) -> None:
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
