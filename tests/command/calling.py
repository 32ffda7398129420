"""An application whose listener, handler and component call services, as files in a folder."""

from __future__ import annotations

from tests.command.kit import Shell

__all__ = ["OPTIONS", "open_mall"]

#: The options by which the commands find it.
OPTIONS = ("--plugin-dirs", "plugins", "--interfaces", "mall")

INTERFACES = """
from dataclasses import dataclass
from evbus.api import Component, Service, component, event, service

@event()
@dataclass
class OrderPlaced:
    order_id: str

@service()
class Shop(Service):
    async def order(self, name: str, count: int = 1) -> str: ...

@service()
class Till(Service):
    async def pay(self, amount: int) -> None: ...

@service()
class Bank(Service):
    async def book(self, amount: int) -> None: ...

@service()
class Idle(Service):
    async def rest(self) -> None: ...

@component(services=[Shop, Till])
class Mall(Component): ...
"""
COMPONENTS = """
from __future__ import annotations
from evbus.api import AbstractComponent, implementation
from mall import Bank, Mall, Shop, Till

@implementation()
class MallImpl(AbstractComponent, Mall): ...

@implementation()
class ShopImpl(Shop):
    def __init__(self, till: Till, bank: Bank) -> None: ...
    async def order(self, name, count=1): ...

@implementation()
class TillImpl(Till):
    async def pay(self, amount): ...
"""
LISTENER = """
from evbus.api import event_listener
from mall import OrderPlaced, Till

@event_listener(OrderPlaced)
async def on(event, till: Till): ...
"""
HANDLER = """
from evbus.api import command
from mall import Shop

class Restock: ...

@command(Restock)
async def restock(message: Restock, shop: Shop): ...
"""


def open_mall(shell: Shell) -> None:
    """Write the files of the application."""
    shell.file("mall.py", INTERFACES)
    shell.file("plugins/component/mall_here.py", COMPONENTS)
    shell.file("plugins/listener/booking.py", LISTENER)
    shell.file("plugins/handler/storage.py", HANDLER)
