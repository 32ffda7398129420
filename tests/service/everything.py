"""An interface with a method of every kind, and what implements it and keeps what tests look at."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import threading
import uuid
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pydantic

from evbus.api import Body, Service, get, implementation, method, post, rest, service
from evbus.engine.handling.frame import CURRENT
from evbus.errors import AuthorizationError

__all__ = ["Closed", "Everything", "EverythingImpl", "Item", "Model", "Node", "OutOfStock", "Rich", "Strange"]


@dataclass
class Item:
    name: str
    count: int = 1
    parts: list[Item] = field(default_factory=list)


class Node(pydantic.BaseModel):
    value: int
    left: Node | None = None


class Model(pydantic.BaseModel):
    root: Node
    items: list[Item] = []


class Colour(enum.Enum):
    RED = "red"


class Rich(msgspec.Struct):
    """Values of types that JSON has no form for."""

    at: dt.datetime
    price: decimal.Decimal
    number: uuid.UUID
    colour: Colour
    data: bytes
    names: set[str]
    pair: tuple[int, str]
    more: dict[str, list[int | None]]
    big: int = 2**60

    @classmethod
    def one(cls) -> Rich:
        return cls(
            dt.datetime(2030, 1, 2, 3, 4, 5, 600, tzinfo=dt.UTC),
            decimal.Decimal("1.10"),
            uuid.UUID(int=5),
            Colour.RED,
            b"\x00\xff",
            {"a", "b"},
            (1, "x"),
            {"k": [1, None]},
        )


class OutOfStock(Exception):
    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"{left} of {item} are left")
        self.item, self.left = item, left


class Closed(Exception):
    pass


class Strange(Exception):
    """What no interface declares."""


@rest("/everything")
@service("everything", raises=[Closed])
class Everything(Service):
    @post("/echo")
    @abstractmethod
    async def echo(self, item: Item) -> Item: ...

    @post("/model")
    @abstractmethod
    async def model(self, model: Model) -> Model: ...

    @post("/rich")
    @abstractmethod
    async def rich(self, rich: Rich) -> Rich: ...

    @get("/add")
    @abstractmethod
    async def add(self, a: int, b: int = 2, *, c: int = 3) -> int: ...

    @post("/items")
    @abstractmethod
    async def items(self, items: Annotated[dict[str, list[Item]], Body]) -> list[Item]: ...

    @get("/optional")
    @abstractmethod
    async def optional(self, name: str | None = None) -> str | None: ...

    @post("/nothing")
    @abstractmethod
    async def nothing(self) -> None: ...

    @get("/plain/{name}")
    @abstractmethod
    def plain(self, name: str, times: int = 1) -> str: ...

    @post("/fail")
    @method(raises=[OutOfStock])
    @abstractmethod
    async def fail(self, how: str) -> str: ...

    @get("/odd")
    @abstractmethod
    async def odd(self, how: str) -> Item: ...

    @post("/wait")
    @abstractmethod
    async def wait(self, name: str = "") -> str: ...

    @get("/again")
    @method(idempotent=True)
    @abstractmethod
    async def again(self, name: str) -> str: ...

    @get("/quick")
    @method(timeout=1)
    @abstractmethod
    async def quick(self) -> None: ...

    @get("/seen")
    @abstractmethod
    async def seen(self) -> dict[str, str]: ...

    @get("/left")
    @method(idempotent=True)
    @abstractmethod
    async def left(self) -> float: ...

    @abstractmethod
    def count(self, to: int) -> AsyncIterator[int]: ...

    @method(raises=[OutOfStock])
    @abstractmethod
    def told(self, how: str) -> AsyncIterator[Item]: ...

    @abstractmethod
    def odds(self, *, deep: bool) -> AsyncIterator[Item]: ...

    @abstractmethod
    def unstreamed(self) -> AsyncIterator[int]: ...

    @abstractmethod
    async def total(self, items: AsyncIterator[Item], start: int = 0) -> int: ...

    @abstractmethod
    def doubled(self, items: AsyncIterator[int]) -> AsyncIterator[int]: ...


@implementation()
class EverythingImpl(Everything):
    """Does it.

    :ivar begun: the calls of ``wait`` and ``again``, by their names, and ``ended`` those that were ended.
    :ivar gate: opened, ``wait`` returns.
    :ivar threads: those in which ``plain`` ran.
    :ivar yielded: what ``count`` has come to.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.threads: set[str] = set()
        self.yielded = 0
        self.gate = asyncio.Event()

    async def echo(self, item: Item) -> Item:
        assert isinstance(item, Item)
        return item

    async def model(self, model: Model) -> Model:
        assert isinstance(model.root, Node)
        return model

    async def rich(self, rich: Rich) -> Rich:
        assert rich == Rich.one()
        return rich

    async def add(self, a: int, b: int = 2, *, c: int = 3) -> int:
        return a * 100 + b * 10 + c

    async def items(self, items: dict[str, list[Item]]) -> list[Item]:
        return [item for each in items.values() for item in each]

    async def optional(self, name: str | None = None) -> str | None:
        return name

    async def nothing(self) -> None:
        return None

    def plain(self, name: str, times: int = 1) -> str:
        self.threads.add(threading.current_thread().name)
        return name * times

    async def fail(self, how: str) -> str:
        problems: dict[str, Exception] = {
            "stock": OutOfStock("pen", 3),
            "closed": Closed(),
            "strange": Strange("with amqp://joe:geheim@host/"),
            "key": KeyError("id"),
            "unknown": AuthorizationError("who are you"),
            "denied": AuthorizationError("not you", known=True),
        }
        raise problems[how]

    async def odd(self, how: str) -> Item:
        wrong: dict[str, Any] = {
            "text": "x",
            "nothing": None,
            "deep": Item("x", 1, [Item("y", "many")]),  # type: ignore[arg-type]
            "lock": threading.Lock(),
            "deep lock": Item(threading.Lock()),  # type: ignore[arg-type]
            "coroutine": self.echo(Item("x")) if how == "coroutine" else None,
            "fits": {"name": "x", "count": 2},
        }
        return wrong[how]  # type: ignore[no-any-return]

    async def wait(self, name: str = "") -> str:
        self.begun.append(name)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended.append(name)
            raise
        return name

    async def again(self, name: str) -> str:
        return await self.wait(name)

    async def quick(self) -> None:
        await self.wait("quick")

    async def seen(self) -> dict[str, str]:
        frame = CURRENT.get()
        return {} if frame is None or frame.envelope is None else dict(frame.envelope.headers)

    async def left(self) -> float:
        frame = CURRENT.get()
        return 0.0 if frame is None or frame.limit is None else frame.limit.left()

    async def count(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                self.yielded = number + 1
                yield number
        finally:
            self.ended.append("count")

    async def told(self, how: str) -> AsyncIterator[Item]:
        for name in ("a", "b"):
            yield Item(name)
        if how == "wait":
            await self.wait("told")
        await self.fail(how)

    async def odds(self, *, deep: bool) -> AsyncIterator[Item]:
        for name in ("a", "b"):
            yield Item(name)
        yield Item("c", "many") if deep else "c"  # type: ignore[arg-type, misc]

    def unstreamed(self) -> AsyncIterator[int]:
        return [1, 2]  # type: ignore[return-value]

    async def total(self, items: AsyncIterator[Item], start: int = 0) -> int:
        return start + sum([item.count async for item in items])

    async def doubled(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item
