"""aio-pika: a plain connection, publisher confirms, a callback as consumer.

``connect`` and ``Queue.consume`` cost less than ``connect_robust`` and the iterator of the queue.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
from common import IN_FLIGHT, PREFETCH, Clock, keep_in_flight, main, payload


async def publish(count: int, url: str, queue: str, *, persistent: bool, window: int) -> dict[str, float]:
    mode = aio_pika.DeliveryMode.PERSISTENT if persistent else aio_pika.DeliveryMode.NOT_PERSISTENT
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = channel.default_exchange

        async def send(number: int) -> None:
            message = aio_pika.Message(payload(number), content_type="application/json", delivery_mode=mode)
            await exchange.publish(message, routing_key=queue)

        clock = Clock()
        await keep_in_flight(count, send, window)
        return clock.result(count)


async def consume(count: int, url: str, queue: str, *, every: int) -> dict[str, float]:
    """Consume with one acknowledgement for ``every`` messages."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        source = await channel.get_queue(queue, ensure=False)
        done = asyncio.Event()
        seen = 0

        async def handle(message: Any) -> None:
            nonlocal seen
            seen += 1
            if seen % every == 0 or seen == count:
                await message.ack(multiple=every > 1)
            if seen == count:
                done.set()

        clock = Clock()
        await source.consume(handle)
        await done.wait()
        return clock.result(count)


if __name__ == "__main__":
    main(
        {
            "publish-persistent": lambda n, u, q: publish(n, u, q, persistent=True, window=IN_FLIGHT),
            "publish-transient": lambda n, u, q: publish(n, u, q, persistent=False, window=IN_FLIGHT),
            "publish-one": lambda n, u, q: publish(n, u, q, persistent=True, window=1),
            "consume": lambda n, u, q: consume(n, u, q, every=1),
            "consume-multiple": lambda n, u, q: consume(n, u, q, every=100),
        }
    )
