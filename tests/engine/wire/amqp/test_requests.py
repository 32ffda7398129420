"""Requests by AMQP to a real broker: their replies, and what becomes of them when none comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

from evbus.errors import DeliveryError, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Delivery, Envelope
from tests.ingress.amqp_kit import (
    WAIT,
    consuming,
    event,
    eventually,
    library,
    new_hub,
    opened,
    publish,
    set_largest,
    url,
)
from tests.transports.asking import UNKNOWN, answer_all, beside

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
    # A server may have nothing to do for as long as a broker that was killed takes to come back.
    async with opened(hub, **data) as ctx, consuming(hub, seconds=None, **data) as following:

        async def replying(delivery: Delivery, body: bytes = b"") -> None:
            await answer(hub, ctx, delivery, body)

        yield following, replying


@asynccontextmanager
async def echoing(node: Any, queue: str) -> AsyncIterator[None]:
    """Answer each request with its body, until left; what cannot be answered now is taken again."""

    async def serve() -> None:
        async with taking(node, queue) as (following, replying):
            await answer_all(following, replying)

    async with beside(serve()):
        yield


def requests(ctx: Any) -> int:
    """Return how many requests wait for their replies."""
    said = repr(ctx.state)
    return int(said.partition("requests=")[2].partition(" ")[0] or 0)


# Replies


async def test_requests_go_by_the_exchange_of_the_profile(rabbitmq: Any, unique: str) -> None:
    exchange = {"name": unique, "type": "topic", "auto_delete": True}

    hub = new_hub()
    queue = {"name": unique, "bind": "ask.*"}
    async with opened(hub, url=url(rabbitmq), exchange=exchange, queue=queue, mandatory=False) as ctx:
        async with echoing(rabbitmq, unique):
            assert (await ask(hub, ctx, event("ask.this", b"1"))).body == b"1"
        with pytest.raises(Rejected, match="leads to no queue for the routing key 'tell.this'"):
            await ask(hub, ctx, event("tell.this"))


# No reply


async def test_an_unroutable_request_is_rejected_with_the_reason_and_the_others_are_answered(
    rabbitmq: Any, unique: str
) -> None:

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


async def test_each_request_ends_in_its_own_time(rabbitmq: Any, unique: str) -> None:

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


async def test_a_reply_that_comes_late_or_for_nobody_is_ignored(
    rabbitmq: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "evbus.ingress.amqp")

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
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize(("refused", "kind"), [("retry", DeliveryError), ("reject", Rejected)])
async def test_what_a_full_queue_refuses_is_no_timeout(
    rabbitmq: Any, unique: str, refused: str, kind: type
) -> None:
    queue = {"name": unique, "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}}

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq), queue=queue, refused=refused) as ctx:
        assert await publish(hub, ctx, event(unique)) == [None]
        found = await asyncio.gather(
            *(ask(hub, ctx, event(unique)) for _ in range(5)), return_exceptions=True
        )
        assert [type(each) for each in found] == [kind] * 5
        assert "refused by the broker (basic.nack)" in str(found[0])


# What the broker does meanwhile


async def test_a_broker_that_closes_the_channel_says_why_to_all_in_flight_and_the_next_request_works(
    rabbitmq: Any, unique: str
) -> None:
    rabbitmq.declare_exchange(unique, "fanout")

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
    rabbitmq.delete_exchange(unique)


async def test_without_permission_a_request_says_so(rabbitmq: Any, unique: str) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.add_user(unique, "hunter22-hunter22")
    rabbitmq.set_permissions(unique, write="")
    account = url(rabbitmq, user=unique, password="hunter22-hunter22")

    hub = new_hub()
    async with opened(hub, url=account, exchange="amq.direct") as ctx:
        with pytest.raises(Unavailable, match="ACCESS_REFUSED") as caught:
            await ask(hub, ctx, event(unique))
        assert "hunter22" not in repr(caught.value)
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


async def test_a_server_that_is_slow_is_no_broker_that_stands_still(rabbitmq: Any, unique: str) -> None:

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


# The end


# Others


async def test_a_server_of_aio_pika_can_be_asked(rabbitmq: Any, unique: str) -> None:

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


@pytest.mark.parametrize("direct", [True, False])
async def test_a_client_of_aio_pika_is_answered(rabbitmq: Any, unique: str, direct: bool) -> None:

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
