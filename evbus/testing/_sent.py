"""What was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from evbus.types import Envelope

__all__ = ["Read", "Sent", "unread"]

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


def unread(things: list[_Found], is_one: Callable[[_Found], bool]) -> Callable[[], list[_Found]]:
    """Return a function that returns those of ``things`` that were added since it was called last."""
    seen = 0

    def new() -> list[_Found]:
        nonlocal seen
        added = things[seen:]
        seen += len(added)
        return [one for one in added if is_one(one)]

    return new
