"""What type checkers see of services."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, assert_type

from evbus.api import (
    AbstractComponent,
    Component,
    Service,
    ServicesHandle,
    component,
    implementation,
    method,
    service,
    services,
)


@dataclass
class Item:
    name: str


class OutOfStock(Exception):
    pass


@service()
class Shop(Service):
    @abstractmethod
    async def order(self, name: str, count: int = 1, *, note: str = "") -> Item: ...

    @method(timeout=3, idempotent=True, raises=[OutOfStock])
    @abstractmethod
    async def find(self, name: str) -> Item | None: ...

    @abstractmethod
    def price(self, name: str) -> float: ...

    @abstractmethod
    def every(self) -> AsyncIterator[Item]: ...


@component(services=[Shop])
class Store(Component):
    pass


@implementation()
class StoreImpl(AbstractComponent, Store):
    pass


@implementation()
class ShopImpl(Shop):
    async def order(self, name: str, count: int = 1, *, note: str = "") -> Item:
        return Item(name)

    async def find(self, name: str) -> Item | None:
        return None

    def price(self, name: str) -> float:
        return 1.0

    async def every(self) -> AsyncIterator[Item]:
        yield Item("x")


async def right(running: ServicesHandle, hub: Any) -> None:
    shop = running.proxy(Shop)
    assert_type(shop, Shop)
    assert_type(await shop.order("pen", 2, note="x"), Item)
    assert_type(await shop.find("pen"), Item | None)
    assert_type(shop.price("pen"), float)
    async for item in shop.every():
        assert_type(item, Item)
    with running.within(2.0):
        await running.proxy(Shop, channel="dispatch-msgpack").find("pen")
    assert_type(running.port, int | None)
    other: Shop = hub.service.init.get(Shop)
    await other.find("pen")


def right_without_a_loop() -> None:
    with services([ShopImpl], settings={"registry": "local"}, service_timeout=5) as running:
        assert_type(running.run(running.proxy(Shop).find("pen")), Item | None)


async def wrong(shop: Shop) -> None:
    await shop.order(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shop.order("pen", nte="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await shop.fnd("pen")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    text: str = shop.price("pen")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del text


async def main() -> None:
    async with services([StoreImpl, ShopImpl], port=0) as running:
        assert_type(running, ServicesHandle)
        await right(running, running.hub)
