"""The side of aspyx-service: serves a port, calls an address, or checks what it answers."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from abc import abstractmethod
from dataclasses import dataclass, make_dataclass

import service_common
from aspyx.di import Environment, create, module
from aspyx_service import (
    AbstractComponent,
    ChannelAddress,
    Component,
    ComponentRegistry,
    FastAPIServer,
    Service,
    ServiceManager,
    ServiceModule,
    SessionManager,
    component,
    get,
    implementation,
    rest,
    service,
)
from aspyx_service.service import LocalComponentRegistry
from fastapi import FastAPI


@dataclass
class Item:
    """What is ordered."""

    name: str
    count: int
    price: float


# A tree of five levels. A class that holds itself cannot be sent: its nodes reach msgpack as they are.
LEVELS: list[type] = []
for level in range(1, 6):
    below = list[LEVELS[-1]] if LEVELS else list  # type: ignore[misc]
    LEVELS.append(make_dataclass(f"Node{level}", [("name", str), ("number", int), ("below", below)]))
Node = LEVELS[-1]


@rest("")
@service(name="greeter")
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
    async def order(self, item: Item) -> Item:
        """Return another item."""

    @abstractmethod
    async def fail(self, how: str) -> str:
        """Raise something."""


@service(name="plain-greeter")
class PlainGreeter(Service):
    """What is called without await."""

    @abstractmethod
    def hello(self, name: str) -> str:
        """Return the greeting."""


@component(name="greeting", services=[Greeter, PlainGreeter])
class Greeting(Component):
    """Both of them."""


CHANNELS = ("dispatch-json", "dispatch-msgpack")


@module(imports=[ServiceModule])
class Client:
    """What a process needs that calls others."""

    @create()
    def storage(self) -> SessionManager.Storage:
        """Return where sessions are kept, which it asks for."""
        return SessionManager.InMemoryStorage(max_size=10, ttl=60)

    @create()
    def registry(self) -> ComponentRegistry:
        """Return the registry of this process."""
        return LocalComponentRegistry()


def serve(port: int) -> None:
    @implementation()
    class GreetingImpl(AbstractComponent, Greeting):
        def get_addresses(self, port: int) -> list[ChannelAddress]:
            return [ChannelAddress(name, f"http://127.0.0.1:{port}") for name in CHANNELS]

        def startup(self) -> None: ...

        def shutdown(self) -> None: ...

    @implementation()
    class GreeterImpl(Greeter):
        async def hello(self, name: str) -> str:
            return f"hello {name}"

        async def grow(self, tree: Node) -> Node:
            return Node(tree.name.upper(), tree.number, tree.below)

        async def order(self, item: Item) -> Item:
            return Item(item.name.upper(), item.count + 1, item.price)

        async def fail(self, how: str) -> str:
            raise ValueError(how)

    @implementation()
    class PlainGreeterImpl(PlainGreeter):
        def hello(self, name: str) -> str:
            return f"hello {name}"

    @module(imports=[Client])
    class Server:
        @create()
        def app(self) -> FastAPI:
            return FastAPI()

        @create()
        def server(self, app: FastAPI, manager: ServiceManager, registry: ComponentRegistry) -> FastAPIServer:
            return FastAPIServer(app, manager, registry)

    FastAPIServer.boot(Server, host="127.0.0.1", port=port)
    threading.Event().wait()


def proxy_of(interface: type, channel: str, url: str) -> object:
    environment = Environment(Client)
    registry = environment.get(ComponentRegistry)
    descriptor = ServiceManager.descriptors_by_name["greeting"]
    registry.register(descriptor, [ChannelAddress(channel, url)])
    return environment.get(ServiceManager).get_service(interface, preferred_channel=channel)


def check(channel: str, url: str) -> None:
    """Call each method once, and print what came."""
    found = {}
    greeter, plain = proxy_of(Greeter, channel, url), proxy_of(PlainGreeter, channel, url)

    async def main() -> None:
        found["hello"] = await greeter.hello("world")
        item = await greeter.order(Item("pen", 1, 0.5))
        found["order"] = [type(item).__name__, item.name, item.count, item.price]
        try:
            await greeter.fail("on purpose")
        except Exception as exc:
            found["fail"] = [type(exc).__name__, str(exc)]
        found["again"] = await greeter.hello("again")

    asyncio.run(main())
    found["plain"] = plain.hello("plain")
    print(json.dumps(found))


def call(channel: str, url: str, case: str, calls: int, in_flight: int) -> None:
    if case == "sync":
        plain = proxy_of(PlainGreeter, channel, url)
        service_common.measure_plain(lambda: plain.hello("world"), calls)
        return
    greeter = proxy_of(Greeter, channel, url)
    if case == "tree":
        tree = service_common.tree(lambda name, number, below: LEVELS[number - 1](name, number, below))
        service_common.measure(lambda: greeter.grow(tree), calls, in_flight)
        return
    service_common.measure(lambda: greeter.hello("world"), calls, in_flight)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        serve(int(rest[0]))
    elif what == "check":
        check(*rest)
    else:
        call(rest[0], rest[1], rest[2], int(rest[3]), int(rest[4]))
