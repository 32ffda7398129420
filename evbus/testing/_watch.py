"""Look at a bus while it works, as one of its observers: what is put, what is handled, and what dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from evbus.engine.core.observe import Observer
from evbus.engine.kit.notifier import Notifier
from evbus.testing._failures import Failures
from evbus.testing._sent import Read, Sent
from evbus.types import Envelope

__all__ = ["Dead", "Handled", "Watch"]

#: Seconds between attempts, in place of those that are configured: a test need not wait.
PAUSES = {"min": 0.001, "max": 0.01}


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


class Watch(Observer):
    """Notes what happens on a bus, and lets fail what is to fail.

    :param read: makes the event of an envelope.
    :ivar sent: all that was put, in order.
    """

    def __init__(self, read: Read, failures: Failures, notifier: Notifier) -> None:
        self.sent: list[Sent] = []
        self.handlings: list[Handled] = []
        self.deaths: list[Dead] = []
        self._read = read
        self._failures = failures
        self._notifier = notifier

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions that listeners have raised."""
        return [one.error for one in self.handlings if one.error is not None]

    def accepted(self, event: Envelope, body: bytes) -> None:
        self.sent.append(Sent(event, body, self._read))
        self._notifier.notify()

    def gate(self, plugin: Any) -> Any:
        return self._failures.gate(plugin)

    def subscribed(self, listening: Any) -> None:
        """Let a listener not wait between its attempts."""
        retry = msgspec.structs.replace(listening.spec.retry, **PAUSES)
        listening.spec = msgspec.structs.replace(listening.spec, retry=retry)

    def calling(self, listening: Any, events: Sequence[Any]) -> None:
        error = self._failures.of_listener(listening.listener.name)
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
        injected = self._failures.caused(problem)
        self.deaths.append(
            Dead(event, name, profile, headers, str(where), reason, attempts, problem, injected)
        )
        self._notifier.notify()
