"""What the tests of services share: an interface with methods of every kind, and what implements it."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from evbus.engine.service.declare import Service, implementation, method, service, service_spec
from evbus.engine.service.hosted import Hosted, HostedMethod

__all__ = ["Item", "OutOfStock", "Shop", "ShopImpl", "hosted", "method_of"]


@dataclass
class Item:
    name: str
    count: int = 1
    parts: list[Item] = field(default_factory=list)


class OutOfStock(Exception):
    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"{left} of {item} are left")
        self.item, self.left = item, left


@service(raises=[OutOfStock])
class Shop(Service):
    """Sells items."""

    @abstractmethod
    async def order(self, item: Item, count: int = 1, *, note: str = "") -> Item: ...

    @abstractmethod
    def price(self, name: str, /, factor: float = 2.0) -> float: ...

    @method(timeout=3, idempotent=True, hedge_after=0.5)
    @abstractmethod
    async def find(self, name: str) -> Item | None: ...

    @abstractmethod
    async def fail(self, how: str) -> None: ...

    @abstractmethod
    def every(self, count: int) -> AsyncIterator[Item]: ...

    @abstractmethod
    async def total(self, items: AsyncIterator[Item]) -> int: ...

    def _private(self) -> None: ...


@implementation()
class ShopImpl(Shop):
    """Does it, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.ended: list[str] = []

    async def order(self, item: Item, count: int = 1, *, note: str = "") -> Item:
        self.calls.append((item, count, note))
        return Item(item.name + note, count, [item])

    def price(self, name: str, /, factor: float = 2.0) -> float:
        self.calls.append(threading.current_thread().name)
        if name == "stop":
            raise StopIteration
        return len(name) * factor

    async def find(self, name: str) -> Item | None:
        return Item(name) if name else None

    async def fail(self, how: str) -> None:
        if how == "stock":
            raise OutOfStock("pen", 3)
        if how == "value":
            raise ValueError("a bad value")
        if how == "timeout":
            raise TimeoutError("of its own")
        if how == "cancelled":
            raise asyncio.CancelledError
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(how)

    async def every(self, count: int) -> AsyncIterator[Item]:
        try:
            for number in range(count):
                await asyncio.sleep(0)
                yield Item(str(number))
            if count == 0:
                raise OutOfStock("pen", 0)
        finally:
            self.ended.append("every")

    async def total(self, items: AsyncIterator[Item]) -> int:
        return sum([item.count async for item in items])

    def public_but_not_declared(self) -> None: ...


def hosted(implementation: Any = None, around: Any = None, **options: Any) -> Hosted:
    made = Hosted(lambda: around, **options)
    made.add("store", service_spec(Shop), implementation or ShopImpl())
    return made


def method_of(made: Hosted, name: str) -> HostedMethod:
    return made.find(f"store:shop:{name}")
