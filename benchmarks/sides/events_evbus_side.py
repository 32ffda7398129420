"""Typed events of evbus through RabbitMQ: `python SCRIPT send|listen N URL QUEUE`, one process for each.

Every event is awaited for itself. In flight are as many as with the peers, and no more is set for speed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from common import IN_FLIGHT, PREFETCH, Clock, main
from evbus_side import delivered
from orders import Handled, OrderPlaced, made

from evbus.api import bus, event


def profiles(url: str, queue: str) -> dict[str, Any]:
    """Return a profile with an exchange, which several listeners need, and which goes with its last queue."""
    exchange = {"name": queue, "type": "topic", "auto_delete": True}
    # A lane to RabbitMQ has two batches in flight.
    return {"amqp": {"default": {"url": url, "exchange": exchange, "delivery": {"batch": IN_FLIGHT // 2}}}}


def names(queue: str) -> tuple[str, str]:
    """Return the names of the event and the listener, whose queue is `<event>::<listener>`."""
    name, _, listener = queue.partition("::")
    return name, listener


async def send(count: int, url: str, queue: str) -> dict[str, float]:
    event(name=names(queue)[0], durable=True)(OrderPlaced)
    async with bus(profiles(url, names(queue)[0])) as running:
        events, send = made(count), running.hub.event.init.send
        started, clock = time.monotonic(), Clock()
        for order in events:
            await send(order)
        await delivered(running, count)
        return {"started": started, **clock.result(count)}


async def listen(count: int, url: str, queue: str) -> dict[str, float]:
    name, listener = names(queue)
    event(name=name, durable=True)(OrderPlaced)
    handled = Handled()
    done = handled.expect(count)
    async with bus(profiles(url, name)) as running:
        running.hub.event.init.subscribe(
            OrderPlaced, handled.asynchronous(), name=listener, prefetch=PREFETCH
        )
        clock = Clock()
        await done
        ended, result = time.monotonic(), clock.result(count)
        await asyncio.sleep(0.1)  # time for what comes twice, and for the last acknowledgements
    handled.check(made(count))
    return {**result, "ended": ended}


if __name__ == "__main__":
    main({"send": send, "listen": listen})
