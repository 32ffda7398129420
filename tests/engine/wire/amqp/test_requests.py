"""Requests by AMQP to a real broker: their replies, and what becomes of them when none comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

from evbus.errors import DeliveryError, DeliveryTimeout, InvalidHeader, Rejected, Unavailable
from evbus.types import Delivery, Envelope
from tests.ingress.amqp_kit import (
    WAIT,
    consuming,
    context,
    event,
    eventually,
    kill,
    library,
    new_hub,
    opened,
    publish,
    set_largest,
    until_lost,
    url,
)
from tests.ingress.still_kit import Withheld

UNKNOWN = "it is not known whether the request was handled"
Following = Callable[[], Awaitable[Delivery]]


async def ask(hub: Any, ctx: Any, sent: Envelope, timeout: float = WAIT) -> Envelope:
    found: Envelope = await asyncio.wait_for(hub.ingress.amqp.request(ctx, sent, timeout), 2 * WAIT)
    return found


def asking(hub: Any, ctx: Any, sent: Envelope, timeout: float = WAIT) -> asyncio.Task[Envelope]:
    return asyncio.ensure_future(ask(hub, ctx, sent, timeout))


def answer_to(request: Envelope, body: bytes, **headers: str) -> Envelope:
    kept = {"correlation-id": request.headers["correlation-id"], **headers}
    return Envelope("server", "", body, kept)


async def answer(hub: Any, ctx: Any, delivery: Delivery, body: bytes = b"") -> None:
    """Reply to a request with `body`, or its own, and acknowledge it."""
    request = delivery.envelope
    reply = answer_to(request, body or request.body)
    await asyncio.wait_for(hub.ingress.amqp.reply(ctx, request.headers["reply-to"], reply), WAIT)
    delivery.ack()


@asynccontextmanager
async def taking(node: Any, queue: str) -> AsyncIterator[tuple[Following, Callable[..., Awaitable[None]]]]:
    """Yield what returns the next request, and what answers one: a server with a connection of its own."""
    hub = new_hub()
    data = {"url": url(node), "queue": queue, "first_connect": "wait", "prefetch": 1000}
    async with opened(hub, **data) as ctx, consuming(hub, **data) as following:

        async def replying(delivery: Delivery, body: bytes = b"") -> None:
            await answer(hub, ctx, delivery, body)

        yield following, replying


@asynccontextmanager
async def echoing(node: Any, queue: str) -> AsyncIterator[None]:
    """Answer each request with its body, until left; what cannot be answered now is taken again."""

    async def serve() -> None:
        async with taking(node, queue) as (following, replying):
            while True:
                delivery = await following()
                try:
                    await replying(delivery)
                except Rejected:
                    delivery.ack()
                except DeliveryError:
                    delivery.reject(requeue=True)

    task = asyncio.ensure_future(serve())
    try:
        yield
    finally:
        # Before Python 3.12 wait_for() forgets a cancellation that comes together with its result.
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        if not task.cancelled():
            task.result()


def requests(ctx: Any) -> int:
    """Return how many requests wait for their replies."""
    said = repr(ctx.state.requester)
    return int(said.partition("requests=")[2].partition(" ")[0] or 0)


# Replies


def test_the_reply_comes_back_as_the_server_sent_it(rabbitmq: Any, unique: str) -> None:
    headers = {
        "content-type": "application/json",
        "correlation-id": "its own",
        "reply-to": "elsewhere",
        "expiration": "1",
        "x-a": "ä",
    }

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq), queue=unique) as ctx,
            taking(rabbitmq, unique) as (
                following,
                replying,
            ),
        ):
            task = asking(hub, ctx, event(unique, b"question", headers), 20)
            delivery = await following()
            request = delivery.envelope
            assert request.body == b"question"
            seen = dict(request.headers)
            assert seen.pop("correlation-id") != "its own"
            assert seen.pop("reply-to").startswith("amq.rabbitmq.reply-to.")
            assert 1000 < int(seen.pop("expiration")) <= 20_000
            assert seen == {"content-type": "application/json", "x-a": "ä"}
            await replying(delivery, b"answer")
            reply = await task
            assert (reply.profile, reply.routing_key, reply.body) == ("orders", "", b"answer")
            assert reply.headers == {"correlation-id": request.headers["correlation-id"]}
            assert requests(ctx) == 0

    asyncio.run(main())


def test_many_requests_in_flight_share_a_channel_and_get_their_own_replies_in_any_order(
    rabbitmq: Any, unique: str
) -> None:
    count = 1000

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq), queue=unique) as ctx,
            taking(rabbitmq, unique) as (
                following,
                replying,
            ),
        ):
            before = len(asyncio.all_tasks())
            tasks = [
                asyncio.ensure_future(hub.ingress.amqp.request(ctx, event(unique, b"%d" % number), WAIT))
                for number in range(count)
            ]
            deliveries = [await following() for _ in range(count)]
            assert requests(ctx) == count
            # Of aiormq's own: one or two for each of the few channels.
            assert len(asyncio.all_tasks()) < before + count + 20
            for delivery in reversed(deliveries):
                await replying(delivery, b"re:" + delivery.envelope.body)
            replies = await asyncio.gather(*tasks)
            assert [reply.body for reply in replies] == [b"re:%d" % number for number in range(count)]
            addresses = {delivery.envelope.headers["reply-to"] for delivery in deliveries}
            ids = {delivery.envelope.headers["correlation-id"] for delivery in deliveries}
            assert (len(addresses), len(ids)) == (1, count)
            assert ctx.state.connection.connects == 1

    asyncio.run(main())


def test_bodies_of_any_size_travel_both_ways(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), queue=unique) as ctx, echoing(rabbitmq, unique):
            for size in (0, 1, 131_064, 131_065, 3_000_000):
                body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
                assert (await ask(hub, ctx, event(unique, body))).body == body

    asyncio.run(main())


def test_requests_go_by_the_exchange_of_the_profile(rabbitmq: Any, unique: str) -> None:
    exchange = {"name": unique, "type": "topic", "auto_delete": True}

    async def main() -> None:
        hub = new_hub()
        queue = {"name": unique, "bind": "ask.*"}
        async with opened(hub, url=url(rabbitmq), exchange=exchange, queue=queue, mandatory=False) as ctx:
            async with echoing(rabbitmq, unique):
                assert (await ask(hub, ctx, event("ask.this", b"1"))).body == b"1"
            with pytest.raises(Rejected, match="leads to no queue for the routing key 'tell.this'"):
                await ask(hub, ctx, event("tell.this"))

    asyncio.run(main())


def test_events_and_requests_go_side_by_side(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq), queue=unique) as ctx,
            taking(rabbitmq, unique) as (
                following,
                replying,
            ),
        ):
            task = asking(hub, ctx, event(unique, b"request"))
            delivery = await following()
            assert await publish(hub, ctx, event(unique, b"event")) == [None]
            other = await following()
            assert (other.envelope.body, dict(other.envelope.headers)) == (b"event", {})
            await replying(delivery)
            assert (await task).body == b"request"

    asyncio.run(main())


# No reply


def test_an_unroutable_request_is_rejected_with_the_reason_and_the_others_are_answered(
    rabbitmq: Any, unique: str
) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), queue=unique) as ctx, echoing(rabbitmq, unique):
            keys = [unique, f"{unique}-no", unique, f"{unique}-no"]
            found = await asyncio.gather(
                *(ask(hub, ctx, event(key, b"x" * 200_000)) for key in keys), return_exceptions=True
            )
            assert [isinstance(each, Rejected) for each in found] == [False, True, False, True]
            assert str(found[1]) == (
                "amqp profile 'orders': unroutable: there is no queue of the name of the routing key "
                f"'{unique}-no' (NO_ROUTE, 312)"
            )
            assert requests(ctx) == 0

    asyncio.run(main())


def test_a_request_without_a_reply_ends_in_time_and_nobody_handles_it_later(
    rabbitmq: Any, unique: str
) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
            with pytest.raises(DeliveryTimeout) as caught:
                await ask(hub, ctx, event(unique), 0.3)
            assert caught.value.seconds == 0.3
            assert requests(ctx) == 0
            await eventually(lambda: rabbitmq.queue_depth(unique) == 0, "the broker drops it")

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_without_any_time_nothing_is_sent(rabbitmq: Any, unique: str, seconds: float) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
            for _ in range(2):
                with pytest.raises(DeliveryTimeout):
                    await ask(hub, ctx, event(unique), seconds)

    asyncio.run(main())
    assert rabbitmq.queue_depth(unique) == 0


def test_each_request_ends_in_its_own_time(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        ended: list[float] = []

        async def one(ctx: Any, timeout: float) -> None:
            with pytest.raises(DeliveryTimeout):
                await ask(hub, ctx, event(unique), timeout)
            ended.append(timeout)

        async with opened(hub, url=url(rabbitmq), queue=unique) as ctx:
            with pytest.raises(DeliveryTimeout):  # the channel is open from here on
                await ask(hub, ctx, event(unique), 0.5)
            await asyncio.gather(*(one(ctx, timeout) for timeout in (0.9, 0.3, 0.6)))
            assert ended == [0.3, 0.6, 0.9]

    asyncio.run(main())


def test_a_reply_that_comes_late_or_for_nobody_is_ignored(
    rabbitmq: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "evbus.ingress.amqp")

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq), queue=unique) as ctx,
            taking(rabbitmq, unique) as (
                following,
                replying,
            ),
        ):
            late = asking(hub, ctx, event(unique), 1.0)
            delivery = await following()
            with pytest.raises(DeliveryTimeout):
                await late
            await replying(delivery, b"too late")
            await eventually(lambda: "nobody waits for it" in caplog.text, "it is told to who wants to know")
            task = asking(hub, ctx, event(unique))
            delivery = await following()
            request = delivery.envelope
            async with library(rabbitmq) as channel:
                for strange in (None, "nobody's", "ü" * 50):
                    properties = aio_pika.Message(b"", correlation_id=strange).properties
                    await channel.basic_publish(
                        b"strange", routing_key=request.headers["reply-to"], properties=properties
                    )
            await replying(delivery, b"the one")
            await replying(Delivery(request, lambda *_: None, 0), b"twice")
            assert (await task).body == b"the one"
            assert requests(ctx) == 0

    asyncio.run(main())
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_cancelled_request_is_forgotten(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq), queue=unique) as ctx,
            taking(rabbitmq, unique) as (
                following,
                replying,
            ),
        ):
            for turns in range(30):
                task = asking(hub, ctx, event(unique))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
            assert requests(ctx) == 0
            task = asking(hub, ctx, event(unique, b"kept"))
            while (delivery := await following()).envelope.body != b"kept":
                await replying(delivery)
            await replying(delivery)
            assert (await task).body == b"kept"

    asyncio.run(main())


@pytest.mark.parametrize("key", ["CC", "big", "priority"])
def test_what_amqp_cannot_carry_is_rejected(rabbitmq: Any, unique: str, key: str) -> None:
    headers = {"CC": {"CC": "other"}, "big": {"big": "x" * 131_072}, "priority": {"priority": "256"}}[key]

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), queue=unique) as ctx, echoing(rabbitmq, unique):
            with pytest.raises(Rejected) as caught:
                await ask(hub, ctx, event(unique, b"", headers))
            assert str(caught.value).startswith("amqp profile 'orders': the header")
            if key != "big":
                assert isinstance(caught.value.__cause__, InvalidHeader)
            with pytest.raises(Rejected, match="the routing key has 256 bytes"):
                await ask(hub, ctx, event("k" * 256))
            assert (await ask(hub, ctx, event(unique, b"fine"))).body == b"fine"

    asyncio.run(main())


@pytest.mark.parametrize(("refused", "kind"), [("retry", DeliveryError), ("reject", Rejected)])
def test_what_a_full_queue_refuses_is_no_timeout(
    rabbitmq: Any, unique: str, refused: str, kind: type
) -> None:
    queue = {"name": unique, "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}}

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), queue=queue, refused=refused) as ctx:
            assert await publish(hub, ctx, event(unique)) == [None]
            found = await asyncio.gather(
                *(ask(hub, ctx, event(unique)) for _ in range(5)), return_exceptions=True
            )
            assert [type(each) for each in found] == [kind] * 5
            assert "refused by the broker (basic.nack)" in str(found[0])

    asyncio.run(main())


# What the broker does meanwhile


def test_a_broker_that_closes_the_channel_says_why_to_all_in_flight_and_the_next_request_works(
    rabbitmq: Any, unique: str
) -> None:
    rabbitmq.declare_exchange(unique, "fanout")

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq), exchange=unique, queue=unique) as ctx,
            taking(rabbitmq, unique) as (following, replying),
        ):
            first = asking(hub, ctx, event(unique, b"1"))
            delivery = await following()
            await asyncio.to_thread(rabbitmq.delete_exchange, unique)
            second = asking(hub, ctx, event(unique, b"2"))
            for task in (first, second):
                with pytest.raises(Unavailable) as caught:
                    await task
                assert str(caught.value).startswith(
                    "amqp profile 'orders': the broker closed the channel: NOT_FOUND - no exchange"
                )
                assert str(caught.value).endswith(UNKNOWN)
            await replying(delivery)  # who waited has the broker's word already
            with pytest.raises(Unavailable, match=f"there is no exchange '{unique}' on the broker"):
                await ask(hub, ctx, event(unique))
            await asyncio.to_thread(rabbitmq.declare_exchange, unique, "fanout")
            task = asking(hub, ctx, event(unique, b"3"))
            await replying(await following())
            assert (await task).body == b"3"
            assert ctx.state.connection.connects == 1

    asyncio.run(main())
    rabbitmq.delete_exchange(unique)


def test_without_permission_a_request_says_so(rabbitmq: Any, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.add_user(unique, "hunter22-hunter22")
    rabbitmq.set_permissions(unique, write="")
    account = url(rabbitmq, user=unique, password="hunter22-hunter22")

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=account, exchange="amq.direct") as ctx:
            with pytest.raises(Unavailable, match="ACCESS_REFUSED") as caught:
                await ask(hub, ctx, event(unique))
            assert "hunter22" not in repr(caught.value)

    asyncio.run(main())
    rabbitmq.delete_user(unique)


def test_a_request_that_the_broker_does_not_take_is_rejected(broken_rabbitmq: Any, unique: str) -> None:
    set_largest(broken_rabbitmq, 10000)

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(broken_rabbitmq), queue=unique) as ctx,
            echoing(broken_rabbitmq, unique),
        ):
            with pytest.raises(Rejected, match="is larger than configured max size 10000"):
                await ask(hub, ctx, event(unique, b"x" * 10_001))
            assert (await ask(hub, ctx, event(unique, b"x" * 10_000))).body == b"x" * 10_000
            # Of several the broker does not say which it was.
            found = await asyncio.gather(
                *(ask(hub, ctx, event(unique, b"x" * size)) for size in (20_000, 1)), return_exceptions=True
            )
            assert [type(each) for each in found] == [Unavailable, Unavailable]

    try:
        asyncio.run(main())
    finally:
        set_largest(broken_rabbitmq, 134_217_728)


def test_a_connection_that_answers_nothing_but_its_heartbeats_is_given_up_and_the_next_one_works(
    rabbitmq: Any, proxy: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    way, withheld = proxy(rabbitmq.port), Withheld(lambda channel, _: channel != 0)
    way.filter("down", withheld)

    async def main() -> None:
        hub = new_hub()
        data = {"url": url(rabbitmq, way.port), "queue": unique, "confirm_timeout": 0.2, "heartbeat": 1}
        async with opened(hub, **data) as ctx, echoing(rabbitmq, unique):
            assert (await ask(hub, ctx, event(unique, b"0"))).body == b"0"
            withheld.begin()
            # Long before its own deadline.
            with pytest.raises(Unavailable, match=UNKNOWN):
                await ask(hub, ctx, event(unique, b"1"), 10 * WAIT)
            assert (await ask(hub, ctx, event(unique, b"2"))).body == b"2"
            assert "answered nothing else for 0.2 s" in caplog.text

    asyncio.run(main())


def test_a_server_that_is_slow_is_no_broker_that_stands_still(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        data = {"url": url(rabbitmq), "queue": unique, "confirm_timeout": 0.5, "heartbeat": 1}
        async with opened(hub, **data) as ctx, taking(rabbitmq, unique) as (following, replying):
            task = asking(hub, ctx, event(unique, b"0"))
            delivery = await following()
            for number in range(10):
                # Each is confirmed, and none is answered.
                with pytest.raises(DeliveryTimeout):
                    await ask(hub, ctx, event(unique, b"%d" % number), 0.1)
            await replying(delivery)
            assert (await task).body == b"0"
            assert ctx.state.connection.connects == 1

    asyncio.run(main())


@pytest.mark.parametrize("how", ["cut", "half_open"])
def test_a_connection_lost_while_waiting_ends_the_requests_at_once_and_the_next_ones_work(
    rabbitmq: Any, proxy: Any, unique: str, how: str
) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        hub = new_hub()
        data = {"url": url(rabbitmq, way.port), "queue": unique, "heartbeat": 1}
        async with opened(hub, **data) as ctx, taking(rabbitmq, unique) as (following, replying):
            tasks = [asking(hub, ctx, event(unique, b"%d" % number)) for number in range(3)]
            lost = [await following() for _ in range(3)]
            getattr(way, how)()
            for task in tasks:
                with pytest.raises(Unavailable) as caught:
                    await task
                assert str(caught.value).startswith("amqp profile 'orders': the connection was lost: ")
                assert str(caught.value).endswith(UNKNOWN)
            assert requests(ctx) == 0
            task = asking(hub, ctx, event(unique, b"again"))
            for delivery in lost:
                delivery.ack()
            await replying(await following())
            assert (await task).body == b"again"

    asyncio.run(main())


def test_a_request_waits_for_the_connection_as_long_as_it_may(rabbitmq: Any, proxy: Any, unique: str) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(rabbitmq, way.port), queue=unique) as ctx,
            echoing(rabbitmq, unique),
        ):
            assert (await ask(hub, ctx, event(unique, b"before"))).body == b"before"
            way.refuse()
            way.cut()
            await until_lost(ctx)
            await eventually(lambda: ctx.state.connection.session is None, "it is lost")
            with pytest.raises(Unavailable, match="amqp profile 'orders': not connected: "):
                await ask(hub, ctx, event(unique), 0.1)
            tasks = [asking(hub, ctx, event(unique, b"%d" % number)) for number in range(5)]
            cancelled = asking(hub, ctx, event(unique))
            await asyncio.sleep(0)
            cancelled.cancel()
            way.accept()
            replies = await asyncio.gather(*tasks)
            assert [reply.body for reply in replies] == [b"%d" % number for number in range(5)]
            assert ctx.state.connection.connects == 2

    asyncio.run(main())


def test_requests_work_again_when_a_killed_broker_is_back(broken_rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(broken_rabbitmq), queue=unique) as ctx,
            echoing(broken_rabbitmq, unique),
        ):
            assert (await ask(hub, ctx, event(unique, b"1"))).body == b"1"
            await kill(broken_rabbitmq)
            task = asking(hub, ctx, event(unique, b"2"), 2 * WAIT)
            with pytest.raises(Unavailable):
                await ask(hub, ctx, event(unique), 0.1)
            await asyncio.to_thread(broken_rabbitmq.start)
            # What was sent into the dying connection may be lost with it.
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, (Envelope, Unavailable))
            assert (await ask(hub, ctx, event(unique, b"3"))).body == b"3"

    asyncio.run(main())


def test_requests_work_again_when_an_operator_has_closed_the_connections(
    broken_rabbitmq: Any, unique: str
) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(broken_rabbitmq), queue=unique) as ctx:
            task = asking(hub, ctx, event(unique))
            await eventually(lambda: broken_rabbitmq.queue_depth(unique) == 1, "it is sent")
            await asyncio.to_thread(broken_rabbitmq.close_connections, "maintenance")
            with pytest.raises(Unavailable, match=f"maintenance.*{UNKNOWN}"):
                await task
            async with echoing(broken_rabbitmq, unique):
                assert (await ask(hub, ctx, event(unique, b"2"))).body == b"2"

    asyncio.run(main())


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_frozen_broker_is_a_timeout(broken_rabbitmq: Any, unique: str, opened_before: bool) -> None:
    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(broken_rabbitmq), queue=unique) as ctx,
            echoing(broken_rabbitmq, unique),
        ):
            if opened_before:
                assert (await ask(hub, ctx, event(unique, b"1"))).body == b"1"
            await asyncio.to_thread(broken_rabbitmq.freeze)
            try:
                with pytest.raises(DeliveryTimeout):
                    await ask(hub, ctx, event(unique), 0.5)
            finally:
                await asyncio.to_thread(broken_rabbitmq.thaw)
            assert (await ask(hub, ctx, event(unique, b"2"))).body == b"2"

    asyncio.run(main())


def test_a_broker_that_blocks_publishers_is_waited_for(broken_rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with (
            opened(hub, url=url(broken_rabbitmq), queue=unique) as ctx,
            taking(broken_rabbitmq, unique) as (following, replying),
        ):
            await asyncio.to_thread(broken_rabbitmq.memory_alarm, True)
            assert await asyncio.wait_for(ctx.state.publish([]), WAIT) == []
            task = asyncio.ensure_future(publish(hub, ctx, event(unique, b"event")))
            await eventually(lambda: ctx.state.connection.session.blocked, "the broker says so")
            with pytest.raises(Unavailable, match="the broker blocks publishers"):
                await ask(hub, ctx, event(unique), 0.1)
            waiting = asking(hub, ctx, event(unique, b"request"))
            await asyncio.to_thread(broken_rabbitmq.memory_alarm, False)
            assert await task == [None]
            (await following()).ack()
            await replying(await following())
            assert (await waiting).body == b"request"

    asyncio.run(main())


# The end


def test_closing_ends_the_requests_and_leaves_the_connection_to_others(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        data = {"url": url(rabbitmq), "queue": unique}
        await asyncio.to_thread(rabbitmq.declare_queue, f"{unique}-mute")
        async with opened(hub, **data) as neighbour, echoing(rabbitmq, unique):
            for begun in (0, 1, 5, 1000):
                async with opened(hub, **data) as ctx:
                    assert ctx.state.connection is neighbour.state.connection
                    task = asking(hub, ctx, event(f"{unique}-mute"))
                    for _ in range(begun):
                        await asyncio.sleep(0)
                with pytest.raises(Unavailable, match="amqp profile 'orders': the lane was closed"):
                    await task
                with pytest.raises(Unavailable, match="the lane was closed"):
                    await ask(hub, ctx, event(unique))
            assert (await ask(hub, neighbour, event(unique, b"on"))).body == b"on"
            assert neighbour.state.connection.connects == 1

    asyncio.run(main())


def test_without_a_connection_closing_ends_the_requests(unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        ctx = context(url="amqp://127.0.0.1:1/", first_connect="wait")
        ctx["state"] = await hub.ingress.amqp.open(ctx)
        task = asking(hub, ctx, event(unique))
        await asyncio.sleep(0)
        await hub.ingress.amqp.close(ctx)
        with pytest.raises(Unavailable, match="the lane was closed"):
            await task

    asyncio.run(main())


# Others


def test_a_server_of_aio_pika_can_be_asked(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        connection = await aio_pika.connect(rabbitmq.url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(unique, auto_delete=True)

            async def on_message(message: Any) -> None:
                async with message.process():
                    await channel.default_exchange.publish(
                        aio_pika.Message(
                            b"re:" + message.body,
                            correlation_id=message.correlation_id,
                            content_type="text/plain",
                            headers={"status": 200},
                        ),
                        routing_key=message.reply_to,
                    )

            await queue.consume(on_message)
            async with opened(hub, url=url(rabbitmq)) as ctx:
                replies = await asyncio.gather(
                    *(ask(hub, ctx, event(unique, b"%d" % number)) for number in range(20))
                )
                assert [reply.body for reply in replies] == [b"re:%d" % number for number in range(20)]
                assert replies[0].headers["content-type"] == "text/plain"
                assert replies[0].headers["status"] == "200"

    asyncio.run(main())


@pytest.mark.parametrize("direct", [True, False])
def test_a_client_of_aio_pika_is_answered(rabbitmq: Any, unique: str, direct: bool) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(rabbitmq.url)
        async with connection, echoing(rabbitmq, unique):
            await eventually(lambda: rabbitmq.has_queue(unique), "the server consumes")
            channel = await connection.channel()
            if direct:
                queue = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
            else:
                queue = await channel.declare_queue(exclusive=True)
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            await queue.consume(arrived.put, no_ack=True)
            for number in range(20):
                message = aio_pika.Message(b"%d" % number, correlation_id=f"id {number}", reply_to=queue.name)
                await channel.default_exchange.publish(message, routing_key=unique)
            found = [await asyncio.wait_for(arrived.get(), WAIT) for _ in range(20)]
            assert {(each.correlation_id, each.body) for each in found} == {
                (f"id {number}", b"%d" % number) for number in range(20)
            }

    asyncio.run(main())
