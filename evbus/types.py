"""The plain classes that rooms share. They are imported absolutely and know no hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

__all__ = ["CONTENT_TYPE", "Envelope", "Event", "SharedHeaders"]

#: The header that names the encoding of a body.
CONTENT_TYPE = "content-type"


class SharedHeaders(dict[str, str]):
    """Headers that many envelopes share, and that therefore cannot be changed.

    An event without headers of its own costs no dictionary; writing to the shared one would change
    every other event, so it raises ``TypeError``. ``dict(headers)`` gives a copy to write to.
    """

    __slots__ = ()

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("these headers are shared between events; copy them first: dict(headers)")

    __setitem__ = __delitem__ = _refuse
    __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (SharedHeaders, (dict(self),))


# No cycles can run through an envelope, so the collector need not look at it (gc=False): with
# 100,000 of them queued that is 16 bytes each and no pause.
class Envelope(msgspec.Struct, gc=False):
    """A message on its way: what it is called, what is said about it, and what it says.

    :ivar profile: the name that the profiles' patterns are matched against.
    :ivar routing_key: the key handed to the destination, ``""`` when none was given.
    :ivar body: the encoded body; its encoding is named by the header ``content-type``.
    :ivar headers: string to string. Shared and read-only unless the event has headers of its own.
    :ivar accepted_at: when the bus accepted it, in seconds of ``time.monotonic()``.
    """

    profile: str
    routing_key: str = ""
    body: bytes = b""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    accepted_at: float = 0.0

    def replace(
        self,
        *,
        routing_key: str | None = None,
        profile: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Envelope:
        """Return a copy with another routing key, profile or headers."""
        return Envelope(
            self.profile if profile is None else profile,
            self.routing_key if routing_key is None else routing_key,
            self.body,
            self.headers if headers is None else dict(headers),
            self.accepted_at,
        )


#: The name that applications written for pop-evbus know the class by.
Event = Envelope
