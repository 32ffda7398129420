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
from tests.ingress.amqp_kit import eventually, got, library


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("destination", ["/exchange/nope/{routing_key}", "/nonsense/{routing_key}"])
async def test_a_refused_subscription_is_told(rabbitmq: Any, unique: str, destination: str) -> None:
    async with consuming(
        new_hub(), Subscription(name=unique, group="g"), url=url(rabbitmq), destination=destination
    ) as following:
        with pytest.raises(ConnectFailed, match="stomp profile 'orders': cannot consume /") as caught:
            await following()
        assert "\n" not in str(caught.value)


async def test_what_the_destination_cannot_give_is_told(rabbitmq: Any) -> None:
    wanted = Subscription(name="a", per_process=True)
    async with consuming(new_hub(), wanted, url=url(rabbitmq)) as following:
        with pytest.raises(ProfileError, match="stomp profile 'orders'.*needs a topic"):
            await following()


async def test_the_id_that_others_gave_a_message_is_its_own(
    hub: Any, each_rabbitmq: Any, unique: str
) -> None:
    mine = {"message-id": "m1", "timestamp": "17", "type": "t", "tenant": "shop"}

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


def numbered(key: str, numbers: Iterable[int]) -> list[Envelope]:
    return [event(key, b"%d" % number) for number in numbers]


def queues(node: Any, name: str) -> dict[str, dict[str, Any]]:
    """Return what a RabbitMQ says of the queues whose names hold another."""
    return {found["name"]: found for found in node.api("GET", "queues/%2F") if name in found["name"]}


@pytest.mark.parametrize("room", ["/topic", "/exchange/amq.topic"])
@pytest.mark.parametrize("wanted", [{"group": "g", "durable": False}, {"per_process": True}])
async def test_what_comes_while_its_connection_is_lost_reaches_a_listener_that_is_not_durable(
    each_rabbitmq: Any, proxy: Any, unique: str, wanted: dict[str, Any], room: str
) -> None:
    way = proxy(each_rabbitmq.stomp_port)
    data = {"destination": room + "/{routing_key}", "reconnect": {"min": 0.01, "max": 0.05}}

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
    if "per_process" in wanted and room == "/topic":
        # Of an exchange's, only their expiry is the end.
        assert not queues(each_rabbitmq, unique)


async def test_a_durable_group_at_an_exchange_is_kept_and_shared(each_rabbitmq: Any, unique: str) -> None:
    wanted = Subscription(name=unique, group="g", prefetch=1)
    data = {"url": url(each_rabbitmq), "destination": "/exchange/amq.topic/{routing_key}"}

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
    assert queues(each_rabbitmq, unique)[f"{unique}::g"]["durable"]


async def test_a_queue_that_is_there_with_other_settings_is_used_as_it_is_with_a_warning(
    each_rabbitmq: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    each_rabbitmq.declare_queue(f"{unique}::g", {"x-max-length": 1000})
    each_rabbitmq.bind("amq.topic", f"{unique}::g", unique)
    data = {"url": url(each_rabbitmq), "destination": "/topic/{routing_key}"}

    async with (
        opened(new_hub(), **data) as ctx,
        consuming(new_hub(), Subscription(name=unique, group="g", durable=False), **data) as following,
    ):
        await ctx.state.publish(numbered(unique, range(1)))
        delivery = await following()
        assert (delivery.envelope.routing_key, delivery.envelope.body) == (unique, b"0")
        delivery.ack()
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


async def test_what_nobody_began_with_is_not_handed_out_after_a_pause_and_comes_again(
    node: Any, unique: str
) -> None:
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


async def test_a_queue_whose_first_message_ends_the_connection_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer, server="RabbitMQ/4.0.5")
        _, headers, _ = await frame_of(reader)
        writer.write(frame("RECEIPT", receipt_id=headers["receipt"]))

    data = {"reconnect": {"min": 0.001, "max": 0.002}}
    async with broker(talk) as port:
        where = f"stomp://127.0.0.1:{port}/"
        async with consuming(new_hub(), Subscription(name="orders"), url=where, **data) as following:
            waiting = asyncio.ensure_future(following())
            await eventually(lambda: "again and again" in caplog.text, "the sentence")
            waiting.cancel()
            await asyncio.wait({waiting})
    assert "before anything of /queue/orders is settled; its first message may be one" in caplog.text
