"""Replies by AMQP over a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import aiormq.abc
import pytest

from evbus.errors import Rejected, Unavailable
from evbus.types import Envelope
from tests.ingress.amqp_kit import WAIT, eventually, got, library, new_hub, opened, ready, url


class Client:
    """A client of direct reply-to: its address, and the bodies of what came."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self.channel = channel
        self.address = ""
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def begin(self, queue: str) -> None:
        """Learn the address from a request that goes through `queue`."""
        direct = "amq.rabbitmq.reply-to"
        await self.channel.basic_consume(direct, self._take, no_ack=True)
        asking = aiormq.spec.Basic.Properties(reply_to=direct)
        await self.channel.basic_publish(b"", routing_key=queue, properties=asking)
        request = await got(self.channel, queue)
        self.address = request.header.properties.reply_to

    async def _take(self, message: Any) -> None:
        self.arrived.put_nowait(message.body)

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.arrived.get(), WAIT)


@asynccontextmanager
async def clients(node: Any, count: int = 1) -> AsyncIterator[list[Client]]:
    """Yield clients with a channel each on one connection."""
    connection = await aiormq.connect(node.url)
    try:
        queue = (await (await connection.channel()).queue_declare(exclusive=True)).queue
        assert queue is not None
        found = [Client(await connection.channel()) for _ in range(count)]
        for client in found:
            await client.begin(queue)
        yield found
    finally:
        await connection.close()


async def reply(hub: Any, ctx: Any, address: str, body: bytes = b"reply", **headers: str) -> None:
    event = Envelope("orders", "whatever", body, headers)
    await asyncio.wait_for(hub.ingress.amqp.reply(ctx, address, event), WAIT)


async def test_clients_that_go_do_not_keep_others_from_their_replies(rabbitmq: Any) -> None:
    count = 20

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq)) as ctx, clients(rabbitmq, count) as found:
        for client in found[::2]:
            await client.channel.close()
        await asyncio.gather(
            *(reply(hub, ctx, client.address, b"%d" % number) for number, client in enumerate(found)),
            *(reply(hub, ctx, client.address, b"second") for client in found),
        )
        for number, client in enumerate(found):
            if number % 2:
                assert await client.next() == b"%d" % number
                assert await client.next() == b"second"
        assert ctx.state.connection.connects == 1


async def test_a_queue_that_is_gone_is_a_rejection(rabbitmq: Any, unique: str) -> None:

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq)) as ctx:
        with pytest.raises(Rejected, match=f"no queue of the name of the routing key '{unique}'"):
            await reply(hub, ctx, unique)


@pytest.mark.parametrize("address", ["{}", "/queue/{}", "/amq/queue/{}", "/reply-queue/{}"])
async def test_a_queue_is_an_address_and_so_is_what_a_stomp_client_calls_it(
    rabbitmq: Any, unique: str, address: str
) -> None:

    hub = new_hub()
    # Where the profile's events go to does not matter.
    profile = {
        "url": url(rabbitmq),
        "exchange": "amq.fanout",
        "queue": f"{unique}-own",
        "mandatory": False,
    }
    async with opened(hub, **profile) as ctx, library(rabbitmq) as channel:
        await channel.queue_declare(unique, exclusive=False)
        await reply(hub, ctx, address.format(unique), b"x" * 300_000, **{"correlation-id": "7"})
        message = await got(channel, unique)
        assert message.body == b"x" * 300_000
        assert message.header.properties.correlation_id == "7"
        await channel.queue_delete(unique)
        with pytest.raises(Rejected, match=f"there is no queue of the name of the routing key '{unique}'"):
            await reply(hub, ctx, address.format(unique))
    assert rabbitmq.queue_depth(f"{unique}-own") == 0


@pytest.mark.parametrize(
    ("address", "headers", "why"),
    [
        ("", {}, "there is no address to reply to"),
        ("/queue/", {}, "there is no address to reply to"),
        ("q" * 256, {}, "the routing key has 256 bytes"),
        ("amq.rabbitmq.reply-to." + "q" * 256, {}, "the routing key has 278 bytes"),
        ("amq.rabbitmq.reply-to", {}, "there is no queue of the name of the routing key"),
        ("q", {"correlation-id": "x" * 256}, "'correlation-id' has 256 bytes"),
    ],
)
async def test_what_cannot_be_replied_is_rejected(
    rabbitmq: Any, address: str, headers: dict[str, str], why: str
) -> None:

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq)) as ctx:
        with pytest.raises(Rejected) as caught:
            await reply(hub, ctx, address, **headers)
        assert why in str(caught.value)
        assert str(caught.value).startswith("amqp profile 'orders': ")
        assert ctx.state.connection.connects == 1


