"""Events out of what was received."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, NamedTuple

from evbus.engine.codec.typed import optional_keys, reader, wants_digits
from evbus.engine.codec.wrapped import unwrapped
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.kit.redact import one_line, problem_text
from evbus.errors import InvalidPayload
from evbus.types import CONTENT_TYPE, Envelope, OwnHeaders, SharedHeaders

__all__ = ["NAME", "VERSION", "Loader", "Reader"]

#: The header that says which event a message is; without it, what was subscribed to.
NAME = "evbus-message"
#: The header that says which version of its fields an event has. Without it, an event that says its name has
#: the first, and a message that was not sent as an event has the present one.
VERSION = "evbus-version"
FIRST = "1"
#: Content types that are remembered, the latest; they come from outside, and may be made up. Classes are
#: declared, and all of them are.
REMEMBERED = 100
#: Most digits of a version.
DIGITS = 9


class Loader(NamedTuple):
    """The decoders of bodies of a content type.

    :ivar load: makes plain values of a body.
    :ivar typed: returns what makes instances of a class of a body in one go; that raises ``ValueError`` for
        all that it is not sure of. None when there is no such thing.
    :ivar exact: makes plain values whose numbers know how they were written. None when ``load`` rounds none.
    :ivar own: as ``typed``, for bodies that were encoded in this process. None when that is no difference.
    """

    load: Callable[[bytes], Any]
    typed: Callable[[type], Callable[[bytes], Any] | None] | None = None
    exact: Callable[[bytes], Any] | None = None
    own: Callable[[type], Callable[[bytes], Any] | None] | None = None


class _Decoder(NamedTuple):
    """The decoder of one class's events from bodies of one content type.

    :ivar keys: those that an event may have, if it need not have any.
    """

    version: str
    load: Callable[[bytes], Any]
    make: Callable[[Any], Any]
    at_once: Callable[[bytes], Any] | None
    own: Callable[[bytes], Any] | None
    keys: frozenset[str] | None


_Last = tuple[Any, "SharedHeaders | None", Callable[[bytes], Any]]


class Reader:
    """Makes events of envelopes.

    :param loader_of: returns what reads bodies of a content type.
    :param named: returns the event of a name.
    """

    def __init__(self, loader_of: Callable[[str], Loader], named: Callable[[str], EventSpec | None]) -> None:
        self._loader_of = loader_of
        self._named = named
        # By content type and class; what is known by its name only is plain values, and None.
        self._decoders: dict[str, dict[type | None, _Decoder]] = {}
        self._learning = threading.Lock()
        # What was read last: what was subscribed to, the headers, and how. In one, as several threads read.
        self.last: _Last = (None, None, _plain)

    def read(self, spec: EventSpec, envelope: Envelope) -> Any:
        """Return the event.

        :param spec: what was subscribed to.
        :raises InvalidPayload: it does not fit its class, or is another event; says why.
        """
        last, headers, at_once = self.last
        if envelope.headers is headers and spec is last:
            # As the one before: headers that are shared never change.
            try:
                return at_once(envelope.body)
            except ValueError:
                pass  # read more closely, it may do, or the error says why not
        return self._read(spec, envelope)

    def _read(self, wanted: EventSpec, envelope: Envelope) -> Any:
        headers, spec = envelope.headers, wanted
        name = headers.get(NAME)
        if wanted.cls is None:
            # Somebody may have sent or listened to the class meanwhile.
            called = wanted.name if not wanted.pattern else name or envelope.routing_key
            spec = self._named(called) or wanted
        if name is not None and name != spec.name and not (wanted.pattern and spec.cls is None):
            spec = self._other(name, spec)
        kind = headers.get(CONTENT_TYPE, "")
        decoders = self._decoders.get(kind)
        decoder = None if decoders is None else decoders.get(spec.cls)
        if decoder is None:
            plain = unwrapped(envelope)
            if plain is not envelope:
                return self._read(wanted, plain)
            decoder = self._learn(spec, kind)
        said = headers.get(VERSION) or (decoder.version if name is None else FIRST)
        if said != decoder.version:
            return decoder.make(_raised(spec, said, decoder.load(envelope.body)))
        if decoder.keys is not None and name is None:
            return decoder.make(_recognised(spec.cls, decoder.keys, decoder.load(envelope.body)))
        at_once = decoder.own if isinstance(headers, OwnHeaders) else decoder.at_once
        if at_once is not None:
            if isinstance(headers, SharedHeaders) and not (wanted.pattern and name is None):
                self.last = (wanted, headers, at_once)
            with contextlib.suppress(ValueError):
                return at_once(envelope.body)
        return decoder.make(decoder.load(envelope.body))

    def _other(self, name: str, wanted: EventSpec) -> EventSpec:
        """Return the event that came where another was wanted, which is right for what derives from that."""
        found = self._named(name)
        if wanted.cls is not None and (found is None or found.cls is None):
            raise InvalidPayload(f"it is a {one_line(name)}, and there is no event of that name here")
        if found is None or found.cls is None or wanted.cls is None or not issubclass(found.cls, wanted.cls):
            raise InvalidPayload(f"it is a {one_line(name)}, and the listener wants a {wanted.name}")
        return found

    def _learn(self, spec: EventSpec, kind: str) -> _Decoder:
        loader = self._loader_of(kind)
        make: Callable[[Any], Any] = _plain
        load, at_once, own, keys = loader.load, None, None, None
        if spec.cls is not None:
            try:
                decimals = wants_digits(spec.cls)
                exact = loader.exact if decimals else None
                make, load = reader(spec.cls, digits=exact is not None), exact or loader.load
                at_once = loader.typed(spec.cls) if loader.typed is not None else None
                own = loader.own(spec.cls) if loader.own is not None else at_once
                keys = optional_keys(spec.cls)
                if decimals:
                    make, at_once, own = _apart(make), at_once and _apart(at_once), own and _apart(own)
            except (TypeError, NameError) as exc:
                raise InvalidPayload(f"{spec.cls.__qualname__} cannot be read: {exc}") from exc
        decoder = _Decoder(str(spec.version), load, make, at_once, own, keys)
        with self._learning:
            if kind not in self._decoders and len(self._decoders) >= REMEMBERED:
                del self._decoders[next(iter(self._decoders))]
            self._decoders.setdefault(kind, {})[spec.cls] = decoder
        return decoder


def _plain(values: Any) -> Any:
    return values


def _apart(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what makes an event in a context of its own, as a Decimal leaves its settings in that.

    A worker whose context has changed is not used for another event.
    """
    return lambda data: copy_context().run(make, data)


