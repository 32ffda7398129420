"""Requests and replies by STOMP over real brokers, and over one that a test controls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import pytest

from evbus.engine.wire.stomp.requests import MOST_EXPIRY, expiry_lines, reply_queue
from evbus.engine.wire.stomp.session import Product
from evbus.errors import DeliveryError, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Delivery, Envelope, Subscription
from tests.connection.stomp_kit import (
    WAIT,
    broker,
    consuming,
    context,
    event,
    frame,
    frame_of,
    login,
    new_hub,
    opened,
    publish,
    url,
)
from tests.ingress.amqp_kit import eventually

SOON = {"min": 0.01, "max": 0.05}  # seconds between two attempts to connect


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def is_rabbitmq(node: Any) -> bool:
    return hasattr(node, "management_port")


async def ask(hub: Any, ctx: Any, sent: Envelope, timeout: float = WAIT) -> Envelope:
    found: Envelope = await asyncio.wait_for(hub.ingress.stomp.request(ctx, sent, timeout), 2 * WAIT)
    return found


def answer_to(request: Envelope, body: bytes, **headers: str) -> Envelope:
    kept = {"correlation-id": request.headers["correlation-id"], **headers}
    return Envelope("server", "", body, kept)


async def replying(hub: Any, ctx: Any, address: str) -> None:
    """Reply until that is refused: the end of a connection may be told before all of it has ended."""
    while True:
        await hub.ingress.stomp.reply(ctx, address, event("", b"nobody waits"))


@asynccontextmanager
async def taking(hub: Any, node: Any, key: str) -> AsyncIterator[tuple[Callable[[], Any], Any]]:
    """Yield what returns the next request, and the context to reply with: a connection of its own."""
    async with (
        opened(hub, name="server", url=url(node)) as ctx,
        consuming(hub, Subscription(name=key, prefetch=1000), name="server", url=url(node)) as following,
    ):
        yield following, ctx


@asynccontextmanager
async def echoing(hub: Any, node: Any, key: str) -> AsyncIterator[None]:
    """Answer requests with their bodies and headers, until left."""

    async def serve() -> None:
        async with taking(hub, node, key) as (following, ctx):
            while True:
                delivery: Delivery = await following()
                request = delivery.envelope
                address = request.headers["reply-to"]
                reply = Envelope("server", "re." + request.routing_key, request.body, request.headers)
                await hub.ingress.stomp.reply(ctx, address, reply)
                delivery.ack()

    task = asyncio.ensure_future(serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def test_a_refused_destination_is_a_rejection_with_the_reason(rabbitmq: Any, unique: str) -> None:

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq), destination="/exchange/nope/{routing_key}") as ctx:
        with pytest.raises(Rejected, match="no exchange 'nope'"):
            await ask(hub, ctx, event(unique, b"1"))


async def test_what_cannot_be_carried_is_refused_and_the_rest_is_asked(node: Any, unique: str) -> None:

    hub = new_hub()
    async with opened(hub, url=url(node)) as ctx, echoing(hub, node, unique):
        for bad in (event(unique, b"1", {"a": "\0"}), event("", b"2")):
            with pytest.raises(Rejected):
                await ask(hub, ctx, bad)
        for address in ("", "/queue/\0"):
            with pytest.raises(Rejected, match="address of a reply"):
                await hub.ingress.stomp.reply(ctx, address, event(unique, b"3"))
        with pytest.raises(Rejected):
            await hub.ingress.stomp.reply(ctx, "/queue/x", event(unique, b"4", {"a": "\0"}))
        assert (await ask(hub, ctx, event(unique, b"5"))).body == b"5"


async def test_without_the_permission_for_a_reply_queue_nothing_is_sent(rabbitmq: Any, unique: str) -> None:
    rabbitmq.add_user(unique, "pa55word")
    rabbitmq.set_permissions(unique, configure=f"^{unique}$")

    hub = new_hub()
    address = f"stomp://{unique}:pa55word@127.0.0.1:{rabbitmq.stomp_port}"
    async with opened(hub, url=address, reconnect=SOON) as ctx:
        with pytest.raises(Unavailable, match=r"nothing was sent.*access_refused"):
            await ask(hub, ctx, event(unique, b"1"))
        rabbitmq.set_permissions(unique)
        async with echoing(hub, rabbitmq, unique):
            assert (await ask(hub, ctx, event(unique, b"2"))).body == b"2"
    rabbitmq.delete_user(unique)


async def test_the_reply_queue_is_gone_after_close_and_the_shared_connection_is_not(
    node: Any, unique: str
) -> None:

    hub = new_hub()
    async with opened(hub, url=url(node)) as other:
        async with opened(hub, url=url(node)) as ctx, taking(hub, node, unique) as (following, server):
            assert ctx.state.connection is other.state.connection
            waiting = asyncio.ensure_future(ask(hub, ctx, event(unique, b"1")))
            delivery = await following()
            address = delivery.envelope.headers["reply-to"]
            await hub.ingress.stomp.reply(server, address, answer_to(delivery.envelope, b"yes"))
            assert (await waiting).body == b"yes"
            delivery.ack()
        assert await publish(hub, other, event(unique, b"2")) == [None]
        if is_rabbitmq(node):
            await eventually(lambda: not node.has_queue(address.rpartition("/")[2]), "the queue is gone")
    async with opened(hub, url=url(node)) as ctx:
        # RabbitMQ's receipt tells nothing, and no queue is made by the reply.
        if is_rabbitmq(node):
            await hub.ingress.stomp.reply(ctx, address, event("", b"3"))
            assert not node.has_queue(address.rpartition("/")[2])
        else:
            with pytest.raises(Rejected, match="does not exist"):
                await asyncio.wait_for(replying(hub, ctx, address), WAIT)
            assert await publish(hub, ctx, event(unique, b"4")) == [None]


class Listener:
    """What stomp.py calls in a thread of its own."""

    def __init__(self, taken: Callable[[Any], None]) -> None:
        self._taken = taken

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_: None

    def on_message(self, message: Any) -> None:
        self._taken(message)


@asynccontextmanager
async def stomp_py(node: Any, taken: Callable[[Any, Any], None]) -> AsyncIterator[Any]:
    """Yield a connection of stomp.py; ``taken(connection, frame)`` is called for each message."""
    import stomp

    connection = stomp.Connection12([(node.host, node.stomp_port)], auto_decode=False, vhost="/")
    connection.set_listener("", Listener(lambda message: taken(connection, message)))
    await asyncio.to_thread(connection.connect, node.user, node.password, wait=True)
    try:
        yield connection
    finally:
        await asyncio.to_thread(connection.disconnect)


async def test_a_plain_stomp_server_can_be_asked(node: Any, unique: str) -> None:
    def answer(connection: Any, message: Any) -> None:
        headers = {
            "correlation-id": message.headers["correlation-id"],
            "seen": message.headers["content-type"],
        }
        connection.send(message.headers["reply-to"], b"re:" + message.body, headers=headers)

    hub = new_hub()
    async with opened(hub, url=url(node)) as ctx, stomp_py(node, answer) as connection:
        connection.subscribe(f"/queue/{unique}", "1")
        found = await ask(hub, ctx, event(unique, b"hello", {"content-type": "text/plain"}))
        assert found.body == b"re:hello"
        assert found.headers["seen"] == "text/plain"


@pytest.mark.parametrize("kind", ["queue", "temp-queue"])
async def test_a_plain_stomp_client_is_answered(node: Any, unique: str, kind: str) -> None:
    arrived = threading.Event()
    found: list[Any] = []

    def taken(_: Any, message: Any) -> None:
        found.append(message)
        arrived.set()

    hub = new_hub()
    async with echoing(hub, node, unique), stomp_py(node, taken) as connection:
        address = f"/{kind}/{unique}-client"
        if kind == "queue" or not is_rabbitmq(node):
            connection.subscribe(address, "1")
        headers = {"reply-to": address, "correlation-id": "a:b\n7"}
        connection.send(f"/queue/{unique}", b"hello", headers=headers)
        assert await asyncio.to_thread(arrived.wait, WAIT)
        assert found[0].body == b"hello"
        assert found[0].headers["correlation-id"] == "a:b\n7"


@pytest.mark.parametrize("direct", [True, False])
async def test_a_request_that_came_by_amqp_is_answered(rabbitmq: Any, unique: str, direct: bool) -> None:

    hub = new_hub()
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    connection = await aiormq.connect(rabbitmq.url)
    try:
        channel = await connection.channel()
        queue = "amq.rabbitmq.reply-to"
        if not direct:
            queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.basic_consume(queue, arrived.put, no_ack=True)
        async with echoing(hub, rabbitmq, unique):
            await eventually(lambda: rabbitmq.has_queue(unique), "the server consumes")
            asking = aiormq.spec.Basic.Properties(reply_to=queue, correlation_id="7")
            await channel.basic_publish(b"hello", routing_key=unique, properties=asking)
            found = await asyncio.wait_for(arrived.get(), WAIT)
            assert found.body == b"hello"
            assert found.header.properties.correlation_id == "7"
    finally:
        await connection.close()


class Server:
    """A broker that answers when it is told to."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[tuple[str, dict[str, str], bytes]] = asyncio.Queue()
        self.writer: Any = None
        self.receipts = True

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer)
        self.writer = writer
        while True:
            command, headers, body = await frame_of(reader)
            self.sent.put_nowait((command, headers, body))
            if self.receipts or command == "DISCONNECT":
                self.write("RECEIPT", receipt_id=headers["receipt"])

    async def got(self, command: str) -> tuple[dict[str, str], bytes]:
        found, headers, body = await asyncio.wait_for(self.sent.get(), WAIT)
        assert found == command
        return headers, body

    def write(self, command: str, body: str = "", **headers: str) -> None:
        self.writer.write(frame(command, body, **headers))

    def answer(self, subscription: dict[str, str], request: dict[str, str], body: str) -> None:
        about = {"subscription": subscription["id"], "correlation_id": request["correlation-id"]}
        self.write("MESSAGE", body, message_id="1", destination="/queue/q", **about)


