"""The program of the README: put an event, and have it printed and kept in a file."""

import asyncio

from evbus.api import bus

PROFILES = {"console": {"*": {}}, "file": {"orders": {"path": "examples/out/orders.jsonl"}}}


async def main():
    async with bus(PROFILES) as events:
        await events.put(routing_key="order.created", body={"id": 1}, profile="orders")


asyncio.run(main())
