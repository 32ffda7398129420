"""The typed event that all sides send, and the proof that each listener got each; needs no library.

Annotations are types here, not strings: aspyx-event reads them as they are.
"""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Listener = Callable[[Any], Any]


@dataclass
class OrderPlaced:
    """The event: about 35 bytes of JSON."""

    order_id: str
    total: float


def made(count: int) -> list[OrderPlaced]:
    """Return so many different events, which the garbage collector does not look at while it is measured."""
    events = [OrderPlaced(f"A-{1_000_000 + number}", number + 0.5) for number in range(count)]
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

    def check(self, sent: list[OrderPlaced], each: int = 1, *, copied: bool = True) -> None:
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
                if type(copy) is not OrderPlaced or copy != event:
                    raise RuntimeError(f"{copy!r} was handled, {event!r} was sent")
                if (copy is event) == copied:
                    raise RuntimeError(f"{event!r} was {'not ' * copied}encoded and decoded")