@asynccontextmanager
async def asked(**data: Any) -> AsyncIterator[tuple[Server, Any, Callable[..., asyncio.Task[Envelope]]]]:
    """Yield a server, the context of a plugin that is connected to it, and what begins a request."""
    server, hub = Server(), new_hub()
    async with broker(server.talk) as port, opened(hub, url=f"stomp://127.0.0.1:{port}", **data) as ctx:
        yield (
            server,
            ctx,
            lambda body, timeout=WAIT: asyncio.ensure_future(
                hub.ingress.stomp.request(ctx, event("k", body), timeout)
            ),
        )


async def test_all_requests_share_one_subscription_and_no_event_is_sent_before_it_is_accepted() -> None:

    async with asked(headers={"Reply-To": "x", "correlation-id": "y", "x-tenant": "shop"}) as found:
        server, _, request = found
        server.receipts = False
        asking = [request(b"%d" % number) for number in range(3)]
        subscription, _ = await server.got("SUBSCRIBE")
        assert subscription["ack"] == "auto"
        assert server.sent.empty()
        server.write("RECEIPT", receipt_id=subscription["receipt"])
        sent = [await server.got("SEND") for _ in asking]
        assert {headers["reply-to"] for headers, _ in sent} == {subscription["destination"]}
        assert {headers["x-tenant"] for headers, _ in sent} == {"shop"}
        assert len({headers["correlation-id"] for headers, _ in sent}) == 3
        for headers, body in sent:
            # Before its receipt, which a broker that writes to a disk gives later.
            server.answer(subscription, headers, f"re:{body.decode()}")
            server.write("RECEIPT", receipt_id=headers["receipt"])
        assert [(await one).body for one in asking] == [b"re:0", b"re:1", b"re:2"]
        server.receipts = True


