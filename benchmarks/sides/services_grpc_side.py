"""The side of grpc.aio in the benchmark of services: it serves a port, or calls an address.

Messages are plain texts, as their encoding is not what is compared; trees are messages of Protocol Buffers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import service_common
from google.protobuf import descriptor_pb2, message_factory


def _node() -> type[Any]:
    """Return the message of a tree, as protoc would make it of its declaration."""
    file = descriptor_pb2.FileDescriptorProto(name="tree.proto", package="tree", syntax="proto3")
    node, field = file.message_type.add(name="Node"), descriptor_pb2.FieldDescriptorProto
    node.field.add(name="name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    node.field.add(name="number", number=2, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    below = node.field.add(name="below", number=3, type=field.TYPE_MESSAGE, label=field.LABEL_REPEATED)
    below.type_name = ".tree.Node"
    return message_factory.GetMessages([file])["tree.Node"]


Node = _node()


async def grow(request: Any, context: object) -> Any:
    """Return another tree."""
    return Node(name=request.name.upper(), number=request.number, below=request.below)


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
        "grow": grpc.unary_unary_rpc_method_handler(grow, Node.FromString, Node.SerializeToString),
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
        elif case == "tree":
            stub = channel.unary_unary("/Greeter/grow", Node.SerializeToString, Node.FromString)
            tree = service_common.tree(
                lambda name, number, below: Node(name=name, number=number, below=below)
            )
            await service_common.measured(lambda: stub(tree, timeout=30), calls, in_flight)
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