def _recognised(cls: Any, keys: frozenset[str], values: Any) -> Any:
    """Return the values of a message that does not say which event it is.

    :raises InvalidPayload: nothing in it is of this event, whose fields would all have their defaults.
    """
    if isinstance(values, dict) and values and keys.isdisjoint(values):
        shown = ", ".join(one_line(str(key), 40) for key in list(values)[:5])
        raise InvalidPayload(
            f"this is no {cls.__qualname__}: it has none of its fields, and others ({shown}); a document "
            "around an event is read where its content type says what it is"
        )
    return values


def _raised(spec: EventSpec, said: str, values: Any) -> Any:
    if not said.isdecimal() or len(said) > DIGITS:
        raise InvalidPayload(f"the header {VERSION} is no number: {one_line(said)}")
    version = int(said)
    if version >= spec.version or spec.upcast is None:
        # Of what is newer, fields that are known may do; what is missing shows.
        return values
    if not isinstance(values, dict):
        raise InvalidPayload(f"{spec.name} of version {version} is no object")
    try:
        raised = spec.upcast(version, values)
        if not isinstance(raised, Mapping):
            raise TypeError(f"upcast returned {type(raised).__name__}, and not the values")
        return dict(raised)
    except Exception as exc:
        raise InvalidPayload(
            f"{spec.name} of version {version} cannot be made one of version {spec.version}: "
            f"{problem_text(exc)}"
        ) from exc