async def test_an_error_of_the_broker_is_the_outcome_of_the_request_that_it_names() -> None:

    async with asked() as (server, ctx, request):
        first = request(b"1")
        subscription, _ = await server.got("SUBSCRIBE")
        await server.got("SEND")
        server.receipts = False
        second = request(b"2")
        headers, _ = await server.got("SEND")
        server.write("ERROR", "no room", receipt_id=headers["receipt"], message="refused")
        with pytest.raises(
            Rejected, match="^stomp profile 'orders': the broker refused it: refused: no room$"
        ):
            await second
        third, fourth = request(b"3"), request(b"4")
        await server.got("SEND")
        await server.got("SEND")
        server.write("ERROR", "one of them", message="bad")
        for one in (third, fourth):
            with pytest.raises(DeliveryError, match="refused one of the frames in flight"):
                await one
        # This one has its receipt, so it is not the one that was refused.
        with pytest.raises(Unavailable, match=r"not known whether the request was handled: .*one of them"):
            await first
        assert subscription["id"] not in repr(ctx.state)
        server.receipts = True


async def test_no_more_requests_are_sent_than_the_window_and_those_given_up_are_not_sent() -> None:

    async with asked(window=2) as (server, _, request):
        first = request(b"first")
        subscription, _ = await server.got("SUBSCRIBE")
        headers, _ = await server.got("SEND")
        server.answer(subscription, headers, "yes")
        await first
        server.receipts = False
        asking = [request(b"%d" % number) for number in range(5)]
        sent = [await server.got("SEND") for _ in range(2)]
        brief = request(b"brief", 0.05)
        with pytest.raises(DeliveryTimeout):
            await brief
        asking[2].cancel()
        await asyncio.wait({asking[2]})
        assert server.sent.empty()
        server.receipts = True
        server.write("RECEIPT", receipt_id=sent[0][0]["receipt"])
        sent += [await server.got("SEND") for _ in range(2)]
        assert [body for _, body in sent] == [b"0", b"1", b"3", b"4"]
        for headers, body in sent:
            server.answer(subscription, headers, body.decode())
        assert [(await asking[number]).body for number in (0, 1, 3, 4)] == [b"0", b"1", b"3", b"4"]


