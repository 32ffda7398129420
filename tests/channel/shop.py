"""The interface between the processes of the tests of channels."""

from __future__ import annotations

from abc import abstractmethod

from evbus.engine.service.declare import Service, method, service


@service(timeout=30)
class Shop(Service):
    """What is called."""

    @abstractmethod
    async def take(self, number: int) -> int: ...

    @method(idempotent=True)
    @abstractmethod
    async def find(self, number: int) -> int: ...

    @abstractmethod
    async def pack(self, number: int, seconds: float) -> int: ...

    @abstractmethod
    async def pid(self) -> int: ...
