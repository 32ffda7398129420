"""Look at a bus while it works, as one of its observers: what is put, what is handled, and what dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from evbus.engine.kit.notifier import Notifier
from evbus.testing._failures import Failures
from evbus.types import Envelope

__all__ = ["Dead", "Handled", "Sent", "Watch", "unread"]

#: Seconds between attempts, in place of those that are configured: a test need not wait.
PAUSES = {"min": 0.001, "max": 0.01}


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


class Handled(NamedTuple):
    """A call of a listener.

    :ivar listener: its name.
    :ivar name: what it listens to, if it was told by a name.
    :ivar event: what it was called with.
    :ivar error: what it raised; None when it went well.
    """

    listener: str
    name: str
    event: Any
    error: BaseException | None


class Dead(NamedTuple):
    """An event that was given up.

    :ivar event: decoded, or None where that cannot be done.
    :ivar name: its routing key.
    :ivar where: ``listener <name>``, ``handler <name>``, or the lane: ``<plugin>.<provider>.<profile>``.
    :ivar reason: in one line.
    :ivar exception: what was raised last.
    :ivar injected: the test wanted it.
    """

    event: Any
    name: str
    profile: str
    headers: dict[str, str]
    where: str
    reason: str
    attempts: int
    exception: BaseException | None
    injected: bool

    def __str__(self) -> str:
        """Say it in a sentence."""
        who = f"the {self.where}" if " " in self.where else f"the lane {self.where}"
        what = self.name or "an event" if self.event is None else repr(self.event)
        after = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{who} gave up {what}{after}: {self.reason}"


class Watch(Failures):
    """Notes what happens on a bus, and lets fail what is to fail.

    :param read: makes the event of an envelope.
    :ivar sent: all that was put, in order.
    """

    def __init__(self, read: Read, notifier: Notifier) -> None:
        super().__init__(notifier.notify)
        self.sent: list[Sent] = []
        self.handlings: list[Handled] = []
        self.deaths: list[Dead] = []
        self._read = read
        self._notifier = notifier

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions that listeners have raised."""
        return [one.error for one in self.handlings if one.error is not None]

    def accepted(self, event: Envelope, body: bytes) -> None:
        self.sent.append(Sent(event, body, self._read))
        self._notifier.notify()

    def subscribed(self, listening: Any) -> None:
        """Let a listener not wait between its attempts."""
        retry = msgspec.structs.replace(listening.spec.retry, **PAUSES)
        listening.spec = msgspec.structs.replace(listening.spec, retry=retry)

    def calling(self, listening: Any, events: Sequence[Any]) -> None:
        error = self.of_listener(listening.listener.name)
        if error is not None:
            raise error

    def handled(self, listening: Any, events: Sequence[Any], problem: BaseException | None) -> None:
        name = listening.spec.event if isinstance(listening.spec.event, str) else ""
        self.handlings += [Handled(listening.listener.name, name, event, problem) for event in events]
        self._notifier.notify()

    def dead(self, event: Any, where: Any, reason: str, attempts: int, problem: BaseException) -> None:
        name, profile, headers = type(event).__name__, "", dict[str, str]()
        if isinstance(event, Envelope):
            name, profile, headers = event.routing_key, event.profile, dict(event.headers)
            try:
                event, _ = self._read(event)
            except Exception:
                event = None
        injected = self.caused(problem)
        self.deaths.append(
            Dead(event, name, profile, headers, str(where), reason, attempts, problem, injected)
        )
        self._notifier.notify()
