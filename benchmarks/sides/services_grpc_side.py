"""The side of grpc.aio in the benchmark of services: it serves a port, or calls an address.

Messages are plain texts, as their encoding is not what is compared.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import service_common


def packed(text: str | bytes) -> bytes:
    """Return a text as it travels; the server side of grpc has encoded it already."""
    return text.encode() if isinstance(text, str) else text


def written(number: int) -> bytes:
    """Return a number as it travels."""
    return b"%d" % number


async def hello(request: str, context: object) -> str:
    """Return the greeting."""
    return f"hello {request}"


async def count(request: int, context: object) -> AsyncIterator[int]:
    """Yield numbers."""
    for number in range(request):
        yield number


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    handlers = {
        "hello": grpc.unary_unary_rpc_method_handler(hello, bytes.decode, packed),
        "count": grpc.unary_stream_rpc_method_handler(count, int, written),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Greeter", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def call(address: str, case: str, calls: int, in_flight: int) -> None:
    """Measure a case."""
    async with grpc.aio.insecure_channel(address) as channel:
        if case == "stream":
            stub = channel.unary_stream("/Greeter/count", written, int)
            await service_common.measured_stream(lambda: stub(calls), calls)
        else:
            stub = channel.unary_unary("/Greeter/hello", packed, bytes.decode)
            await service_common.measured(lambda: stub("world", timeout=30), calls, in_flight)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(int(rest[0])))
    else:
        url = rest[1].removeprefix("http://")
        asyncio.run(call(url, rest[2], int(rest[3]), int(rest[4])))
