"""evbus-pika 5 on pop-evbus 7, its own bus: a connection for each event, none of which it closes.

It knows no persistent messages, and is measured until the queue holds all events, as it tells nobody.
"""

from __future__ import annotations

import asyncio
import resource
from contextlib import closing
from typing import Any

import pop.hub
from common import Clock, body, main
from wire import Wire


def new_hub() -> Any:
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus")
    hub.pop.config.load(["evbus"], cli="evbus", parse_cli=False)
    return hub


async def publish(count: int, url: str, queue: str) -> dict[str, float]:
    # At the limit of descriptors it loses events: let it have all that there are.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    hub = new_hub()
    await hub.evbus.broker.init()
    profile = {"connection": {"url": url}, "routing_key": queue}
    listener = asyncio.create_task(hub.evbus.init.start({"pika": [{"default": profile}]}))
    while not hub.evbus.STARTED:
        if listener.done():
            listener.result()  # why it did not start
        await asyncio.sleep(0)
    with closing(Wire(url)) as wire:
        clock = Clock()
        for number in range(count):
            await hub.evbus.broker.put(body=body(number), profile="default")
        while wire.depth(queue) < count:  # noqa: ASYNC110 - only the broker knows
            await asyncio.sleep(0.01)
        result = clock.result(count)
    await hub.evbus.init.stop()
    await listener
    return result


if __name__ == "__main__":
    main({"publish-transient": publish})
