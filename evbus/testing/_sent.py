"""What was sent, and waiting for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from evbus.types import Envelope

__all__ = ["Notifier", "Read", "Sent", "unread"]

_Found = TypeVar("_Found")
_UNREAD: Any = object()
#: Characters that are shown of an event.
LONGEST = 300
#: Makes the event of an envelope, and says whether it is one of a class.
Read = Callable[[Envelope], tuple[Any, bool]]


class Sent:
    """An event that was put on the bus.

    :ivar name: its routing key, which is the name of a typed event.
    :ivar profile: what it was sent to.
    :ivar headers: as they travel, with those that interceptors have set.
    :ivar body: the encoded body, as it was before interceptors changed it.
    """

    __slots__ = ("_event", "_read", "body", "headers", "name", "profile")

    def __init__(self, envelope: Envelope, body: bytes, read: Read) -> None:
        self.name = envelope.routing_key
        self.profile = envelope.profile
        self.headers: Mapping[str, str] = dict(envelope.headers)
        self.body = body
        self._read = read
        self._event = _UNREAD

    def __repr__(self) -> str:
        """Return the event's own repr, or the reason for which it cannot be read."""
        try:
            what = repr(self.event)
        except Exception as exc:
            what = f"{self.name or 'an event'} that cannot be read ({exc})"
        else:
            if not what.startswith(f"{self.name}("):
                what = f"{self.name} {what}" if self.name else what
        if len(what) > LONGEST:
            what = f"{what[:LONGEST]}..."
        return what if self.profile == "default" else f"{what} to {self.profile!r}"

    @property
    def message(self) -> str:
        """The name of its class: the routing key, unless a header says another."""
        return self.headers.get("evbus-message") or self.name

    @property
    def event(self) -> Any:
        """The event, decoded: an instance of its class, or plain values where no class has its name.

        A copy of what was sent, which nobody has changed since.

        :raises InvalidPayload: the body does not fit the class; says where and why.
        """
        if self._event is not _UNREAD:
            return self._event
        event, typed = self._read(Envelope(self.profile, self.name, self.body, dict(self.headers)))
        if typed:
            # Plain values are read again, as their class may be known by then.
            self._event = event
        return event


class Notifier:
    """Wakes those who wait for something to happen; may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Wake all who wait, so that they look again."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            # The loop of somebody who waits no longer may have ended.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def until(self, look: Callable[[], _Found | None], seconds: float) -> _Found | None:
        """Return the result of ``look`` as soon as that is not None; None after ``seconds``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            future: asyncio.Future[None] = loop.create_future()
            with self._lock:
                self._waiting.append(future)
            # Looked at when whatever happens from now on wakes this.
            try:
                found = look()
                left = deadline - loop.time()
                if found is not None or left <= 0:
                    return found
                await asyncio.wait({future}, timeout=left)
            finally:
                future.cancel()
                with self._lock, suppress(ValueError):
                    self._waiting.remove(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def unread(things: list[_Found], is_one: Callable[[_Found], bool]) -> Callable[[], list[_Found]]:
    """Return a function that returns those of ``things`` that were added since it was called last."""
    seen = 0

    def new() -> list[_Found]:
        nonlocal seen
        added = things[seen:]
        seen += len(added)
        return [one for one in added if is_one(one)]

    return new
