"""aio-pika in the benchmark of services: its pattern RPC over RabbitMQ, as its documentation has it."""

from __future__ import annotations

import asyncio
import sys

import aio_pika
import service_common
from aio_pika.patterns import RPC


async def hello(*, name: str) -> str:
    """Return the greeting."""
    return f"hello {name}"


async def serve(url: str) -> None:
    """Serve until the process is ended."""
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        rpc = await RPC.create(channel)
        await rpc.register("bench.hello", hello, auto_delete=True)
        print(service_common.READY, flush=True)
        await asyncio.Event().wait()


async def call(url: str, calls: int, in_flight: int) -> None:
    """Measure a case."""
    async with await aio_pika.connect_robust(url) as connection:
        rpc = await RPC.create(await connection.channel())
        await service_common.measured(
            lambda: rpc.call("bench.hello", kwargs={"name": "world"}), calls, in_flight
        )


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve-over":
        asyncio.run(serve(rest[0]))
    else:
        asyncio.run(call(rest[1], int(rest[3]), int(rest[4])))
