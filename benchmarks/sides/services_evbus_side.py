"""The side of evbus in the benchmark of services: it serves a port, or calls an address."""

from __future__ import annotations

import asyncio
import sys
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import service_common

from evbus.api import Service, get, implementation, service, services


@dataclass
class Node:
    """A tree."""

    name: str
    number: int
    below: list[Node]


@service()
class Greeter(Service):
    """What is called."""

    @get("/hello/{name}")
    @abstractmethod
    async def hello(self, name: str) -> str:
        """Return the greeting."""

    @abstractmethod
    async def grow(self, tree: Node) -> Node:
        """Return another tree."""

    @abstractmethod
    def plain(self, name: str) -> str:
        """Return the greeting, without await."""

    @abstractmethod
    def count(self, to: int) -> AsyncIterator[int]:
        """Yield numbers."""


@implementation()
class GreeterImpl(Greeter):
    """Its implementation."""

    async def hello(self, name: str) -> str:
        """Return the greeting."""
        return f"hello {name}"

    async def grow(self, tree: Node) -> Node:
        """Return another tree."""
        return Node(tree.name.upper(), tree.number, tree.below)

    def plain(self, name: str) -> str:
        """Return the greeting, without await."""
        return f"hello {name}"

    async def count(self, to: int) -> AsyncIterator[int]:
        """Yield numbers."""
        for number in range(to):
            yield number


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    async with services([GreeterImpl], port=port):
        await asyncio.Event().wait()


async def serve_over(url: str) -> None:
    """Serve over RabbitMQ until the process is ended."""
    async with services([GreeterImpl], **options("amqp", url)):
        print(service_common.READY, flush=True)
        await asyncio.Event().wait()


def options(channel: str, url: str) -> dict[str, Any]:
    """Return the options of the caller, and over RabbitMQ of the server as well."""
    if channel == "amqp":
        profiles = {"amqp": {"bench": {"url": url}}}
        return {"settings": {"channels": {"amqp": {"profile": "bench"}}}, "profiles": profiles}
    return {"settings": {"registry": {"static": {"greeter": {channel: url}}}}}


async def call(channel: str, url: str, case: str, calls: int, in_flight: int) -> None:
    """Measure a case."""
    async with services(**options(channel, url)) as running:
        greeter = running.proxy(Greeter)
        if case == "stream":
            await service_common.measured_stream(lambda: greeter.count(calls), calls)
        elif case == "tree":
            tree = service_common.tree(Node)
            await service_common.measured(lambda: greeter.grow(tree), calls, in_flight)
        else:
            await service_common.measured(lambda: greeter.hello("world"), calls, in_flight)


async def call_here(channel: str, calls: int) -> None:
    """Measure calls within this process: of the proxy, or of what it stands for."""
    async with services([GreeterImpl]) as running:
        greeter = running.proxy(Greeter) if channel == "local" else GreeterImpl()
        await service_common.measured(lambda: greeter.hello("world"), calls, 1)


def call_plain(channel: str, url: str, calls: int) -> None:
    """Measure calls without an event loop."""
    with services(**options(channel, url)) as running:
        greeter = running.proxy(Greeter)
        service_common.measure_plain(lambda: greeter.plain("world"), calls)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(int(rest[0])))
    elif what == "serve-over":
        asyncio.run(serve_over(rest[0]))
    elif what == "local":
        asyncio.run(call_here(rest[0], int(rest[1])))
    elif rest[2] == "sync":
        call_plain(rest[0], rest[1], int(rest[3]))
    else:
        asyncio.run(call(rest[0], rest[1], rest[2], int(rest[3]), int(rest[4])))
