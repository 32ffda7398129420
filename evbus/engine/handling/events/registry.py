"""The events that a hub knows, by name."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from evbus.engine.handling.events.declare import EventSpec, ListenerSpec, declared, spec_of
from evbus.engine.handling.events.reader import NAME, VERSION
from evbus.engine.handling.events.shape import check_fields
from evbus.engine.kit.topics import is_pattern
from evbus.errors import HandlerExists, HandlerSignatureError, InvalidHeader
from evbus.types import Envelope, StandingHeaders

__all__ = [
    "EventTypes",
]


class _Kind(NamedTuple):
    """An event as it is sent.

    :ivar headers: those of every event of its kind: its name, and the version of its fields.
    """

    spec: EventSpec
    headers: StandingHeaders

    def headers_with(self, headers: Any) -> dict[str, str]:
        """Return the headers of an event that has some of its own."""
        if not isinstance(headers, Mapping):
            raise InvalidHeader(f"headers are a mapping of strings to strings, not {type(headers).__name__}")
        return {**headers, **self.headers}


class EventTypes:
    """Event classes by name: each name stands for one class.

    :ivar kinds: those that were sent, by class.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, EventSpec] = {}
        self._by_class: dict[type, EventSpec] = {}
        self.kinds: dict[type, _Kind] = {}

    def __repr__(self) -> str:
        return f"<Registry {', '.join(sorted(self._by_name))}>"

    def __iter__(self) -> Any:
        return iter(list(self._by_name.values()))

    def kind(self, cls: Any) -> _Kind:
        """Return the declaration of a class and its events' headers; raises as :meth:`of` does."""
        found = self.kinds.get(cls)
        if found is None:
            if cls.__module__ == "builtins" and cls is not type:
                raise HandlerSignatureError(
                    f"{cls.__qualname__} is no event; what has no class with @event() is put: "
                    "put(routing_key, body)"
                )
            spec = self.of(cls)
            headers = {NAME: spec.name}
            if spec.version != 1:
                headers[VERSION] = str(spec.version)
            found = self.kinds[cls] = _Kind(spec, StandingHeaders(headers))
        return found

    def addressed(self, body: Any, headers: Any) -> tuple[str | None, Any]:
        """Return the routing key and the headers of what was put without a key: an event has its name."""
        kind = self.kinds.get(type(body))
        if kind is None:
            if spec_of(type(body)) is None:
                return None, headers
            kind = self.kind(type(body))
        return kind.spec.name, kind.headers if headers is None else kind.headers_with(headers)

    def of(self, cls: Any) -> EventSpec:
        """Return the event that a class is, and know its name from now on.

        :raises HandlerSignatureError: the class is no event.
        :raises HandlerExists: another class has its name.
        """
        found = self._by_class.get(cls)
        return found if found is not None else self._learn(cls)

    def _learn(self, cls: Any) -> EventSpec:
        spec = spec_of(cls)
        if spec is None and cls is type:
            raise HandlerSignatureError("a class was sent; send an instance of it")
        if spec is None:
            name = getattr(cls, "__qualname__", repr(cls))
            raise HandlerSignatureError(f"{name} is no event; put @event() above the class")
        check_fields(cls)
        if spec.cls is not cls:
            # The slots of a dataclass make a second class, which has what was said of the first.
            spec = EventSpec(cls, spec.name, spec.durable, spec.broadcast, spec.version, spec.upcast)
        known = self._by_name.get(spec.name)
        if known is not None and known.cls is not cls:
            raise HandlerExists(_clash(spec, known))
        self._by_name[spec.name] = self._by_class[cls] = spec
        return spec

    def named(self, name: str) -> EventSpec | None:
        """Return the event of a name, None when no class has it."""
        return self._by_name.get(name)

    def found(self, name: str) -> EventSpec | None:
        """Return the event of a name, also one that was only declared, if one class alone was.

        None as well when the class cannot be read: who has said no more than the name gets plain values.
        """
        known = self._by_name.get(name)
        if known is None and (cls := declared(name)) is not None:
            with contextlib.suppress(HandlerSignatureError):
                return self.of(cls)
        return known

    def described(self, envelope: Envelope) -> EventSpec | None:
        """Return the event that an envelope holds, None when none was sent with it, or none is known."""
        return self._by_name.get(envelope.headers.get(NAME, ""))

    def wanted(self, listener: ListenerSpec) -> list[EventSpec]:
        """Return the events that a listener wants."""
        if isinstance(listener.event, str):
            known = self.named(listener.event)
            return [known or named_only(listener.event)]
        return self.below(listener.event) if listener.subclasses else [self.of(listener.event)]

    def below(self, cls: Any) -> list[EventSpec]:
        """Return the events that derive from a class, it among them if it is one.

        :raises HandlerSignatureError: there are none.
        """
        if not isinstance(cls, type) or cls is object:
            raise HandlerSignatureError(f"subclasses=True wants a class that events derive from, not {cls!r}")
        found: list[EventSpec] = []
        for each in _events_below(cls):
            if self.of(each) not in found:
                found.append(self.of(each))
        if not found:
            raise HandlerSignatureError(
                f"{cls.__qualname__} is no event, and no event derives from it yet; put @event() above the "
                "classes, and import them first"
            )
        return found


def named_only(name: str) -> EventSpec:
    """Return an event that is known by its name, or by a pattern of names."""
    return EventSpec(None, name, False, False, 1, None, is_pattern(name))


def _events_below(cls: type) -> list[type]:
    """Return the classes with ``@event()`` among a class and those that derive from it."""
    pending, found = [cls], {}
    while pending:
        each = pending.pop()
        pending += each.__subclasses__()
        spec = spec_of(each)
        # What the slots of a dataclass have replaced is no event any more, and may still be there.
        if spec is not None and (spec not in found or spec.cls is not each):
            found[spec] = each
    return list(found.values())


def _clash(new: EventSpec, known: EventSpec) -> str:
    first, second = known.cls, new.cls
    assert first is not None
    assert second is not None
    both = f"{first.__module__}.{first.__qualname__} and {second.__module__}.{second.__qualname__}"
    same = first.__qualname__ == second.__qualname__ and first.__module__ != second.__module__
    if same and _file(second) is not None and _file(second) == _file(first):
        return (
            f"the event {new.name!r} is there twice, as {both}, which are one file loaded under two names: "
            "POP loads plugin files by their paths; put events into a plain module and import it"
        )
    return f"two events are called {new.name!r}: {both}; give one of them another name: @event(name=...)"


def _file(cls: type) -> str | None:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        return None
