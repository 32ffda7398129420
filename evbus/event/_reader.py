"""Events out of what was received."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evbus._typed import reader
from evbus.errors import InvalidPayload
from evbus.redact import one_line
from evbus.types import CONTENT_TYPE, Envelope

from ._declare import EventSpec

__all__ = ["VERSION", "Reader"]

#: The header that says which version of its fields an event has; without it, the present one.
VERSION = "evbus-version"
#: Content types that are remembered; they come from outside, and may be made up.
REMEMBERED = 100


class Reader:
    """Makes events of envelopes.

    :param load_of: returns what makes plain values of bodies of a content type.
    """

    def __init__(self, load_of: Callable[[str], Callable[[bytes], Any]]) -> None:
        self._load_of = load_of
        self._loads: dict[str, Callable[[bytes], Any]] = {}
        self._made: dict[type, Callable[[Any], Any]] = {}

    def read(self, spec: EventSpec, envelope: Envelope) -> Any:
        """Return the event.

        :raises InvalidPayload: it does not fit its class; names the place and the reason.
        """
        make = self._made.get(spec.cls)
        if make is None:
            make = self._made[spec.cls] = reader(spec.cls)
        kind = envelope.headers.get(CONTENT_TYPE, "")
        load = self._loads.get(kind)
        if load is None:
            load = self._load_of(kind)
            if len(self._loads) < REMEMBERED:
                self._loads[kind] = load
        values = load(envelope.body)
        said = envelope.headers.get(VERSION)
        if said is not None and said != str(spec.version):
            values = _raised(spec, said, values)
        return make(values)


def _raised(spec: EventSpec, said: str, values: Any) -> Any:
    if not said.isdecimal():
        raise InvalidPayload(f"the header {VERSION} is no number: {one_line(said)}")
    version = int(said)
    if version > spec.version:
        # Of what is newer, fields that are known may do; what is missing shows.
        return values
    if spec.upcast is None:
        return values
    if not isinstance(values, dict):
        raise InvalidPayload(f"{spec.name} of version {version} is no object")
    try:
        return dict(spec.upcast(version, values))
    except Exception as exc:
        raise InvalidPayload(
            f"{spec.name} of version {version} cannot be made one of version {spec.version}: "
            f"{type(exc).__name__}: {one_line(str(exc))}"
        ) from exc
