"""Consuming by STOMP from real brokers: acks, rejects, copies, and what a lost connection brings again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from pamqp.commands import Basic

from evbus.errors import ConnectFailed, ProfileError
from evbus.types import Envelope, Subscription
from tests.connection.stomp_kit import (
    WAIT,
    broker,
    consuming,
    event,
    frame,
    frame_of,
    login,
    new_hub,
    opened,
    publish,
    url,
)
from tests.egress.kit import watched
from tests.ingress.amqp_kit import eventually, got, library


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def topic_of(node: Any) -> str:
    """Return the template of a topic whose groups have a copy each."""
    prefix = "" if hasattr(node, "management_port") else "VirtualTopic."
    return f"/topic/{prefix}{{routing_key}}"


def test_an_event_comes_back_as_it_was_sent(node: Any, unique: str) -> None:
    key = f"{unique}.ü:\\"
    headers = {"content-type": "application/json", "ce-id": "7", "a:b": "c\r\nd\\e", "correlation-id": "9"}

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), expiry=600, priority=4) as ctx:
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


def test_what_is_acked_is_gone_and_the_rest_comes_again(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, *(event(unique, b"%d" % number) for number in range(4)))
        async with consuming(hub, Subscription(name=unique), url=url(node)) as following:
            found = [await following() for _ in range(4)]
            assert [delivery.envelope.body for delivery in found] == [b"0", b"1", b"2", b"3"]
            found[0].ack()
            found[2].ack()
            found[2].reject(requeue=True)
        async with consuming(hub, Subscription(name=unique), url=url(node)) as following:
            again = [await following() for _ in range(2)]
            assert [delivery.envelope.body for delivery in again] == [b"1", b"3"]
            for delivery in again:
                assert delivery.redelivered
                delivery.ack()

    asyncio.run(main())
    assert node.queue_depth(unique) == 0


def test_no_more_than_prefetch_is_unsettled(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, *(event(unique, b"%d" % number) for number in range(4)))
        async with consuming(hub, Subscription(name=unique, prefetch=2), url=url(node)) as following:
            found = [await following() for _ in range(2)]
            waiting = asyncio.ensure_future(following())
            assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
            found[0].ack()
            assert (await waiting).envelope.body == b"2"

    asyncio.run(main())


def test_a_rejected_event_is_given_up_and_a_requeued_one_comes_again(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(unique, b"bad"), event(unique, b"later"))
        async with consuming(hub, Subscription(name=unique), url=url(node)) as following:
            first, second = await following(), await following()
            first.reject()
            second.reject(requeue=True)
            again = await following()
            assert again.envelope.body == b"later"
            assert again.redelivered
            again.ack()

    asyncio.run(main())
    assert node.queue_depth(unique) == 0


def test_every_group_has_its_copy_and_its_members_share_it(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        data = {"url": url(node), "destination": topic_of(node)}
        one, two = (Subscription(name=unique, group=group) for group in ("one", "two"))
        async with opened(hub, **data) as ctx:
            # Its first consumer makes the copy of a group, which stays when it goes.
            for wanted in (one, two):
                there = asyncio.Event()
                first = msgspec.structs.replace(wanted, on_ready=there.set)
                async with consuming(hub, first, **data) as following:
                    waiting = asyncio.ensure_future(following())
                    await asyncio.wait_for(there.wait(), WAIT)
                    waiting.cancel()
                    await asyncio.wait({waiting})
            await publish(hub, ctx, event(unique, b"1"), event(unique, b"2"))
            for wanted in (one, two):
                async with consuming(hub, wanted, **data) as following:
                    found = [await following() for _ in range(2)]
                    assert [delivery.envelope.body for delivery in found] == [b"1", b"2"]
                    assert {delivery.envelope.routing_key for delivery in found} == {unique}
                    for delivery in found:
                        delivery.ack()

    asyncio.run(main())


def test_processes_have_copies_of_their_own_which_end_with_them(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        data = {"url": url(node), "destination": "/topic/{routing_key}"}
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


@pytest.mark.parametrize("destination", ["/exchange/nope/{routing_key}", "/nonsense/{routing_key}"])
def test_a_refused_subscription_is_told(rabbitmq: Any, unique: str, destination: str) -> None:
    async def main() -> None:
        async with consuming(
            new_hub(), Subscription(name=unique, group="g"), url=url(rabbitmq), destination=destination
        ) as following:
            with pytest.raises(ConnectFailed, match="stomp profile 'orders': cannot consume /") as caught:
                await following()
            assert "\n" not in str(caught.value)

    asyncio.run(main())


def test_what_the_destination_cannot_give_is_told(rabbitmq: Any) -> None:
    async def main() -> None:
        wanted = Subscription(name="a", per_process=True)
        async with consuming(new_hub(), wanted, url=url(rabbitmq)) as following:
            with pytest.raises(ProfileError, match="stomp profile 'orders'.*needs a topic"):
                await following()

    asyncio.run(main())


def test_a_lost_connection_brings_the_unsettled_again_and_old_deliveries_settle_nothing(
    node: Any, proxy: Any, unique: str
) -> None:
    way = proxy(node.stomp_port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(unique, b"1"), event(unique, b"2"))
            async with consuming(hub, Subscription(name=unique), url=url(node, way.port)) as following:
                old = [await following(), await following()]
                way.cut()
                again = [await following(), await following()]
                assert [delivery.envelope.body for delivery in again] == [b"1", b"2"]
                assert all(delivery.redelivered for delivery in again)
                for delivery in old:
                    delivery.ack()
                again[0].ack()
                await publish(hub, ctx, event(unique, b"3"))
                assert (await following()).envelope.body == b"3"

    asyncio.run(main())
    # The second and third were never acknowledged over the connection that they came by last.
    assert node.queue_depth(unique) == 2


def test_the_id_that_others_gave_a_message_is_its_own(each_rabbitmq: Any, unique: str) -> None:
    mine = {"message-id": "m1", "timestamp": "17", "type": "t", "tenant": "shop"}

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(each_rabbitmq)) as ctx, library(each_rabbitmq) as channel:
            await publish(hub, ctx, event(unique, b"1", {"message-id": "m0"}))
            sent = await got(channel, unique)
            assert sent.header.properties.message_id == "m0"
            properties = Basic.Properties(
                message_id="m1",
                timestamp=datetime.fromtimestamp(17, UTC),
                message_type="t",
                headers={"tenant": "shop"},
            )
            await channel.basic_publish(b"2", routing_key=unique, properties=properties)
        async with consuming(hub, Subscription(name=unique), url=url(each_rabbitmq)) as following:
            delivery = await following()
            assert delivery.envelope.headers == mine
            delivery.ack()

    asyncio.run(main())


def numbered(key: str, numbers: Iterable[int]) -> list[Envelope]:
    return [event(key, b"%d" % number) for number in numbers]


def queues(node: Any, name: str) -> dict[str, dict[str, Any]]:
    """Return what a RabbitMQ says of the queues whose names hold another."""
    return {found["name"]: found for found in node.api("GET", "queues/%2F") if name in found["name"]}


@pytest.mark.parametrize("room", ["/topic", "/exchange/amq.topic"])
@pytest.mark.parametrize("wanted", [{"group": "g", "durable": False}, {"per_process": True}])
def test_what_comes_while_its_connection_is_lost_reaches_a_listener_that_is_not_durable(
    each_rabbitmq: Any, proxy: Any, unique: str, wanted: dict[str, Any], room: str
) -> None:
    way = proxy(each_rabbitmq.stomp_port)
    data = {"destination": room + "/{routing_key}", "reconnect": {"min": 0.01, "max": 0.05}}

    async def main() -> None:
        there = asyncio.Event()
        subscription = Subscription(name=unique, prefetch=2, on_ready=there.set, **wanted)
        async with (
            opened(new_hub(), url=url(each_rabbitmq), **data) as ctx,
            consuming(new_hub(), subscription, url=url(each_rabbitmq, way.port), **data) as following,
        ):
            waiting = asyncio.ensure_future(following())
            await asyncio.wait_for(there.wait(), WAIT)
            assert await ctx.state.publish(numbered(unique, range(5))) == [None] * 5
            (await waiting).ack()
            way.refuse()
            way.cut()
            assert await ctx.state.publish(numbered(unique, range(5, 10))) == [None] * 5
            way.accept()
            seen: set[bytes] = set()
            while not seen >= {b"%d" % number for number in range(1, 10)}:
                delivery = await following()
                seen.add(delivery.envelope.body)
                delivery.ack()
            (found,) = queues(each_rabbitmq, unique).values()
            assert (found["durable"], found["exclusive"], found["auto_delete"]) == (True, False, False)
            assert found["arguments"]["x-expires"] == 300_000

    asyncio.run(main())
    if "per_process" in wanted and room == "/topic":
        # Of an exchange's, only their expiry is the end.
        assert not queues(each_rabbitmq, unique)


def test_a_durable_group_at_an_exchange_is_kept_and_shared(each_rabbitmq: Any, unique: str) -> None:
    wanted = Subscription(name=unique, group="g", prefetch=1)
    data = {"url": url(each_rabbitmq), "destination": "/exchange/amq.topic/{routing_key}"}

    async def main() -> None:
        async with opened(new_hub(), **data) as ctx:
            for _ in range(2):
                there = asyncio.Event()
                again = msgspec.structs.replace(wanted, on_ready=there.set)
                async with (
                    consuming(new_hub(), again, **data) as one,
                    consuming(new_hub(), wanted, **data) as two,
                ):
                    waiting = [asyncio.ensure_future(one())]
                    await asyncio.wait_for(there.wait(), WAIT)
                    await ctx.state.publish(numbered(unique, range(2)))
                    waiting.append(asyncio.ensure_future(two()))
                    for delivery in await asyncio.gather(*waiting):
                        delivery.ack()

    asyncio.run(main())
    assert queues(each_rabbitmq, unique)[f"{unique}::g"]["durable"]


def test_a_queue_that_is_there_with_other_settings_is_used_as_it_is_with_a_warning(
    each_rabbitmq: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    each_rabbitmq.declare_queue(f"{unique}::g", {"x-max-length": 1000})
    each_rabbitmq.bind("amq.topic", f"{unique}::g", unique)
    data = {"url": url(each_rabbitmq), "destination": "/topic/{routing_key}"}

    async def main() -> None:
        async with (
            opened(new_hub(), **data) as ctx,
            consuming(new_hub(), Subscription(name=unique, group="g", durable=False), **data) as following,
        ):
            await ctx.state.publish(numbered(unique, range(1)))
            delivery = await following()
            assert (delivery.envelope.routing_key, delivery.envelope.body) == (unique, b"0")
            delivery.ack()

    asyncio.run(main())
    assert f"the queue '{unique}::g' is there with other settings and is used as it is" in caplog.text


def test_what_a_subscription_cannot_promise_is_said_at_its_start(
    activemq: Any, rabbitmq4: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(node: Any, wanted: Subscription, **data: Any) -> None:
        there = asyncio.Event()
        wanted = msgspec.structs.replace(wanted, on_ready=there.set)
        async with consuming(new_hub(), wanted, url=url(node), **data) as following:
            waiting = asyncio.ensure_future(following())
            await asyncio.wait_for(there.wait(), WAIT)
            waiting.cancel()
            await asyncio.wait({waiting})

    topic = {"destination": "/topic/{routing_key}"}
    asyncio.run(main(activemq, Subscription(name=unique, per_process=True), **topic))
    assert "while the connection of this consumer is lost does not reach it" in caplog.text
    quorum = {"declare": {"x-queue-type": "quorum"}}
    asyncio.run(main(rabbitmq4, Subscription(name=unique), **quorum))
    assert f"/queue/{unique} is a quorum queue without dead letters" in caplog.text


def test_what_nobody_began_with_is_not_handed_out_after_a_pause_and_comes_again(
    node: Any, unique: str
) -> None:
    async def main() -> None:
        async with opened(new_hub(), url=url(node)) as ctx:
            assert await ctx.state.publish(numbered(unique, range(5))) == [None] * 5
        async with consuming(new_hub(), Subscription(name=unique, prefetch=3), url=url(node)) as following:
            begun, waiting = await following(), await following()
            assert begun.origin is not None
            begun.origin.pause()
            waiting.give_back()
            begun.ack()
            more = asyncio.ensure_future(following())
            assert not (await asyncio.wait({more}, timeout=0.2))[0]
            more.cancel()
            await asyncio.wait({more})
        async with consuming(new_hub(), Subscription(name=unique), url=url(node)) as following:
            found = {(await following()).envelope.body for _ in range(4)}
            assert found == {b"1", b"2", b"3", b"4"}

    asyncio.run(main())


def test_a_queue_whose_first_message_ends_the_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer, server="RabbitMQ/4.0.5")
        _, headers, _ = await frame_of(reader)
        writer.write(frame("RECEIPT", receipt_id=headers["receipt"]))

    async def main() -> None:
        data = {"reconnect": {"min": 0.001, "max": 0.002}}
        async with broker(talk) as port:
            where = f"stomp://127.0.0.1:{port}/"
            async with consuming(new_hub(), Subscription(name="orders"), url=where, **data) as following:
                waiting = asyncio.ensure_future(following())
                await eventually(lambda: "again and again" in caplog.text, "the sentence")
                waiting.cancel()
                await asyncio.wait({waiting})

    asyncio.run(main())
    assert "before anything of /queue/orders is settled; its first message may be one" in caplog.text


def test_lanes_are_told_that_a_consumer_is_away_and_back(node: Any, proxy: Any, unique: str) -> None:
    way = proxy(node.stomp_port)

    async def main() -> None:
        hub = new_hub()
        there = asyncio.Event()
        wanted = Subscription(name=unique, on_ready=there.set)
        async with consuming(
            hub, wanted, url=url(node, way.port), reconnect={"min": 0.01, "max": 0.05}
        ) as following:
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


def test_deliveries_are_told_that_their_connection_or_their_subscription_is_gone(
    node: Any, proxy: Any, unique: str
) -> None:
    way = proxy(node.stomp_port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            await publish(hub, ctx, event(unique, b"1"), event(unique, b"2"))
        async with consuming(hub, Subscription(name=unique), url=url(node, way.port)) as following:
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
    assert node.queue_depth(unique) == 2


def test_a_consumer_waits_out_the_death_of_its_broker(broken_rabbitmq: Any, unique: str) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with (
            consuming(hub, Subscription(name=unique), url=url(node)) as following,
            opened(hub, url=url(node)) as ctx,
        ):
            await publish(hub, ctx, event(unique, b"1"), event(unique, b"2"))
            (await following()).ack()
            await asyncio.to_thread(node.sync)
            await asyncio.to_thread(node.restart)
            found = hub.ingress.stomp.ready(ctx)
            if found is not None:
                await asyncio.wait_for(found[1], WAIT)
            seen = {(await following()).envelope.body}
            # The acknowledgement may have died with the broker.
            if seen == {b"1"}:
                seen = {(await following()).envelope.body}
            assert seen == {b"2"}

    asyncio.run(main())
