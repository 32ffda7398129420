"""aspyx-service 0.11.6, unmodified, calls services of this package over HTTP, and is called by it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
from abc import abstractmethod
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.service.call import Call
from evbus.engine.service.declare import Service, rest, service, service_spec
from evbus.engine.service.encoding import JSON, MSGPACK
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.http import HttpCaller
from evbus.engine.service.rest import Body, QueryParam, delete, get, post
from evbus.engine.service.rest_caller import RestCaller
from evbus.engine.service.settings import HttpSettings
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.rest import Rest
from evbus.engine.web.server import Server
from evbus.errors import RemoteServiceError, ServiceCommunicationError
from tests.apps.conftest import ROOT, Apps
from tests.servers._ports import free_ports

pytestmark = pytest.mark.apps

WAIT = 60.0  # seconds
ENCODINGS = {"dispatch-json": JSON, "dispatch-msgpack": MSGPACK}
SIDE = ROOT / "benchmarks/sides/aspyx_service_side.py"
REST_SIDE = ROOT / "tests/apps/_aspyx_rest.py"
each_channel = pytest.mark.parametrize("channel", ENCODINGS)


@dataclasses.dataclass
class Item:
    name: str
    count: int
    price: float


@service(name="greeter")
class Greeter(Service):
    @abstractmethod
    async def hello(self, name: str) -> str: ...
    @abstractmethod
    async def order(self, item: Item) -> Item: ...
    @abstractmethod
    async def fail(self, how: str) -> str: ...
    @abstractmethod
    async def absent(self) -> str: ...


@service(name="plain-greeter")
class PlainGreeter(Service):
    @abstractmethod
    def hello(self, name: str) -> str: ...


@service(name="library")
@rest("/library")
class Library(Service):
    """As theirs is, with its markers."""

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


class LibraryImpl(Library):
    async def hello(self, name: str) -> str:
        return f"hello {name}"

    async def find(self, text: str, limit: int = 2) -> list[str]:
        return [text] * limit

    async def order(self, item: Item) -> Item:
        return Item(item.name.upper(), item.count + 1, item.price)

    async def remove(self, name: str) -> str:
        return name


class GreeterImpl(Greeter):
    async def hello(self, name: str) -> str:
        return f"hello {name}"

    async def order(self, item: Item) -> Item:
        return Item(item.name.upper(), item.count + 1, item.price)

    async def fail(self, how: str) -> str:
        raise ValueError(how)

    async def absent(self) -> str:
        return ""


class PlainGreeterImpl(PlainGreeter):
    def hello(self, name: str) -> str:
        return f"hello {name}"


@contextlib.asynccontextmanager
async def ours() -> AsyncGenerator[str, None]:
    """Run a server of this package, and return its address."""
    hosted = Hosted(lambda: None)
    hosted.add("greeting", service_spec(Greeter), GreeterImpl())
    hosted.add("greeting", service_spec(PlainGreeter), PlainGreeterImpl())
    hosted.add("reading", service_spec(Library), LibraryImpl())
    dispatch = Dispatch(hosted, list(ENCODINGS.values()), max_body=100_000, concurrency=100)
    app = WebApp(dispatch, Rest(hosted, dispatch.load, max_body=100_000))
    server = await Server.start(app, "127.0.0.1", 0)
    try:
        yield server.url
    finally:
        await server.stop(WAIT)
        await hosted.close(WAIT)


@contextlib.asynccontextmanager
async def theirs(aspyx: Apps, folder: Path, side: Path = SIDE) -> AsyncGenerator[str, None]:
    """Run their server in a process of its own, and return its address."""
    (port,) = free_ports(1)
    process = _begun([str(aspyx.bin / "python"), str(side), "serve", str(port)], folder)
    try:
        async with asyncio.timeout(WAIT):
            while not await _reached(port):
                assert process.poll() is None, (folder / "log").read_text()
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def _begun(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)


async def _reached(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@each_channel
async def test_its_proxies_call_services_of_this_package(channel: str, aspyx: Apps, tmp_path: Path) -> None:
    async with ours() as url:
        done = await asyncio.to_thread(aspyx.run, "python", SIDE, "check", channel, url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = {"dispatch-json": "server side exception", "dispatch-msgpack": "server-side:"}[channel]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "hello": "hello world",
        "order": ["Item", "PEN", 2, 0.5],
        "fail": ["RemoteServiceException", f"{said} on purpose"],
        "again": "hello again",
        "plain": "hello plain",
    }


def call_of(interface: type, name: str, *args: Any) -> Call:
    spec = service_spec(interface)
    method = spec.methods[name]
    return Call("greeting", spec.name, method, *method.arguments(args, {}), WAIT, {})


@each_channel
async def test_its_services_are_called_by_proxies_of_this_package(
    channel: str, aspyx: Apps, tmp_path: Path
) -> None:
    async with theirs(aspyx, tmp_path) as url, contextlib.AsyncExitStack() as stack:
        caller = HttpCaller(channel, ENCODINGS[channel], HttpSettings())
        stack.push_async_callback(caller.close)
        assert await caller.invoke(call_of(Greeter, "hello", "world"), url) == "hello world"
        assert await caller.invoke(call_of(PlainGreeter, "hello", "world"), url) == "hello world"
        item = await caller.invoke(call_of(Greeter, "order", Item("pen", 1, 0.5)), url)
        assert item == Item("PEN", 2, 0.5)
        with pytest.raises(RemoteServiceError) as failed:
            await caller.invoke(call_of(Greeter, "fail", "on purpose"), url)
        assert failed.value.reason == "on purpose"
        # It answers 500 to what it does not know, and closes.
        with pytest.raises(ServiceCommunicationError, match="the server answered with the HTTP status 500"):
            await caller.invoke(call_of(Greeter, "absent"), url)
        calls = [caller.invoke(call_of(Greeter, "hello", str(number)), url) for number in range(50)]
        assert await asyncio.gather(*calls) == [f"hello {number}" for number in range(50)]


async def test_its_proxies_call_by_rest(aspyx: Apps, tmp_path: Path) -> None:
    async with ours() as url:
        done = await asyncio.to_thread(aspyx.run, "python", REST_SIDE, "check", url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "hello": "hello world",
        "find": ["x", "x", "x"],
        "default": ["x", "x"],
        "order": ["Item", "PEN", 2, 0.5],
        "remove": "pen",
    }


async def test_its_services_are_called_by_rest(aspyx: Apps, tmp_path: Path) -> None:
    async with theirs(aspyx, tmp_path, REST_SIDE) as url, contextlib.AsyncExitStack() as stack:
        caller = RestCaller("rest", HttpSettings())
        stack.push_async_callback(caller.close)
        assert await caller.invoke(call_of(Library, "hello", "a b"), url) == "hello a b"
        assert await caller.invoke(call_of(Library, "find", "x", 3), url) == ["x", "x", "x"]
        assert await caller.invoke(call_of(Library, "find", "x"), url) == ["x", "x"]
        assert await caller.invoke(call_of(Library, "order", Item("pen", 1, 0.5)), url) == Item("PEN", 2, 0.5)
        assert await caller.invoke(call_of(Library, "remove", "pen"), url) == "pen"
        # FastAPI cannot tell an encoded slash from one between two parts.
        with pytest.raises(
            RemoteServiceError, match="the server answered with the HTTP status 404: Not Found"
        ):
            await caller.invoke(call_of(Library, "hello", "a/b"), url)
