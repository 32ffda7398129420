"""The interface that both processes know, and what implements it in one of them."""

from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

from evbus.api import Service, implementation, method, service


@dataclass
class Item:
    name: str
    price: float


class OutOfStock(Exception):
    pass


@service()
class Shop(Service):
    """Sells things."""

    @method(timeout=5, raises=[OutOfStock])
    @abstractmethod
    async def order(self, name: str, count: int = 1) -> Item: ...

    @abstractmethod
    def catalogue(self) -> AsyncIterator[Item]: ...


@implementation()
class ShopImpl(Shop):
    def __init__(self) -> None:
        self.stock = {"pen": 10, "ink": 3}

    async def order(self, name: str, count: int = 1) -> Item:
        if self.stock.get(name, 0) < count:
            raise OutOfStock(f"{self.stock.get(name, 0)} of {name} are left")
        self.stock[name] -= count
        return Item(name, 1.5 * count)

    async def catalogue(self) -> AsyncIterator[Item]:
        for name in self.stock:
            yield Item(name, 1.5)
