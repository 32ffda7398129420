"""The typed events that all sides send, and the proof that each listener got each.

It needs no library, but for the event that is pydantic's.

Annotations are types here, not strings: aspyx-event reads them as they are.
"""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

Listener = Callable[[Any], Any]


@dataclass
class OrderPlaced:
    """The event: about 35 bytes of JSON."""

    order_id: str
    total: float


@dataclass
class OrderPaid:
    """An event with an exact amount: about 60 bytes of JSON."""

    order_id: str
    total: Decimal
    note: str = ""


@dataclass
class Line:
    """One of the things that were ordered."""

    sku: str
    amount: int
    price: float


@dataclass
class Address:
    """Where it goes."""

    street: str
    city: str


@dataclass
class OrderShipped:
    """An event with others within: about 260 bytes of JSON."""

    order_id: str
    total: float
    at: datetime
    to: Address
    lines: list[Line]


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def shipped(name: str, number: int) -> OrderShipped:
    lines = [Line(f"sku-{each}", each, each + 0.25) for each in range(3)]
    return OrderShipped(
        name, number + 0.5, NOON + timedelta(seconds=number), Address("Main St 1", "Ulm"), lines
    )


def validated() -> Any:
    """Return a class of pydantic's: about 90 bytes of JSON."""
    import pydantic

    class OrderValidated(pydantic.BaseModel):
        order_id: str
        total: Decimal
        at: datetime
        count: int = pydantic.Field(gt=0)

    return OrderValidated


def maker(case: str) -> tuple[type, Callable[[str, int], Any]]:
    """Return the class of the events of a case, and what makes one of its name and its number."""
    if case == "decimal":
        return OrderPaid, lambda name, number: OrderPaid(name, Decimal(number) + Decimal("0.10"))
    if case == "nested":
        return OrderShipped, shipped
    if case == "pydantic":
        kind = validated()
        return kind, lambda name, number: kind(
            order_id=name, total=Decimal(number), at=NOON + timedelta(seconds=number), count=1
        )
    return OrderPlaced, lambda name, number: OrderPlaced(name, number + 0.5)


def made(count: int, make: Callable[[str, int], Any] | None = None) -> list[Any]:
    """Return so many different events, which the garbage collector does not look at while it is measured."""
    make = make or maker("")[1]
    events = [make(f"A-{1_000_000 + number}", number) for number in range(count)]
    gc.collect()
    gc.freeze()
    return events


class Handled:
    """What listeners were called with."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._wanted = 0
        self._done: asyncio.Future[None] | None = None

    def expect(self, wanted: int) -> "asyncio.Future[None]":
        """Forget what was handled, and return what is done when so many are handled."""
        self.events.clear()
        self._wanted = wanted
        self._done = asyncio.get_running_loop().create_future()
        return self._done

    def asynchronous(self) -> Listener:
        """Return a listener that is a coroutine function."""

        async def on(event: OrderPlaced) -> None:
            self.events.append(event)
            if len(self.events) == self._wanted:
                self._last()

        return on

    def plain(self) -> Listener:
        """Return a listener that may run in any thread."""

        def on(event: OrderPlaced) -> None:
            self.events.append(event)
            if len(self.events) == self._wanted and self._done is not None:
                self._done.get_loop().call_soon_threadsafe(self._last)

        return on

    def _last(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def check(self, sent: list[Any], each: int = 1, *, copied: bool = True) -> None:
        """Compare with what was sent to ``each`` listeners.

        :param copied: whether events were encoded and decoded, so that others arrive than were sent.
        :raises RuntimeError: an event is missing, is there too often, or is not what was sent.
        """
        if len(self.events) != len(sent) * each:
            raise RuntimeError(f"{len(self.events)} were handled, {len(sent)} sent to {each}")
        got = iter(sorted(self.events, key=lambda event: float(event.total)))
        for event in sent:
            for _ in range(each):
                copy = next(got)
                if type(copy) is not type(event) or copy != event:
                    raise RuntimeError(f"{copy!r} was handled, {event!r} was sent")
                if (copy is event) == copied:
                    raise RuntimeError(f"{event!r} was {'not ' * copied}encoded and decoded")
