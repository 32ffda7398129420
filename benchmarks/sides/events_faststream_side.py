"""Typed events of FastStream through RabbitMQ: `python SCRIPT CASE N URL QUEUE`, one process for each end.

Logging is off. ``listen`` takes the events as the documentation has it, by the type of the handler's
argument; ``listen-fastest`` leaves that to a decoder, and injection out (``apply_types=False``), which is the
least processor time that FastStream was seen to take.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from common import IN_FLIGHT, PREFETCH, Clock, keep_in_flight, main
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue
from orders import Handled, OrderPlaced, made

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(OrderPlaced).decode


async def decoded(message: RabbitMessage) -> OrderPlaced:
    return decode(message.body)


def new_broker(url: str, **more: Any) -> RabbitBroker:
    return RabbitBroker(url, logger=None, default_channel=Channel(prefetch_count=PREFETCH), **more)


async def send(count: int, url: str, queue: str, *, window: int, fastest: bool = False) -> dict[str, float]:
    """Publish with so many calls in flight; each of them waits for the broker's confirm."""
    async with new_broker(url, apply_types=not fastest) as broker:
        events = made(count)

        async def publish(number: int) -> None:
            await broker.publish(events[number], queue, persist=True)

        async def publish_encoded(number: int) -> None:
            body = encode(events[number])
            await broker.publish(body, queue, persist=True, content_type="application/json")

        started, clock = time.monotonic(), Clock()
        await keep_in_flight(count, publish_encoded if fastest else publish, window)
        return {"started": started, **clock.result(count)}


async def listen(count: int, url: str, queue: str, *, fastest: bool = False) -> dict[str, float]:
    more: dict[str, Any] = {"decoder": decoded} if fastest else {}
    broker = new_broker(url, apply_types=not fastest)
    handled = Handled()
    done = handled.expect(count)
    broker.subscriber(RabbitQueue(queue, durable=True), ack_policy=AckPolicy.REJECT_ON_ERROR, **more)(
        handled.asynchronous()
    )
    async with broker:
        await broker.start()
        clock = Clock()
        await done
        ended, result = time.monotonic(), clock.result(count)
        await asyncio.sleep(0.1)  # time for what comes twice, and for the last acknowledgements
    handled.check(made(count))
    return {"ended": ended, **result}


if __name__ == "__main__":
    main(
        {
            "send": lambda n, u, q: send(n, u, q, window=1),
            "send-100": lambda n, u, q: send(n, u, q, window=100),
            "send-fastest": lambda n, u, q: send(n, u, q, window=IN_FLIGHT, fastest=True),
            "listen": listen,
            "listen-fastest": lambda n, u, q: listen(n, u, q, fastest=True),
        }
    )