async def test_closing_ends_requests_wherever_they_are() -> None:

    async with asked() as (server, ctx, request):
        server.receipts = False
        subscribing = request(b"1")
        subscription, _ = await server.got("SUBSCRIBE")
        closing = asyncio.ensure_future(ctx.state.close())
        unsubscribed, _ = await server.got("UNSUBSCRIBE")
        assert unsubscribed["id"] == subscription["id"]
        server.write("RECEIPT", receipt_id=unsubscribed["receipt"])
        await closing
        for one in (subscribing, request(b"late")):
            with pytest.raises(Unavailable, match="takes no requests any more"):
                await one
        server.receipts = True
    async with asked() as (server, ctx, request):
        waiting = request(b"1")
        await server.got("SUBSCRIBE")
        await server.got("SEND")
        await ctx.state.close()
        await server.got("UNSUBSCRIBE")
        with pytest.raises(Unavailable, match="takes no requests any more"):
            await waiting


async def test_a_reply_without_a_receipt_or_a_connection_is_unavailable() -> None:

    async with asked(receipt_timeout=0.1, reconnect=SOON) as (server, ctx, _):
        hub = new_hub()
        server.receipts = False
        with pytest.raises(Unavailable, match="receipt_timeout"):
            await hub.ingress.stomp.reply(ctx, "/queue/a:b", event("", b"1"))
        headers, body = await server.got("SEND")
        assert (headers["destination"], body) == ("/queue/a\\cb", b"1")
        waiting = asyncio.ensure_future(hub.ingress.stomp.reply(ctx, "/queue/a", event("", b"2")))
        await server.got("SEND")
        server.writer.transport.abort()
        with pytest.raises(Unavailable, match="lost before the receipt"):
            await waiting
        server.receipts = True


async def test_the_connection_of_a_closed_profile_is_not_waited_for() -> None:

    hub = new_hub()
    async with broker(Server().talk) as port:
        ctx = context(url=f"stomp://127.0.0.1:{port}")
        ctx["state"] = await hub.ingress.stomp.open(ctx)
        await hub.connection.stomp.close(ctx.state.connection)
        with pytest.raises(Unavailable, match="connection is closed"):
            await ask(hub, ctx, event("k", b"1"))
        with pytest.raises(Unavailable, match="connection is closed"):
            await hub.ingress.stomp.reply(ctx, "/queue/a", event("k", b"1"))
        await ctx.state.close()


def test_where_replies_come_to_differs_by_broker() -> None:
    headers = {"durable": "false", "auto-delete": "true", "exclusive": "true"}
    assert reply_queue(Product.RABBITMQ, "n") == ("/queue/n", headers, "/amq/queue/n")
    for other in (Product.ACTIVEMQ, Product.OTHER):
        assert reply_queue(other, "n") == ("/temp-queue/n", {}, "/temp-queue/n")


def test_how_a_request_expires_differs_by_broker() -> None:
    assert expiry_lines(Product.RABBITMQ, 1.5) == b"expiration:1500\n"
    assert expiry_lines(Product.RABBITMQ, -1) == b"expiration:1\n"
    assert expiry_lines(Product.RABBITMQ, float("inf")) == b"expiration:%d\n" % (MOST_EXPIRY * 1000)
    assert expiry_lines(Product.ACTIVEMQ, 1.5).startswith(b"expires:")
    assert expiry_lines(Product.OTHER, 1.5).startswith(b"expiration:1500\nexpires:")
