"""A service whose methods have paths, a server for it, and what calls it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import json
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import pydantic
from starlette.exceptions import HTTPException

from evbus.engine.call.forward import DEADLINE
from evbus.engine.handling.frame import CURRENT
from evbus.engine.service.call import Call
from evbus.engine.service.declare import Service, rest, service, service_spec
from evbus.engine.service.encoding import JSON
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.rest import Header, QueryParam, delete, get, patch, post, put
from evbus.engine.service.rest_caller import RestCaller
from evbus.engine.service.settings import HttpSettings
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.rest import Rest
from evbus.engine.web.server import Server
from evbus.engine.wire.http.pool import Answer, HttpPool, address_of

WAIT = 20.0  # seconds; nothing takes that long unless something is wrong


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Part:
    name: str
    price: Decimal = Decimal("1.10")
    parts: list[Part] = field(default_factory=list)


class Order(pydantic.BaseModel):
    name: str
    amount: int = pydantic.Field(gt=0)


class SoldOut(Exception):
    """What the interface declares, with a status."""


@service()
@rest("/api", errors={SoldOut: 409, KeyError: 404})
class Shop(Service):
    @get("/hello/{name}")
    @abstractmethod
    async def hello(self, name: str) -> str: ...

    @get("/hello/all")
    @abstractmethod
    async def all(self) -> str: ...

    @get("/plain")
    @abstractmethod
    def plain(self, number: int) -> int: ...

    @get("/find")
    @abstractmethod
    async def find(
        self,
        text: Annotated[str, QueryParam("q")],
        tags: list[str],
        since: dt.datetime | None = None,
        colours: frozenset[Colour] = frozenset(),
        *,
        exact: bool = False,
    ) -> list[Any]: ...

    @post("/parts")
    @abstractmethod
    async def add(self, part: Part, twice: bool = False) -> Part: ...

    @put("/orders/{number}")
    @abstractmethod
    async def order(self, number: int, order: Order) -> Order: ...

    @patch("/orders/{number}")
    @abstractmethod
    async def change(self, number: int, changes: dict[str, Any] | None = None) -> Any: ...

    @delete("/orders/{number}")
    @abstractmethod
    async def remove(self, number: int, x_why: Annotated[str, Header] = "") -> None: ...

    @get("/fail/{how}")
    @abstractmethod
    async def fail(self, how: str) -> None: ...

    @get("/headers")
    @abstractmethod
    async def headers(self) -> dict[str, str]: ...

    @get("/wait/{name}")
    @abstractmethod
    async def wait(self, name: str) -> None: ...

    @get("/large")
    @abstractmethod
    async def large(self, size: int) -> str: ...

    @get("/strange")
    @abstractmethod
    async def strange(self) -> Any: ...

    @abstractmethod
    async def without_path(self) -> None: ...


FAILURES: dict[str, Callable[[], Exception]] = {
    "sold out": lambda: SoldOut("nut", 3),
    "key": lambda: KeyError("nut"),
    "value": lambda: ValueError("no good"),
    "http": lambda: HTTPException(418, "a teapot"),
}


class ShopImpl(Shop):
    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.gate = asyncio.Event()
        self.why: str | None = None

    async def hello(self, name: str) -> str:
        return f"hello {name}"

    async def all(self) -> str:
        return "hello all"

    def plain(self, number: int) -> int:
        return number + 1

    async def find(
        self,
        text: str,
        tags: list[str],
        since: dt.datetime | None = None,
        colours: frozenset[Colour] = frozenset(),
        *,
        exact: bool = False,
    ) -> list[Any]:
        return [text, tags, since, sorted(one.value for one in colours), exact]

    async def add(self, part: Part, twice: bool = False) -> Part:
        return Part(part.name, part.price * (2 if twice else 1), part.parts)

    async def order(self, number: int, order: Order) -> Order:
        return Order(name=order.name, amount=order.amount + number)

    async def change(self, number: int, changes: dict[str, Any] | None = None) -> Any:
        return [number, changes]

    async def remove(self, number: int, x_why: str = "") -> None:
        self.why = x_why

    async def fail(self, how: str) -> None:
        problem = FAILURES[how]()
        raise problem

    async def headers(self) -> dict[str, str]:
        frame = CURRENT.get()
        assert frame is not None
        assert frame.envelope is not None
        return dict(frame.envelope.headers)

    async def wait(self, name: str) -> None:
        self.begun.set()
        try:
            await self.gate.wait()
        finally:
            self.ended.set()

    async def large(self, size: int) -> str:
        return "x" * size

    async def strange(self) -> Any:
        return object()

    async def without_path(self) -> None: ...


class Shopping(NamedTuple):
    """A server with the shop."""

    url: str
    shop: ShopImpl


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncGenerator[Server, None]:
    """Serve an ASGI application."""
    server = await Server.start(app, "127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.stop(WAIT)


@contextlib.asynccontextmanager
async def shopping(
    *, max_body: int = 1024 * 1024, concurrency: int = 100, mount: Any = None
) -> AsyncGenerator[Shopping, None]:
    shop, hosted = ShopImpl(), Hosted(lambda: None)
    hosted.add("store", service_spec(Shop), shop)
    dispatch = Dispatch(hosted, [JSON], max_body=max_body, concurrency=concurrency)
    web = WebApp(dispatch, Rest(hosted, dispatch.load, max_body=max_body))
    if mount is not None:
        web.mount("/", mount)
    async with serving(web) as server:
        yield Shopping(server.url, shop)
    await hosted.close(WAIT)


def call_of(
    interface: type, name: str, *args: Any, seconds: float = WAIT, headers: Any = None, **kwargs: Any
) -> Call:
    spec = service_spec(interface).methods[name]
    positional, by_name = spec.arguments(args, kwargs)
    deadline = {DEADLINE: f"{time.time() + seconds:.3f}"}
    return Call("store", "shop", spec, positional, by_name, seconds, {**deadline, **(headers or {})})


@contextlib.asynccontextmanager
async def resting(**settings: Any) -> AsyncGenerator[RestCaller, None]:
    caller = RestCaller("rest", HttpSettings(**settings))
    try:
        yield caller
    finally:
        await caller.close()


async def called(url: str, name: str, *args: Any, interface: type = Shop, **kwargs: Any) -> Any:
    """Call a method by a caller of its own."""
    async with resting() as caller:
        return await caller.invoke(call_of(interface, name, *args, **kwargs), url)


async def sent(
    url: str, line: str, body: bytes = b"", content_type: str = "", lines: str = ""
) -> tuple[Answer, Any]:
    """Send a request, ``GET /path``, by a pool of its own; return the answer and the JSON in it."""
    kind = f"content-type: {content_type}\r\n" if content_type else ""
    head = f"{line} HTTP/1.1\r\nhost: localhost\r\n{kind}{lines}".encode()
    pool = HttpPool(connections=1, connect_timeout=WAIT, max_answer=10_000_000)
    try:
        answer = await pool.request(address_of(url), head, body)
    finally:
        await pool.close()
    return answer, json.loads(answer.body) if answer.body else None
