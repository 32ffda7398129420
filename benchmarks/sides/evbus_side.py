"""evbus, through ``evbus.api.bus``, with as many events in flight as the peers. No more is set for speed.

Sending is measured from the first ``put`` until the lane has delivered everything: until all is confirmed.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from typing import Any

from common import IN_FLIGHT, PREFETCH, WARM_UP, Clock, at_rate, body, main, payload, percentiles

from evbus.api import BusHandle, bus
from evbus.types import CONTENT_TYPE, Delivery, Envelope, SharedHeaders, Subscription

PROFILE = "bench"


def amqp(url: str, queue: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "exchange": "", "routing_key": queue, **more}


def stomp(url: str, queue: str) -> dict[str, Any]:
    return {"url": url, "destination": f"/queue/{queue}", "persistent": True}


async def delivered(events: BusHandle, count: int) -> None:
    """Wait until the only lane has delivered as many as it accepted."""
    while True:
        (lane,) = events.snapshot()["lanes"].values()
        if lane["dead"] or lane["dropped"]:
            raise RuntimeError(f"not everything was delivered: {lane}")
        if lane["accepted"] == lane["delivered"] >= count:
            return
        await asyncio.sleep(0.002)


async def publish(count: int, provider: str, profile: dict[str, Any]) -> dict[str, float]:
    # A lane to RabbitMQ has two batches in flight, others have one.
    batch = IN_FLIGHT // 2 if provider == "amqp" else IN_FLIGHT
    async with bus({provider: {PROFILE: {**profile, "delivery": {"batch": batch}}}}) as events:
        clock = Clock()
        for number in range(count):
            await events.put(body=body(number), profile=PROFILE)
        await delivered(events, count)
        return clock.result(count)


async def publish_one(count: int, url: str, queue: str) -> dict[str, float]:
    """Hand one event after the other to the destination: put returns before an event is confirmed."""
    async with bus({}) as events:
        (connection,) = events.hub.evbus.init.connect({"amqp": {PROFILE: amqp(url, queue, persistent=True)}})
        sender = connection.sender
        await sender.open(10)
        headers = SharedHeaders({CONTENT_TYPE: "application/json"})  # as those of an event that was put
        clock = Clock()
        for number in range(count):
            (problem,) = await sender.send([Envelope(PROFILE, queue, payload(number), headers)])
            if problem is not None:
                raise problem
        result = clock.result(count)
        await sender.close(10)
        return result


def deliveries(hub: Any, url: str, queue: str) -> Any:
    """Return the asynchronous generator of what is in the queue."""
    profiles = {"amqp": {PROFILE: {"url": url, "queue": queue}}}
    return aclosing(hub.evbus.bridge.consume(profiles, PROFILE, Subscription(prefetch=PREFETCH)))


async def consume(count: int, url: str, queue: str) -> dict[str, float]:
    async with bus({}) as events:
        clock = Clock()
        async with deliveries(events.hub, url, queue) as source:
            seen = 0
            async for delivery in source:
                seen += 1
                delivery.ack()
                if seen == count:
                    break
            return clock.result(count)


async def both_ways(url: str, queue: str, handle: Any, send: Any) -> None:
    """Call ``send(put)`` while ``handle(event)`` gets what arrives, until that says it was the last."""
    async with bus({"amqp": {PROFILE: amqp(url, queue, persistent=True)}}) as events:

        async def receive() -> None:
            async with deliveries(events.hub, url, queue) as source:
                delivery: Delivery
                async for delivery in source:
                    last = handle(json.loads(delivery.envelope.body))
                    delivery.ack()
                    if last:
                        return

        await asyncio.wait_for(asyncio.gather(receive(), send(events)), 60)


async def round_trip(count: int, url: str, queue: str) -> dict[str, float]:
    seen = 0
    clock = Clock()

    def handle(event: dict[str, Any]) -> bool:
        nonlocal seen
        seen += event["id"] > 0
        return seen == count

    async def send(events: BusHandle) -> None:
        nonlocal clock
        clock = Clock()
        for number in range(count):
            await events.put(body=body(number), profile=PROFILE)

    await both_ways(url, queue, handle, send)
    return clock.result(count)


async def latency(count: int, url: str, queue: str) -> dict[str, float]:
    """Milliseconds from the call of put until the handler runs, at RATE events a second."""
    started: dict[int, float] = {}
    taken: list[float] = []

    def handle(event: dict[str, Any]) -> bool:
        taken.append(time.perf_counter() - started.pop(event["id"]))
        return len(taken) == count

    async def send(events: BusHandle) -> None:
        def put(number: int) -> None:
            event = body(number)
            started[event["id"]] = time.perf_counter()
            events.put_nowait(body=event, profile=PROFILE)

        await at_rate(count, put)

    await both_ways(url, queue, handle, send)
    return percentiles(taken[WARM_UP:])


if __name__ == "__main__":
    main(
        {
            "publish-persistent": lambda n, u, q: publish(n, "amqp", amqp(u, q, persistent=True)),
            "publish-transient": lambda n, u, q: publish(n, "amqp", amqp(u, q, persistent=False)),
            "publish-one": publish_one,
            "consume": consume,
            "stomp": lambda n, u, q: publish(n, "stomp", stomp(u, q)),
            "end-to-end": round_trip,
            "latency": latency,
        }
    )
