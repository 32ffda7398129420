#!/usr/bin/env bash
# What a handler of grpc.aio returns, yields or writes goes to its response serializer, unless it is a str: that is encoded as
# UTF-8 first, and the serializer is given bytes. So one that writes JSON or MessagePack, or anything else by the type of what
# it is given, fails or writes something else for text alone. A number, None or a dict comes as it is; the synchronous server
# of the same package, and the client of grpc.aio, give text as it is, too.
#
# Seen with CPython 3.11.7 and grpcio 1.85.3, what the serializer was given:
#
#     grpc.server: 'text' and 5
#     grpc.aio.server: b'text' and 5
#     grpc.aio's client: 'text'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install grpcio==1.85.3
"$work/venv/bin/python" - >"$work/found" <<'END'
import asyncio
from concurrent import futures

import grpc
import grpc.aio

given = []

def serializer(value):
    given.append(repr(value))
    return repr(value).encode()

def handlers(**methods):
    made = {name: grpc.unary_unary_rpc_method_handler(method, None, serializer) for name, method in methods.items()}
    return [grpc.method_handlers_generic_handler("Shop", made)]

def synchronous():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(handlers(Text=lambda request, context: "text", Number=lambda request, context: 5))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in ("Text", "Number"):
            channel.unary_unary(f"/Shop/{name}")(b"")
    server.stop(0).wait()

async def text(request, context):
    return "text"

async def number(request, context):
    return 5

async def asynchronous():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(Text=text, Number=number))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in ("Text", "Number"):
            await channel.unary_unary(f"/Shop/{name}")(b"")
        print(f"grpc.aio.server: {' and '.join(given)}")
        given.clear()
        await channel.unary_unary("/Shop/Number", request_serializer=serializer)("text")
        print(f"grpc.aio's client: {given[0]}")
    await server.stop(0)

synchronous()
print(f"grpc.server: {' and '.join(given)}")
given.clear()
asyncio.run(asynchronous())
END
cat "$work/found"
python3 - "$work/found" <<'END'
import sys

with open(sys.argv[1]) as file:
    found = file.read().splitlines()
assert found == ["grpc.server: 'text' and 5", "grpc.aio.server: b'text' and 5", "grpc.aio's client: 'text'"], found
END