async def test_a_user_who_may_write_to_the_default_exchange_only_can_reply(
    rabbitmq: Any, unique: str
) -> None:
    rabbitmq.add_user(unique, "hunter22-hunter22")
    account = url(rabbitmq, user=unique, password="hunter22-hunter22")

    hub = new_hub()
    await asyncio.to_thread(rabbitmq.set_permissions, unique, configure="^$", write="amq.default", read="^$")
    async with opened(hub, url=account) as ctx, clients(rabbitmq) as (client,):
        await reply(hub, ctx, client.address)
        assert await client.next() == b"reply"
    await asyncio.to_thread(rabbitmq.set_permissions, unique, write="^$")
    async with opened(hub, url=account) as ctx, clients(rabbitmq) as (client,):
        for address in (client.address, "somewhere"):
            with pytest.raises(Unavailable, match="ACCESS_REFUSED"):
                await reply(hub, ctx, address)
    rabbitmq.delete_user(unique)


async def test_without_a_connection_a_reply_is_unavailable_at_once(unique: str) -> None:

    hub = new_hub()
    async with opened(hub, url="amqp://127.0.0.1:1/", first_connect="wait") as ctx:
        for address in (unique, "amq.rabbitmq.reply-to.x"):
            with pytest.raises(Unavailable, match="not connected"):
                await reply(hub, ctx, address)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("how", ["silent", "cut"])
async def test_a_reply_whose_fate_is_unknown_is_unavailable_and_the_next_one_arrives(
    rabbitmq: Any, proxy: Any, unique: str, how: str, direct: bool
) -> None:
    way = proxy(rabbitmq.port)

    hub = new_hub()
    data = {"url": url(rabbitmq, way.port), "confirm_timeout": 0.2 if how == "silent" else WAIT}
    async with opened(hub, **data) as ctx, clients(rabbitmq) as (client,), library(rabbitmq) as channel:
        await channel.queue_declare(unique, exclusive=True)
        address = client.address if direct else unique
        await reply(hub, ctx, address, b"1")
        way.freeze("down")
        task = asyncio.ensure_future(reply(hub, ctx, address, b"2"))
        if how == "cut":
            for _ in range(5):  # replies of one turn of the loop leave together
                await asyncio.sleep(0)
            way.cut()
        with pytest.raises(Unavailable, match="confirmed nothing for" if how == "silent" else "was lost"):
            await task
        way.thaw("down")

        async def again() -> bool:
            try:
                await reply(hub, ctx, address, b"3")
            except Unavailable:
                return False
            return True

        while not await again():
            await ready(hub, ctx)
        if direct:
            while await client.next() != b"3":
                pass
        else:
            while (message := await got(channel, unique)) is None or message.body != b"3":
                pass


async def test_a_cancelled_reply_leaves_nothing_waiting(rabbitmq: Any) -> None:

    hub = new_hub()
    async with opened(hub, url=url(rabbitmq)) as ctx, clients(rabbitmq) as (client,):
        for turns in range(20):
            task = asyncio.ensure_future(
                hub.ingress.amqp.reply(ctx, client.address, Envelope("orders", "", b"cancelled"))
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        await reply(hub, ctx, client.address, b"last")
        while await client.next() != b"last":
            pass


async def test_after_a_reconnect_replies_arrive(rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.port)

    hub = new_hub()
    async with (
        opened(hub, url=url(rabbitmq, way.port)) as ctx,
        clients(rabbitmq, 2) as (stays, goes),
    ):
        await reply(hub, ctx, stays.address, b"1")
        await goes.channel.close()
        await reply(hub, ctx, goes.address)
        way.cut()
        await eventually(lambda: ctx.state.connection.connects == 2, "it is connected again")
        await reply(hub, ctx, stays.address, b"2")
        assert [await stays.next(), await stays.next()] == [b"1", b"2"]
