"""Typed events over each transport: processes, each with a bus on a hub of its own, and their listeners."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from evbus.api import event
from evbus.engine.cli.replay import records
from evbus.engine.codec.jsonl import Record
from evbus.engine.handling.events.declare import spec_of
from evbus.types import Envelope
from tests.evbus.kit import new_hub, running
from tests.transports.kit import SOON, WAIT, eventually
from tests.transports.table import AMQP1, Place


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    article: UUID
    price: Decimal
    colour: Colour | None = None


def order(name: str, *, durable: bool = False, broadcast: bool = False) -> Any:
    """Return an event class."""

    @event(name=name, durable=durable, broadcast=broadcast)
    @dataclass
    class Order:
        number: int
        text: str = ""
        at: datetime | None = None
        raw: bytes = b""
        lines: list[Line] = field(default_factory=list)

    return Order


async def send(hub: Any, kind: Any, *numbers: int) -> None:
    for number in numbers:
        await hub.event.init.send(kind(number))


class Inbox:
    """A listener that keeps what it gets, and then does ``handle``.

    :ivar got: all of it.
    :ivar gave_up: what it was told that it failed with for good.
    """

    def __init__(
        self,
        wanted: Any,
        handle: Callable[[Any], Awaitable[None]] | None = None,
        *,
        name: str = "inbox",
        **options: Any,
    ) -> None:
        self.got: list[Any] = []
        self.gave_up: asyncio.Queue[Exception] = asyncio.Queue()
        self.id = ""
        self.wanted = wanted
        self.options = {"name": name, "retry": {"attempts": 3, "min": 0.001, "max": 0.01}, **options}
        self._handle = handle
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def listen(self, hub: Any) -> None:
        self.id = hub.event.init.subscribe(
            self.wanted,
            self._on,
            on_error=lambda _event, problem: self.gave_up.put_nowait(problem),
            **self.options,
        )

    async def _on(self, event: Any) -> None:
        self.got.append(event)
        self._queue.put_nowait(event)
        if self._handle is not None:
            await self._handle(event)

    async def next(self) -> Any:
        return await asyncio.wait_for(self._queue.get(), WAIT)

    async def numbers(self, count: int) -> list[int]:
        """Return the next numbers; an event that is no `order` here is a mapping."""
        found = [await self.next() for _ in range(count)]
        return [one["number"] if isinstance(one, dict) else one.number for one in found]

    async def all_of(self, numbers: Iterable[int]) -> None:
        """Return once each of these came; some may come twice."""
        missing = set(numbers)
        while missing:
            missing.discard((await self.next()).number)

    async def problem(self) -> Exception:
        return await asyncio.wait_for(self.gave_up.get(), WAIT)


class Bus:
    """What the processes of a test have in common.

    :ivar name: the name of the test's event.
    :ivar data: what their profile says of its topic.
    :ivar looked: whether a test has looked at the dead letters; else there have to be none at its end.
    """

    #: What an event's name may end in, and what a group may be called.
    strange_name, strange_group = ".ü/注 :%2C,?'=$&;<{x}*", "ä.b/c :%2C{y}"
    place: Place

    def __init__(self, name: str, folder: Path, proxy: Callable[..., Any]) -> None:
        self.name, self.folder, self.proxy = name, folder, proxy
        self.data: dict[str, Any] = {}
        self.looked = False

    def at(self, place: Place) -> Bus:
        """Let the profile lead to a broker."""
        self.place = place
        self.data = place.at.topic(place.node, place.key)
        if place.at.broker == "activemq":
            # Dots are between the parts of "Consumer.<group>.VirtualTopic.<event>", and a group is one part.
            self.strange_name, self.strange_group = ".ü/注 :%2C'=$&;<{x}*", "ä/b :%2C{y}"
        return self

    @functools.cached_property
    def kind(self) -> Any:
        return order(self.name)

    @functools.cached_property
    def lasting(self) -> Any:
        return order(self.name, durable=True)

    def several(self) -> list[Any]:
        """Return events whose names have the word in front in common."""
        return [order(f"{self.name}{end}") for end in ("", ".placed", ".eu.placed")]

    def profiles(self, port: int, first_connect: str) -> dict[str, Any]:
        """Return profiles with one called ``default``.

        :param port: that of a proxy to the broker, or 0.
        """
        data = {"url": self.place.url(port), "reconnect": SOON, "first_connect": first_connect, **self.data}
        return {self.place.kit.provider: {"default": data}}

    def prepare(self, name: str, group: str) -> None:
        """Make the queue of a group, where listening does not."""
        if self.place.kit is AMQP1:
            key = self.data.get("routing_key", "{routing_key}").format(routing_key=name)
            self.place.node.declare_queue(f"{name}::{group}")
            self.place.node.bind("amq.topic", f"{name}::{group}", key)

    def consumers(self, name: str, group: str) -> int | None:
        """Return how many consumers the queue of a group has, None where the broker does not tell."""
        if "listed" not in self.place.at.can:
            return None
        return int(self.place.node.depth(f"{name}::{group}").consumers)

    def listen(self, hub: Any, inbox: Inbox) -> None:
        if not inbox.options.get("per_process"):
            spec = spec_of(inbox.wanted)
            self.prepare(
                spec.name if spec else inbox.wanted, inbox.options.get("group", inbox.options["name"])
            )
        inbox.listen(hub)

    @asynccontextmanager
    async def process(
        self, *listeners: Inbox, port: int = 0, first_connect: str = "fail", **options: Any
    ) -> AsyncIterator[Any]:
        """Yield the hub of a bus, on which ``listeners`` listen from the start on."""
        hub = new_hub(**{"dead_store": self.folder / "dead.jsonl", "drain_timeout": WAIT, **options})
        for inbox in listeners:
            self.listen(hub, inbox)
        async with running(hub, self.profiles(port, first_connect)):
            yield hub

    async def delivered(self, hub: Any, count: int) -> None:
        """Return once the transport has taken so many events."""
        await eventually(
            lambda: sum(lane["delivered"] for lane in hub.evbus.stats.snapshot()["lanes"].values()) == count,
            "the delivery",
        )

    def dead(self) -> list[Record]:
        """Return what all processes gave up."""
        self.looked = True
        path = self.folder / "dead.jsonl"
        return [one for one in records([path]) if one is not None] if path.exists() else []

    def counted(self, hub: Any) -> dict[str, int]:
        """Return the counters of the only listener."""
        (found,) = hub.event.init.subscriptions(self.name)
        return dict(found)

    async def send_unsigned(self, hub: Any) -> None:
        """Send an event that no pipeline has seen, to a listener on ``hub``."""
        async with self.process(pipeline=()) as other:
            await other.evbus.broker.put(routing_key=self.name, body={"number": 1})


class InProcess(Bus):
    """There is one process: another one's listeners come and go in it."""

    hub: Any = None

    def profiles(self, port: int, first_connect: str) -> dict[str, Any]:
        return {"internal": {"default": dict(self.data)}}

    def prepare(self, name: str, group: str) -> None:
        pass

    @asynccontextmanager
    async def process(self, *listeners: Inbox, **options: Any) -> AsyncIterator[Any]:
        if self.hub is None:
            async with super().process(*listeners, **options) as self.hub:
                yield self.hub
            self.hub = None
            return
        for inbox in listeners:
            inbox.listen(self.hub)
        await self.hub.event.init.ready()
        yield self.hub
        for inbox in listeners:
            assert await self.hub.event.init.unsubscribe(inbox.id)

    def consumers(self, name: str, group: str) -> int:
        return len(self.hub.ingress.SUBSCRIBERS["default"].groups[name, group]._members)

    async def send_unsigned(self, hub: Any) -> None:
        (group,) = hub.ingress.SUBSCRIBERS["default"][self.name]
        body = b'{"number": 1}'
        group.put([Envelope("default", self.name, body)], len(body))
