"""The side of aspyx-service for REST: serves a port, or calls an address and prints what came.

Its annotations are no strings: aspyx-service looks at them as they are.
"""

import asyncio
import json
import sys
import threading
from abc import abstractmethod
from dataclasses import dataclass

from aspyx.di import Environment, create, module
from aspyx_service import (
    AbstractComponent,
    Body,
    ChannelAddress,
    Component,
    ComponentRegistry,
    FastAPIServer,
    QueryParam,
    Service,
    ServiceManager,
    ServiceModule,
    SessionManager,
    component,
    delete,
    get,
    implementation,
    post,
    rest,
    service,
)
from aspyx_service.service import LocalComponentRegistry
from fastapi import FastAPI


@dataclass
class Item:
    name: str
    count: int
    price: float


@service(name="library")
@rest("/library")
class Library(Service):
    @get("/hello/{name}")
    @abstractmethod
    async def hello(self, name: str) -> str: ...
    @get("/find")
    @abstractmethod
    async def find(self, text: QueryParam(str), limit: QueryParam(int) = 2) -> list[str]: ...
    @post("/order")
    @abstractmethod
    async def order(self, item: Body(Item)) -> Item: ...
    @delete("/items/{name}")
    @abstractmethod
    async def remove(self, name: str) -> str: ...


@component(name="reading", services=[Library])
class Reading(Component): ...


@module(imports=[ServiceModule])
class Client:
    @create()
    def storage(self) -> SessionManager.Storage:
        return SessionManager.InMemoryStorage(max_size=10, ttl=60)

    @create()
    def registry(self) -> ComponentRegistry:
        return LocalComponentRegistry()


def serve(port: int) -> None:
    @implementation()
    class ReadingImpl(AbstractComponent, Reading):
        def get_addresses(self, port: int) -> list[ChannelAddress]:
            return [ChannelAddress("rest", f"http://127.0.0.1:{port}")]

        def startup(self) -> None: ...

        def shutdown(self) -> None: ...

    @implementation()
    class LibraryImpl(Library):
        async def hello(self, name: str) -> str:
            return f"hello {name}"

        async def find(self, text: QueryParam(str), limit: QueryParam(int) = 2) -> list[str]:
            return [text] * limit

        async def order(self, item: Body(Item)) -> Item:
            return Item(item.name.upper(), item.count + 1, item.price)

        async def remove(self, name: str) -> str:
            return name

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


def check(url: str) -> None:
    environment = Environment(Client)
    registry = environment.get(ComponentRegistry)
    registry.register(ServiceManager.descriptors_by_name["reading"], [ChannelAddress("rest", url)])
    library = environment.get(ServiceManager).get_service(Library, preferred_channel="rest")

    async def main() -> None:
        item = await library.order(Item("pen", 1, 0.5))
        found = {
            "hello": await library.hello("world"),
            "find": await library.find("x", 3),
            "default": await library.find("x"),
            "order": [type(item).__name__, item.name, item.count, item.price],
            "remove": await library.remove("pen"),
        }
        sys.stdout.write(json.dumps(found) + "\n")

    asyncio.run(main())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        check(sys.argv[2])
