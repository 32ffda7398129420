"""Consuming by AMQP from a real broker: settling, copies, and what comes again after a loss."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pamqp import commands

from evbus.engine.wire.amqp.connect import AmqpSession
from evbus.errors import ConnectFailed, DeliveryError, ProfileError
from evbus.types import Delivery, Subscription
from tests.ingress.amqp_kit import (
    WAIT,
    consuming,
    event,
    eventually,
    library,
    new_hub,
    numbered,
    opened,
    publish,
    url,
)
from tests.interop.foreign import Message, send_amqp1
from tests.transports.kit import nothing

Following = Callable[[], Awaitable[Delivery]]


async def fill(hub: Any, node: Any, queue: Any, count: int) -> None:
    """Put the numbers below `count` into a queue, declared as the profile says."""
    name = queue if isinstance(queue, str) else queue["name"]
    async with opened(hub, url=url(node), queue=queue) as ctx:
        assert await publish(hub, ctx, *numbered(name, count)) == [None] * count


async def bodies(following: Following, count: int) -> list[int]:
    """Take deliveries and acknowledge each."""
    found = []
    for _ in range(count):
        delivery = await following()
        delivery.ack()
        found.append(int(delivery.envelope.body))
    return found


def bound(node: Any, exchange: str) -> int:
    """Return how many queues an exchange leads to; those of a consumer are bound before it consumes."""
    return len(node.api("GET", f"exchanges/%2F/{exchange}/bindings/source", missing_ok=True) or ())


# Settling


async def test_an_event_may_have_ten_years_to_live(hub: Any, each_rabbitmq: Any, unique: str) -> None:
    data = {"url": url(each_rabbitmq), "queue": unique, "expiry": 315_360_000}
    async with opened(hub, **data) as ctx:
        assert await publish(hub, ctx, event(unique)) == [None]
    async with consuming(hub, url=url(each_rabbitmq), queue=unique) as following:
        delivery = await following()
        assert delivery.envelope.headers["expiration"] == "315360000000"
        delivery.ack()
    each_rabbitmq.delete_queue(unique)


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
async def test_a_quorum_queue_counts_deliveries_and_gives_up_at_its_limit(
    hub: Any, each_rabbitmq: Any, unique: str
) -> None:
    rabbitmq = each_rabbitmq
    queue = {
        "name": unique,
        "type": "quorum",
        "dead_letter_exchange": "",
        "dead_letter_routing_key": f"{unique}-dead",
        "arguments": {"x-delivery-limit": 2},
    }
    rabbitmq.declare_queue(f"{unique}-dead")

    await fill(hub, rabbitmq, queue, 1)
    async with consuming(hub, url=url(rabbitmq), queue=queue) as following:
        counts = []
        for _ in range(3):
            delivery = await following()
            counts.append((delivery.delivery_count or 0, delivery.redelivered))
            delivery.reject(requeue=True)
        assert counts == [(0, False), (1, True), (2, True)]
    async with consuming(hub, url=url(rabbitmq), queue=f"{unique}-dead") as following:
        delivery = await following()
        assert "delivery_limit" in delivery.envelope.headers["x-death"]
        delivery.ack()
    rabbitmq.delete_queue(unique)
    rabbitmq.delete_queue(f"{unique}-dead")


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
async def test_what_is_given_back_counts_only_where_the_broker_cannot_tell_it_apart(
    hub: Any, each_rabbitmq: Any, unique: str
) -> None:
    queue = {"name": unique, "type": "quorum"}
    counts = each_rabbitmq.version < (4, 3)

    await fill(hub, each_rabbitmq, queue, 1)
    for closed in range(3):
        async with consuming(hub, url=url(each_rabbitmq), queue=queue) as following:
            found = await following()
            assert (found.delivery_count or 0) == (2 * closed if counts else 0)
            found.give_back()
            found = await following()
            assert (found.delivery_count or 0) == (2 * closed + 1 if counts else 0)
    each_rabbitmq.delete_queue(unique)


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
async def test_a_quorum_queue_loses_nothing_however_often_it_comes_back(
    hub: Any, each_rabbitmq: Any, proxy: Any, unique: str
) -> None:
    way = proxy(each_rabbitmq.port)
    queue = {"name": unique, "type": "quorum"}

    await fill(hub, each_rabbitmq, queue, 20)
    data = {"url": url(each_rabbitmq, way.port), "queue": queue}
    for _ in range(12):
        async with consuming(hub, **data) as following:
            await following()
    async with consuming(hub, **data) as following:
        for _ in range(12):
            await following()
            way.cut()
        seen: set[int] = set()
        while seen != set(range(20)):
            (delivery,) = [await following()]
            if not delivery.gone:
                delivery.ack()
                seen.add(int(delivery.envelope.body))
    each_rabbitmq.delete_queue(unique)


async def test_what_is_rejected_goes_to_the_dead_letter_exchange(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    queue = {"name": unique, "dead_letter_exchange": "", "dead_letter_routing_key": f"{unique}-dead"}
    rabbitmq.declare_queue(f"{unique}-dead")

    await fill(hub, rabbitmq, queue, 2)
    async with consuming(hub, url=url(rabbitmq), queue=queue) as following:
        (await following()).reject()
        (await following()).ack()
        async with consuming(hub, url=url(rabbitmq), queue=f"{unique}-dead") as dead:
            delivery = await dead()
            assert delivery.envelope.body == b"0"
            assert '"reason":"rejected"' in delivery.envelope.headers["x-death"]


async def test_every_type_of_header_becomes_text(hub: Any, rabbitmq: Any, unique: str) -> None:
    table: Any = {
        "text": "ü",
        "true": True,
        "int": -70000,
        "big": 2**40,
        "float": 0.5,
        "bytes": bytearray(b"ab"),
        "decimal": decimal.Decimal("1.5"),
        "when": dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
        "none": None,
        "list": [1, "a", {"b": None}],
        "table": {"a": {"b": 1}},
    }

    async with library(rabbitmq) as channel:
        await channel.queue_declare(unique, durable=True)
        properties = commands.Basic.Properties(headers=table)
        await channel.basic_publish(b"x", routing_key=unique, properties=properties)
    async with consuming(hub, url=url(rabbitmq), queue=unique) as following:
        delivery = await following()
        headers = delivery.envelope.headers
        delivery.ack()
    assert {type(value) for value in headers.values()} == {str}
    assert headers.keys() >= table.keys()
    assert (headers["text"], headers["true"], headers["int"]) == ("ü", "true", "-70000")
    assert (headers["big"], headers["float"], headers["bytes"]) == (str(2**40), "0.5", "ab")
    assert (headers["list"], headers["table"]) == ('[1,"a",{"b":null}]', '{"a":{"b":1}}')


# Who gets what


@pytest.mark.parametrize("per_process", [False, True])
async def test_what_waits_for_a_listener_outlives_the_loss_of_its_connection(
    hub: Any, each_rabbitmq: Any, proxy: Any, unique: str, caplog: pytest.LogCaptureFixture, per_process: bool
) -> None:
    way = proxy(each_rabbitmq.port)
    # Of another type and with arguments that a classic queue does not have, whichever the profile gives.
    queue = {"type": "quorum", "arguments": {"x-delivery-limit": 5, "x-quorum-initial-group-size": 1}}
    data = {"exchange": {"name": unique, "type": "topic", "auto_delete": True}, "queue": queue}
    wanted = Subscription(name="made", group=unique, durable=False, per_process=per_process, prefetch=2)

    def queues() -> list[Any]:
        listed = each_rabbitmq.api("GET", "queues")
        return [one for one in listed if one["name"].startswith(f"made::{unique}")]

    async with consuming(hub, wanted, url=url(each_rabbitmq, way.port), **data) as following:
        waiting = asyncio.ensure_future(following())
        await eventually(lambda: bound(each_rabbitmq, unique), "it listens")
        async with opened(hub, url=url(each_rabbitmq), exchange=unique) as ctx:
            assert await publish(hub, ctx, *numbered("made", 10)) == [None] * 10
            (await waiting).ack()
            seen = set(await bodies(following, 2))
            way.cut()
            assert await publish(hub, ctx, *numbered("made", 2, start=10)) == [None] * 2
            while seen | {0} != set(range(12)):
                seen.update(await bodies(following, 1))
        (made,) = queues()
        assert (made["type"], made["durable"], made["auto_delete"]) == ("classic", True, False)
        assert made["arguments"] == {"x-queue-type": "classic", "x-expires": 300_000}
    await eventually(lambda: per_process != bool(queues()), "a copy of a process goes with it")
    for one in queues():
        each_rabbitmq.delete_queue(one["name"])
    assert not [record for record in caplog.records if record.name == "evbus.connection.amqp"]


async def test_a_listeners_queue_goes_when_nobody_comes_back(each_rabbitmq: Any, unique: str) -> None:
    data = {
        "url": url(each_rabbitmq),
        "exchange": {"name": unique, "type": "topic", "auto_delete": True},
        "queue": {"arguments": {"x-expires": 200}},
    }
    wanted = Subscription(name=unique, durable=False)

    def there() -> Any:
        # Asked over AMQP, the queue would be in use.
        return each_rabbitmq.api("GET", f"queues/%2F/{unique}", missing_ok=True)

    async with consuming(new_hub(), wanted, **data) as following:
        waiting = asyncio.ensure_future(following())
        await eventually(there, "it listens")
        waiting.cancel()
        await asyncio.wait({waiting})
    await eventually(lambda: not there(), "it is gone")


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
async def test_a_listeners_queue_of_before_is_used_as_it_is_and_declared_anew_once_it_is_gone(
    hub: Any, each_rabbitmq: Any, proxy: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    way = proxy(each_rabbitmq.port)
    each_rabbitmq.declare_queue(unique, durable=False, auto_delete=True)
    data = {"url": url(each_rabbitmq, way.port), "exchange": "amq.topic"}

    def durable() -> Any:
        found = each_rabbitmq.api("GET", f"queues/%2F/{unique}", missing_ok=True)
        return found and found["durable"]

    async with (
        consuming(hub, Subscription(name=unique, durable=False), **data) as following,
        opened(hub, url=url(each_rabbitmq), exchange="amq.topic") as ctx,
    ):
        waiting = asyncio.ensure_future(following())
        await eventually(lambda: each_rabbitmq.depth(unique).consumers, "it listens")
        assert not durable()
        way.cut()
        await eventually(durable, "it is declared anew")
        await eventually(lambda: each_rabbitmq.depth(unique).consumers, "it listens again")
        await publish(hub, ctx, event(unique, b"1"))
        (await waiting).ack()
    (record,) = (one for one in caplog.records if one.name == "evbus.connection.amqp")
    assert record.message.endswith(
        "older versions of evbus declared it so: stop all of its consumers once, and it is declared anew"
    )
    each_rabbitmq.delete_queue(unique)


async def test_consumers_of_a_higher_priority_are_served_first(hub: Any, rabbitmq: Any, unique: str) -> None:
    data = {"url": url(rabbitmq), "queue": unique}

    async with consuming(hub, **data) as low, consuming(hub, consumer_priority=5, **data) as high:
        waiting = [asyncio.ensure_future(low()), asyncio.ensure_future(high())]
        await eventually(
            lambda: rabbitmq.has_queue(unique) and rabbitmq.depth(unique).consumers == 2, "both consume"
        )
        async with opened(hub, **data) as ctx:
            await publish(hub, ctx, *numbered(unique, 20))
        (await waiting[1]).ack()
        assert await bodies(high, 19) == list(range(1, 20))
        assert not waiting[0].done()
        waiting[0].cancel()
        await asyncio.wait({waiting[0]})


# What goes wrong


async def test_a_consumer_whose_queue_is_deleted_declares_it_again(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    await fill(hub, rabbitmq, unique, 2)
    async with consuming(hub, url=url(rabbitmq), queue=unique) as following:
        held, _ = await following(), await following()
        await asyncio.to_thread(rabbitmq.delete_queue, unique)
        waiting = asyncio.ensure_future(following())
        await eventually(lambda: rabbitmq.has_queue(unique), "the queue is there again")
        held.ack()
        async with opened(hub, url=url(rabbitmq)) as ctx:
            await publish(hub, ctx, event(unique, b"fresh"))
        delivery = await waiting
        assert delivery.envelope.body == b"fresh"
        delivery.ack()
    assert rabbitmq.queue_depth(unique) == 0


@pytest.mark.parametrize("how", ["cut", "half_open", "close"])
async def test_a_consumer_is_restored_and_old_deliveries_settle_nothing(
    hub: Any, broken_rabbitmq: Any, proxy: Any, unique: str, how: str
) -> None:
    way = proxy(broken_rabbitmq.port)

    await fill(hub, broken_rabbitmq, unique, 5)
    data = {"url": url(broken_rabbitmq, way.port), "queue": unique, "heartbeat": 1}
    async with consuming(hub, **data) as following:
        found = [await following() for _ in range(3)]
        found[0].ack()
        if how == "close":
            await asyncio.to_thread(broken_rabbitmq.close_connections)
        else:
            getattr(way, how)()
        found[1].ack()
        again: set[int] = set()
        while again - {0} != {1, 2, 3, 4}:
            delivery = await following()
            delivery.ack()
            if delivery.redelivered:
                again.add(int(delivery.envelope.body))
        found[2].ack()
    assert broken_rabbitmq.queue_depth(unique) == 0


@pytest.mark.parametrize("named", [False, True])
async def test_a_stream_goes_on_behind_what_was_settled(
    hub: Any, rabbitmq: Any, proxy: Any, unique: str, named: bool
) -> None:
    way = proxy(rabbitmq.port)
    stream = {"name": unique, "type": "stream"}

    await fill(hub, rabbitmq, stream, 1)
    data = {"url": url(rabbitmq, way.port), "queue": unique if named else stream}
    async with consuming(hub, **data) as following, opened(hub, url=url(rabbitmq)) as ctx:
        waiting = asyncio.ensure_future(following())
        count = 1
        while not waiting.done():  # nothing tells that a stream is being consumed
            await publish(hub, ctx, event(unique, b"%d" % count))
            count += 1
        first = await waiting
        number = int(first.envelope.body)
        assert number > 0  # "next" was behind what there was
        await publish(hub, ctx, *numbered(unique, 5, start=count))
        found = [first, *[await following() for _ in range(number + 1, count + 5)]]
        assert [int(each.envelope.body) for each in found] == list(range(number, count + 5))
        for each in (*found[:2], *found[3:]):
            each.ack()
        await asyncio.sleep(0)
        way.cut()
        await publish(hub, ctx, *numbered(unique, 2, start=count + 5))
        assert await bodies(following, 1) == [number + 2]
        while (await bodies(following, 1)) != [count + 6]:
            pass
    rabbitmq.delete_queue(unique)


@pytest.mark.parametrize(("offset", "wanted"), [("first", [0, 1, 2]), (1, [1, 2]), (0, [0, 1, 2])])
async def test_a_stream_is_read_from_where_the_profile_says_however_often_it_is_cut(
    hub: Any, rabbitmq: Any, proxy: Any, unique: str, offset: Any, wanted: list[int]
) -> None:
    way = proxy(rabbitmq.port)
    stream = {"name": unique, "type": "stream"}

    await fill(hub, rabbitmq, stream, 3)
    data = {"url": url(rabbitmq, way.port), "queue": stream, "offset": offset}
    async with consuming(hub, **data) as following:
        for cut in range(3):
            found = [await following() for _ in wanted]
            assert [int(delivery.envelope.body) for delivery in found] == wanted
            if cut < 2:
                way.cut()
        for delivery in found:
            delivery.ack()
        way.cut()
        await nothing(following)
    rabbitmq.delete_queue(unique)


@pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)
@pytest.mark.parametrize("named", [False, True])
async def test_a_streams_message_that_is_put_back_comes_again(
    hub: Any, each_rabbitmq: Any, proxy: Any, unique: str, named: bool
) -> None:
    way = proxy(each_rabbitmq.port)
    stream = {"name": unique, "type": "stream"}

    await fill(hub, each_rabbitmq, stream, 4)
    data = {"url": url(each_rabbitmq, way.port), "queue": unique if named else stream}
    async with consuming(hub, **data) as following, opened(hub, url=url(each_rabbitmq)) as ctx:
        waiting = asyncio.ensure_future(following())
        while not waiting.done():  # nothing tells that a stream is being consumed
            await publish(hub, ctx, event(unique, b"once"))
        await publish(hub, ctx, event(unique, b"again"))
        await waiting
        for count in (None, 1, 2):
            while (delivery := await following()).envelope.body != b"again":
                delivery.ack()
            assert (delivery.redelivered, delivery.delivery_count) == (count is not None, count)
            delivery.reject(requeue=True)
        # Nothing of this is the broker's concern: a reconnect goes on with the first that is not settled.
        await following()
        way.cut()
        assert (await following()).delivery_count is None
    each_rabbitmq.delete_queue(unique)


async def test_messages_with_somebodys_offset_in_a_common_queue_do_not_stop_the_consumer(
    hub: Any, rabbitmq: Any, proxy: Any, unique: str
) -> None:
    way = proxy(rabbitmq.port)

    async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
        await publish(hub, ctx, *(event(unique, b"1", {"x-stream-offset": "5"}) for _ in range(2)))
    async with consuming(hub, url=url(rabbitmq, way.port), queue=unique) as following:
        await following()
        (await following()).ack()
        way.cut()
        (await following()).ack()


@pytest.mark.parametrize(
    ("wanted", "data", "kind", "why"),
    [
        ({}, {}, ProfileError, "nothing says what to consume"),
        ({"name": "made", "group": "g"}, {}, ProfileError, "need an exchange"),
        ({"name": "made", "group": "g"}, {"exchange": "UNIQUE"}, ConnectFailed, "there is no exchange"),
        (
            {},
            {"queue": {"name": "UNIQUE2", "arguments": {"x-overflow": "x"}}},
            ConnectFailed,
            "is there with other settings, or cannot have these",
        ),
        ({}, {"queue": "secret"}, ConnectFailed, "the broker does not permit it for the queue 'secret'"),
        ({}, {"queue": "UNIQUE", "url": "amqp://127.0.0.1:1/"}, ConnectFailed, "nothing listens there"),
    ],
)
async def test_what_cannot_be_consumed_is_one_sentence(
    hub: Any,
    rabbitmq: Any,
    unique: str,
    wanted: dict[str, Any],
    data: dict[str, Any],
    kind: type[Exception],
    why: str,
) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.add_user(unique, "hunter22-hunter22")
    rabbitmq.set_permissions(unique, configure="test-.*|made.*", read="test-.*|made.*")
    account = url(rabbitmq, user=unique, password="hunter22-hunter22")

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        return value.replace("UNIQUE", unique) if isinstance(value, str) else value

    async with consuming(hub, Subscription(**wanted), **{"url": account, **filled(data)}) as following:
        with pytest.raises(kind) as caught:
            await following()
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter22" not in repr(caught.value)
    assert hub.connection.init.states() == {}
    rabbitmq.delete_user(unique)


async def test_a_queue_that_belongs_to_another_consumer_is_waited_for_when_the_profile_says_so(
    hub: Any, rabbitmq: Any, unique: str
) -> None:
    data = {"url": url(rabbitmq), "queue": unique, "exclusive": True}

    async with consuming(hub, **data) as first:
        waiting = asyncio.ensure_future(first())
        await eventually(
            lambda: rabbitmq.has_queue(unique) and rabbitmq.depth(unique).consumers, "it consumes"
        )
        async with consuming(hub, **data) as refused:
            with pytest.raises(ConnectFailed, match="exclusive"):
                await refused()
        async with consuming(hub, first_connect="wait", **data) as patient:
            coming = asyncio.ensure_future(patient())
            await asyncio.wait({coming}, timeout=0.1)
            assert not coming.done()
            waiting.cancel()
            await asyncio.wait({waiting})
            async with opened(hub, url=url(rabbitmq)) as ctx:
                await publish(hub, ctx, event(unique, b"1"))
            (await asyncio.wait_for(coming, WAIT)).ack()


async def test_a_consumer_goes_on_whatever_the_client_library_raises(
    hub: Any, rabbitmq: Any, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens, raised = AmqpSession.channel, list[Exception]()

    async def channel(session: AmqpSession) -> Any:
        if raised:
            raise raised.pop()
        return await opens(session)

    await fill(hub, rabbitmq, unique, 2)
    monkeypatch.setattr(AmqpSession, "channel", channel)
    raised.extend([RuntimeError("no writer"), DeliveryError("it was cancelled from within")])
    data = {"url": url(rabbitmq), "queue": unique, "reconnect": {"min": 0.01, "max": 0.02}}
    async with consuming(hub, first_connect="wait", **data) as following:
        assert await bodies(following, 2) == [0, 1]
    raised.append(RuntimeError("no writer"))
    with pytest.raises(ConnectFailed, match="no writer"):
        async with consuming(hub, **data) as following:
            await following()
    rabbitmq.delete_queue(unique)


async def test_a_queue_whose_first_message_ends_the_connection_is_named(
    rabbitmq4: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ 4.0 has no type of AMQP 0-9-1 for a UUID in an application property, and closes with 541."""
    rabbitmq4.declare_queue(unique)
    rabbitmq4.bind("amq.topic", unique, unique)
    caplog.set_level(logging.DEBUG, "evbus.egress.amqp")
    send_amqp1(rabbitmq4, "amq.topic", Message(unique, b"1", {"id": uuid.uuid4()}, time=1_700_000_000))

    data = {"url": url(rabbitmq4), "queue": unique, "reconnect": {"min": 0.001, "max": 0.002}}
    async with consuming(new_hub(), **data) as following:
        waiting = asyncio.ensure_future(following())
        await eventually(lambda: caplog.text.count("is interrupted") > 4, "some breaks")
        waiting.cancel()
        await asyncio.wait({waiting})
    assert caplog.text.count("the connection breaks again and again") == 1
    assert f"before anything of '{unique}' is settled; its first message may be one" in caplog.text
    rabbitmq4.delete_queue(unique)
