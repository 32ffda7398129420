"""Events of every kind, listeners that keep what they got, and a bus to send with."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import json
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pydantic

from evbus.engine.handling.events.declare import EventSpec, event, spec_of
from evbus.types import Delivery, Envelope
from tests.evbus.kit import WAIT, go, new_hub, running
from tests.evbus.rig import failure

__all__ = [
    "INTERNAL",
    "SOON",
    "WAIT",
    "Book",
    "Color",
    "Colored",
    "Gate",
    "Got",
    "Leaf",
    "Measured",
    "Named",
    "OrderPlaced",
    "Source",
    "Tree",
    "Valued",
    "dead",
    "failure",
    "go",
    "known",
    "listening",
    "new_hub",
    "send",
    "settled",
]

INTERNAL: dict[str, Any] = {"internal": {"*": {}}}
#: Tries three times, and nearly at once.
SOON = {"attempts": 3, "min": 1e-9, "max": 1e-9}


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@event()
@dataclasses.dataclass(frozen=True)
class OrderPlaced:
    id: str = "A-1"
    total: float = 9.5


@dataclasses.dataclass
class Leaf:
    size: int
    name: str | None = None


@event()
@dataclasses.dataclass
class Tree:
    """Nested, recursive, optional, and one of several."""

    leaf: Leaf
    either: int | str
    left: Tree | None = None
    leaves: list[Leaf] = dataclasses.field(default_factory=list)
    by_name: dict[str, Leaf] = dataclasses.field(default_factory=dict)


@event()
@dataclasses.dataclass
class Valued:
    """Every plain value."""

    color: Color
    at: dt.datetime
    day: dt.date
    lasts: dt.timedelta
    id: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    tags: set[str]
    pair: tuple[int, str]


@event()
class Book(pydantic.BaseModel):
    title: str
    pages: int = 1
    at: dt.datetime | None = None


@event()
class Measured(msgspec.Struct):
    value: float
    unit: str = "m"


@event()
@attrs.define
class Named:
    name: str
    other: list[int] = attrs.Factory(list)


@event()
@dataclasses.dataclass
class Colored:
    """A model within a dataclass."""

    book: Book
    color: Color = Color.RED


def known(cls: Any) -> EventSpec:
    """Return what is declared of an event class."""
    found = spec_of(cls)
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def listening(profiles: Any = None, **options: Any) -> AsyncIterator[Any]:
    """Yield the hub of a started bus; at the end everything is handled."""
    with tempfile.TemporaryDirectory() as folder:
        hub = new_hub(**{"dead_store": f"{folder}/dead.jsonl", **options})
        async with running(hub, INTERNAL if profiles is None else profiles):
            yield hub


async def send(hub: Any, *events: Any) -> None:
    """Send events, one after the other."""
    for one in events:
        await hub.event.init.send(one)


async def settled(hub: Any) -> None:
    """Return when all that was sent is handled."""
    assert await hub.event.init.settle(WAIT)


def dead(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a dead store."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Got(list[Any]):
    """A listener that keeps its events, and tells when there are enough."""

    def __init__(self) -> None:
        self._more = asyncio.Event()

    async def on(self, event: Any) -> None:
        self.append(event)
        self._more.set()

    async def wait(self, count: int) -> list[Any]:
        """Return the events once there are ``count``."""
        while len(self) < count:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), WAIT)
        return list(self)


class Gate:
    """A listener that waits in each event until it is let go.

    :ivar inside: the events that are being handled, in the order in which that began.
    :ivar most: how many were inside at once.
    """

    def __init__(self, of: Callable[[Any], Any] = lambda event: event) -> None:
        self.inside: list[Any] = []
        self.done: list[Any] = []
        self.most = 0
        self._of = of
        self._open: dict[Any, asyncio.Event] = {}
        self._more = asyncio.Event()

    async def on(self, event: Any) -> None:
        what = self._of(event)
        self.inside.append(what)
        self.most = max(self.most, len(self.inside))
        self._more.set()
        try:
            await self._open.setdefault(what, asyncio.Event()).wait()
            self.done.append(what)
        finally:
            self.inside.remove(what)

    def release(self, *whats: Any) -> None:
        for what in whats:
            self._open.setdefault(what, asyncio.Event()).set()

    async def entered(self, count: int) -> list[Any]:
        """Return what is inside once it is so many."""
        while len(self.inside) < count:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), WAIT)
        return list(self.inside)


class Source:
    """Makes deliveries; how they were settled is in ``told``, as (tag, accepted, requeue)."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, bool, bool]] = []
        self._more = asyncio.Event()

    def _settle(self, tag: Any, accepted: bool, requeue: bool) -> None:
        self.told.append((tag, accepted, requeue))
        self._more.set()

    def delivery(self, body: Any, tag: Any = None, **headers: str) -> Delivery:
        """Return a delivery of a JSON body; ``evbus_message`` is the header ``evbus-message``."""
        written = {name.replace("_", "-"): value for name, value in headers.items()}
        written.setdefault("content-type", "application/json")
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return Delivery(Envelope("default", "k", raw, written), self._settle, body if tag is None else tag)

    async def settled(self, count: int) -> list[tuple[Any, bool, bool]]:
        """Return how deliveries were settled, once there are so many."""
        while len(self.told) < count:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), WAIT)
        return list(self.told)
