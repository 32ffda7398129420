"""A shop as a service, for the commands that start and call it: its files, and a process that serves it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.command.kit import Shell, wait_for

INTERFACES = '''
import datetime as dt
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from evbus.api import Component, Service, component, get, method, rest, service


@dataclass
class Item:
    name: str
    price: float = 1.0
    parts: list["Item"] = field(default_factory=list)


class OutOfStock(Exception):
    pass


@service()
@rest("/shop", errors={OutOfStock: 409})
class Shop(Service):
    """Sells things."""

    @get("/items/{name}")
    @method(raises=[OutOfStock])
    @abstractmethod
    async def order(self, name: str, count: int = 1, *, note: str | None = None) -> Item: ...

    @abstractmethod
    def price(self, name: str) -> float: ...

    @abstractmethod
    async def due(self, day: dt.date, item: Item | None = None) -> str: ...

    @abstractmethod
    async def wait(self) -> None: ...

    @abstractmethod
    def catalogue(self, names: list[str]) -> AsyncIterator[Item]: ...

    @abstractmethod
    async def total(self, items: AsyncIterator[Item]) -> float: ...


@component(services=[Shop])
class Mall(Component):
    """The shop and what belongs to it."""
'''
IMPLEMENTATIONS = """
import asyncio

from evbus.api import AbstractComponent, implementation
from shop.interfaces import Item, Mall, OutOfStock, Shop


@implementation()
class ShopImpl(Shop):
    async def order(self, name, count=1, *, note=None):
        if name == "moon":
            raise OutOfStock("the moon is sold")
        if name == "sun":
            raise ValueError("it is too hot")
        return Item(name if note is None else f"{name} ({note})", 2.5 * count)

    def price(self, name):
        return 2.5

    async def due(self, day, item=None):
        return f"{day:%d.%m.} {item}"

    async def wait(self):
        print("waiting", flush=True)
        await asyncio.Event().wait()

    async def catalogue(self, names):
        for name in names:
            if name == "moon":
                raise OutOfStock("the moon is sold")
            yield Item(name)

    async def total(self, items):
        return sum([item.price async for item in items])


@implementation()
class MallImpl(AbstractComponent, Mall):
    async def startup(self):
        print("the mall opens", flush=True)

    async def shutdown(self):
        print("the mall closes", flush=True)
"""


class Market(NamedTuple):
    """A process that serves the shop. ``said`` is what it has printed on standard error."""

    process: subprocess.Popen[str]
    url: str
    said: str


def build(shell: Shell) -> None:
    """Write the files of the shop: the package ``shop``."""
    shell.file("shop/__init__.py", "")
    shell.file("shop/interfaces.py", INTERFACES)
    shell.file("shop/impl.py", IMPLEMENTATIONS)


@contextmanager
def serving(shell: Shell, *args: object) -> Iterator[Market]:
    """Start ``evbus serve ARGS`` at a port that is free, and wait until it is called."""
    with shell.start("serve", *args, "--port", "0") as process:
        said = wait_for(process.stderr, "evbus: serving at ")
        url = re.search(r"serving at (\S+);", said)
        assert url is not None
        yield Market(process, url[1], said)
