"""The side of aspyx-service with its registry for Consul: serves a port, or calls and prints what came.

Its registry writes down the address of this machine in the network, which here is that of loopback. Its
annotations are no strings: aspyx-service looks at them as they are.
"""

import asyncio
import json
import sys
import threading
import time
from abc import abstractmethod
from dataclasses import dataclass

import consul
from aspyx.di import Environment, create, module
from aspyx_service import (
    AbstractComponent,
    ChannelAddress,
    Component,
    ComponentRegistry,
    ConsulComponentRegistry,
    FastAPIServer,
    HealthCheckManager,
    Service,
    ServiceManager,
    ServiceModule,
    SessionManager,
    component,
    get,
    health,
    implementation,
    rest,
    service,
)
from fastapi import FastAPI

HOST = "127.0.0.1"
CHANNELS = ("dispatch-json", "dispatch-msgpack", "rest")
WAIT = 30.0  # seconds
# Both of this process: that of its server, and that of the agent.
PORT, AGENT = (int(one) for one in sys.argv[2:4])


@dataclass
class Item:
    name: str
    count: int


@service(name="greeter")
@rest("/greeter")
class Greeter(Service):
    @get("/hello/{name}")
    @abstractmethod
    async def hello(self, name: str) -> str: ...
    @get("/who/{name}")
    @abstractmethod
    async def who(self, name: str, times: int = 1) -> str: ...


@component(name="greeting", services=[Greeter])
class Greeting(Component): ...


@module(imports=[ServiceModule])
class Client:
    @create()
    def storage(self) -> SessionManager.Storage:
        return SessionManager.InMemoryStorage(max_size=10, ttl=60)

    @create()
    def registry(self) -> ComponentRegistry:
        registry = ConsulComponentRegistry(port=PORT, consul=consul.Consul(host=HOST, port=AGENT))
        registry.ip = HOST
        registry.set_healthcheck_interval("1s")
        registry.set_watchdog_interval(0.2)
        return registry


def serve() -> None:
    @implementation()
    @health("/greeting/health")
    class GreetingImpl(AbstractComponent, Greeting):
        def get_addresses(self, port: int) -> list[ChannelAddress]:
            return [ChannelAddress(name, f"http://{HOST}:{port}") for name in CHANNELS]

        def startup(self) -> None: ...

        def shutdown(self) -> None: ...

        async def get_health(self) -> HealthCheckManager.Health:
            return HealthCheckManager.Health()

    @implementation()
    class GreeterImpl(Greeter):
        async def hello(self, name: str) -> str:
            return f"hello {name}"

        async def who(self, name: str, times: int = 1) -> str:
            return f"theirs {name * times}"

    @module(imports=[Client])
    class Server:
        @create()
        def app(self) -> FastAPI:
            return FastAPI()

        @create()
        def server(self, app: FastAPI, manager: ServiceManager, registry: ComponentRegistry) -> FastAPIServer:
            return FastAPIServer(app, manager, registry)

    FastAPIServer.boot(Server, host=HOST, port=PORT)
    threading.Event().wait()


def check(channel: str) -> None:
    """Print what calls over a channel bring, and the addresses that the registry knows."""
    environment = Environment(Client)
    registry = environment.get(ComponentRegistry)
    manager = environment.get(ServiceManager)
    end = time.monotonic() + WAIT
    while not registry.get_addresses(ServiceManager.descriptors_by_name["greeting"]):
        if time.monotonic() > end:
            sys.exit("it finds no address")
        time.sleep(0.1)
    greeter = manager.get_service(Greeter, preferred_channel=channel)

    async def main() -> list[str]:
        return [await greeter.hello("world"), *[await greeter.who("a", 1) for _ in range(8)]]

    known = registry.get_addresses(ServiceManager.descriptors_by_name["greeting"])
    urls = sorted({url for one in known if one.channel == channel for url in one.urls})
    sys.stdout.write(json.dumps({"said": asyncio.run(main()), "urls": urls}) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        check(sys.argv[4])
