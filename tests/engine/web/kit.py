"""A service with what calls over HTTP meet, a server for it, and callers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from decimal import Decimal
from typing import Any

from evbus.engine.call.forward import DEADLINE
from evbus.engine.service.call import Call
from evbus.engine.service.declare import Service, method, service, service_spec
from evbus.engine.service.encoding import JSON, MSGPACK, Encoding
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.http import HttpCaller
from evbus.engine.service.settings import HttpSettings
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.server import Server
from evbus.engine.wire.http.pool import HttpPool, address_of

ENCODINGS = (JSON, MSGPACK)
WAIT = 20.0  # seconds; nothing takes that long unless something is wrong


@dataclasses.dataclass
class Node:
    """A tree."""

    name: str
    price: Decimal
    children: list[Node]


class SoldOut(Exception):
    """What the interface declares."""


@service(raises=[SoldOut])
class Shop(Service):
    """What is called."""

    @abstractmethod
    async def hello(self, name: str) -> str: ...
    @abstractmethod
    async def tree(self, node: Node) -> Node: ...
    @abstractmethod
    async def add(self, one: int, two: int = 2, *, three: int = 3) -> int: ...
    @abstractmethod
    async def fail(self, how: str) -> None: ...
    @abstractmethod
    def plain(self, name: str) -> str: ...
    @abstractmethod
    async def wait(self, name: str) -> None: ...
    @abstractmethod
    async def large(self, size: int) -> str: ...
    @abstractmethod
    async def strange(self) -> Any: ...
    @abstractmethod
    def count(self, to: int) -> AsyncIterator[int]: ...
    @abstractmethod
    def ticks(self, name: str) -> AsyncIterator[int]: ...
    @abstractmethod
    async def total(self, name: str, numbers: AsyncIterator[int]) -> int: ...
    @abstractmethod
    def texts(self, count: int, size: int) -> AsyncIterator[str]: ...
    @abstractmethod
    async def length(self, name: str, texts: AsyncIterator[str]) -> int: ...
    @abstractmethod
    def echo(self, nodes: AsyncIterator[Node]) -> AsyncIterator[Node]: ...
    @method(idempotent=True)
    @abstractmethod
    async def headers(self) -> dict[str, str]: ...


class ShopImpl(Shop):
    """Its implementation, which notes what happens to it."""

    def __init__(self) -> None:
        self.begun: dict[str, asyncio.Event] = {}
        self.ended: dict[str, asyncio.Event] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.calls = 0
        self.made = 0

    def event(self, of: dict[str, asyncio.Event], name: str) -> asyncio.Event:
        return of.setdefault(name, asyncio.Event())

    async def hello(self, name: str) -> str:
        self.calls += 1
        return f"hello {name}"

    async def tree(self, node: Node) -> Node:
        return Node(node.name.upper(), node.price * 2, [await self.tree(one) for one in node.children])

    async def add(self, one: int, two: int = 2, *, three: int = 3) -> int:
        return one * 100 + two * 10 + three

    async def fail(self, how: str) -> None:
        raise SoldOut(how, 3) if how == "sold out" else ValueError(how)

    def plain(self, name: str) -> str:
        return f"plain {name}"

    async def wait(self, name: str) -> None:
        self.event(self.begun, name).set()
        try:
            await self.event(self.gates, name).wait()
        finally:
            self.event(self.ended, name).set()

    async def large(self, size: int) -> str:
        return "x" * size

    async def strange(self) -> Any:
        return object()

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(abs(to)):
            self.made = number + 1
            yield number
        if to < 0:
            raise SoldOut("no more", -to)

    async def ticks(self, name: str) -> AsyncIterator[int]:
        self.event(self.begun, name).set()
        try:
            for number in range(1_000_000):
                yield number
                if number == 2:
                    await self.event(self.gates, name).wait()
        finally:
            self.event(self.ended, name).set()

    async def total(self, name: str, numbers: AsyncIterator[int]) -> int:
        total = 0
        try:
            async for number in numbers:
                total += number
                self.made += 1
                self.event(self.begun, name).set()
                if name == "first":
                    break
        finally:
            self.event(self.ended, name).set()
        return total

    async def texts(self, count: int, size: int) -> AsyncIterator[str]:
        if count < 0:
            raise ValueError("count")
        for number in range(count):
            self.made = number + 1
            yield "x" * size

    async def length(self, name: str, texts: AsyncIterator[str]) -> int:
        length = 0
        try:
            async for text in texts:
                length += len(text)
                self.event(self.begun, name).set()
                await self.event(self.gates, name).wait()
        finally:
            self.event(self.ended, name).set()
        return length

    async def echo(self, nodes: AsyncIterator[Node]) -> AsyncIterator[Node]:
        try:
            async for node in nodes:
                self.event(self.begun, "echo").set()
                yield await self.tree(node)
        finally:
            self.event(self.ended, "echo").set()

    async def headers(self) -> dict[str, str]:
        from evbus.engine.handling.frame import CURRENT

        frame = CURRENT.get()
        assert frame is not None
        assert frame.envelope is not None
        return dict(frame.envelope.headers)


class Running:
    """A server with the shop, and what calls it."""

    def __init__(self, server: Server, dispatch: Dispatch, shop: ShopImpl) -> None:
        self.server = server
        self.dispatch = dispatch
        self.shop = shop

    @property
    def url(self) -> str:
        return self.server.url


@contextlib.asynccontextmanager
async def running(
    *, max_body: int = 1024 * 1024, concurrency: int = 100, app: Any = None
) -> AsyncGenerator[Running, None]:
    shop = ShopImpl()
    hosted = Hosted(lambda: None)
    hosted.add("store", service_spec(Shop), shop)
    dispatch = Dispatch(hosted, ENCODINGS, max_body=max_body, concurrency=concurrency)
    web = WebApp(dispatch)
    if app is not None:
        app(web)
    server = await Server.start(web, "127.0.0.1", 0)
    try:
        yield Running(server, dispatch, shop)
    finally:
        await server.stop(WAIT)
        await hosted.close(WAIT)


def call_of(name: str, *args: Any, seconds: float = WAIT, headers: Any = None, **kwargs: Any) -> Call:
    spec = service_spec(Shop).methods[name]
    positional, by_name = spec.arguments(args, kwargs)
    headers = {DEADLINE: f"{time.time() + seconds:.3f}", **(headers or {})}
    return Call("store", "shop", spec, positional, by_name, seconds, headers)


@contextlib.asynccontextmanager
async def calling(encoding: Encoding = MSGPACK, **settings: Any) -> AsyncGenerator[HttpCaller, None]:
    name = "dispatch-json" if encoding is JSON else "dispatch-msgpack"
    caller = HttpCaller(name, encoding, HttpSettings(**settings))
    try:
        yield caller
    finally:
        await caller.close()


async def post(url: str, body: bytes, content_type: str = "application/json", **headers: str) -> Any:
    """Send a request by a pool of its own; return the answer."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    kind = f"content-type: {content_type}\r\n" if content_type else ""
    head = f"POST /invoke HTTP/1.1\r\nhost: localhost\r\n{kind}{lines}".encode()
    pool = HttpPool(connections=1, connect_timeout=WAIT, max_answer=10_000_000)
    try:
        return await pool.request(address_of(url), head, body)
    finally:
        await pool.close()
