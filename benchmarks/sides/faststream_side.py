"""FastStream: logging off, and without the injection of dependencies (``apply_types=False``)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from common import PREFETCH, WARM_UP, Clock, at_rate, body, keep_in_flight, main, percentiles
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue


def new_broker(url: str) -> RabbitBroker:
    return RabbitBroker(url, logger=None, apply_types=False, default_channel=Channel(prefetch_count=PREFETCH))


async def raw(message: RabbitMessage) -> bytes:
    """Hand the body over as it is: a decoder, where nobody else decodes."""
    return message.body


async def publish(count: int, url: str, queue: str, *, persistent: bool) -> dict[str, float]:
    async with new_broker(url) as broker:

        async def send(number: int) -> None:
            await broker.publish(body(number), queue, persist=persistent)

        clock = Clock()
        await keep_in_flight(count, send)
        return clock.result(count)


async def consume(count: int, url: str, queue: str) -> dict[str, float]:
    broker = new_broker(url)
    done = asyncio.Event()
    seen = 0

    @broker.subscriber(RabbitQueue(queue, durable=True), ack_policy=AckPolicy.REJECT_ON_ERROR, decoder=raw)
    async def handle(_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    async with broker:
        clock = Clock()
        await broker.start()
        await done.wait()
        return clock.result(count)


async def round_trip(count: int, url: str, queue: str) -> dict[str, float]:
    """Publish and handle in the same process, at the same time."""
    broker = new_broker(url)
    done = asyncio.Event()
    seen = 0

    @broker.subscriber(RabbitQueue(queue, durable=True), ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def handle(event: Any) -> None:
        nonlocal seen
        seen += event["id"] > 0
        if seen == count:
            done.set()

    async def send(number: int) -> None:
        await broker.publish(body(number), queue, persist=True)

    async with broker:
        await broker.start()
        clock = Clock()
        await asyncio.gather(keep_in_flight(count, send), done.wait())
        return clock.result(count)


async def latency(count: int, url: str, queue: str) -> dict[str, float]:
    """Milliseconds from the call of publish until the handler runs, at RATE events a second."""
    broker = new_broker(url)
    done = asyncio.Event()
    started: dict[int, float] = {}
    taken: list[float] = []

    @broker.subscriber(RabbitQueue(queue, durable=True), ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def handle(event: Any) -> None:
        taken.append(time.perf_counter() - started.pop(event["id"]))
        if len(taken) == count:
            done.set()

    tasks: set[asyncio.Task[Any]] = set()

    def send(number: int) -> None:
        event = body(number)
        started[event["id"]] = time.perf_counter()
        # A task each: waiting for the confirm would hold up the next event.
        task = asyncio.ensure_future(broker.publish(event, queue, persist=True))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with broker:
        await broker.start()
        await at_rate(count, send)
        await done.wait()
        await asyncio.gather(*tasks)
        return percentiles(taken[WARM_UP:])


if __name__ == "__main__":
    main(
        {
            "publish-persistent": lambda n, u, q: publish(n, u, q, persistent=True),
            "publish-transient": lambda n, u, q: publish(n, u, q, persistent=False),
            "consume": consume,
            "end-to-end": round_trip,
            "latency": latency,
        }
    )
