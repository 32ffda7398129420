"""CloudEvents 1.0 context attributes in the headers of an event.

Attributes: CloudEvents 1.0 section "Required Attributes" (id, source, specversion, type) and "Optional
Attributes" (time); header names: its HTTP Protocol Binding, section 3.1.3.1 (prefix ``ce-``).
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
from pathlib import PurePath
from time import gmtime, strftime, time_ns
from typing import NamedTuple
from urllib.parse import quote

from evbus.engine.codec.wrapped import FOREIGN_IDS, attributes
from evbus.errors import SettingsError
from evbus.types import Envelope

__all__ = ["How", "Stamper", "check_source", "default_source", "new_id", "stamp"]

_NAMES = frozenset({"ce-specversion", "ce-id", "ce-time", "ce-source", "ce-type"})
#: With the id as other protocols name it: such an event has its attributes already.
_ATTRIBUTES = _NAMES.union(FOREIGN_IDS)

# The characters of a URI reference (RFC 3986 section 2), and what may be in front of a colon (section 4.2).
_URI = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[^:]*[/?#]|[^:]*$")
_SAFE = "/:?#[]@!$&'()*+,;=%"


class How(NamedTuple):
    """The settings of stamps.

    :ivar source: the attribute ``source``.
    :ivar structured: whether the event becomes a CloudEvent in JSON.
    """

    source: str
    structured: bool = False


class Stamper:
    """Stamps envelopes; safe to use from many threads.

    An id is a random prefix of 64 bits, unique to this process, and a count, both in hexadecimal; a
    child made by ``fork`` takes a prefix of its own. The time is RFC 3339 in UTC with microseconds; all
    but those is formatted once a second.
    """

    def __init__(self) -> None:
        self._second = (0, "")  # when it began, in microseconds since 1970, and its text with a gap
        self.renew()

    def renew(self) -> None:
        """Take a new prefix."""
        prefix = os.urandom(8).hex()
        # One object for both, so that no thread ever sees the prefix of one and the count of another.
        self._next_id = map(f"{prefix}-%x".__mod__, itertools.count(1)).__next__

    def new_id(self) -> str:
        """Return an id for an event, unique in the world."""
        return self._next_id()

    def stamp(self, envelope: Envelope, source: str) -> None:
        """Set the attributes that the headers of ``envelope`` do not have yet."""
        headers = envelope.headers
        given = {}
        if not _ATTRIBUTES.isdisjoint(headers):
            present_ones = attributes(headers)
            if present_ones is not headers:
                envelope.headers = headers = dict(present_ones)
            given = {name: headers[name] for name in _NAMES if name in headers}
        start, text = self._second
        present = time_ns() // 1000 - start
        if not 0 <= present < 1_000_000:
            start, text = self._begin_second(present + start)
            present %= 1_000_000
        headers["ce-specversion"] = "1.0"
        headers["ce-id"] = self._next_id()
        headers["ce-time"] = text % present
        headers["ce-source"] = source
        headers["ce-type"] = envelope.routing_key or envelope.profile
        if given:
            headers.update(given)

    def _begin_second(self, present: int) -> tuple[int, str]:
        seconds = present // 1_000_000
        text = strftime("%Y-%m-%dT%H:%M:%S.%%06dZ", gmtime(seconds))
        self._second = second = (seconds * 1_000_000, text)
        return second


# One for the process: ids and the time are facts of the process, whichever hub asks.
_stamper = Stamper()
os.register_at_fork(after_in_child=_stamper.renew)
stamp = _stamper.stamp
new_id = _stamper.new_id


def check_source(source: str) -> None:
    """Check the option ``event_source``.

    :raises SettingsError: it is no URI reference (RFC 3986), as CloudEvents asks for.
    """
    if not _URI.fullmatch(source) or source.count("#") > 1 or not _SCHEME.match(source):
        raise SettingsError(
            f"evbus.event_source: {source!r} is no URI reference (RFC 3986), as a CloudEvent wants one; "
            f"write {quote(source, safe=_SAFE)!r}, or such as /shop or urn:shop"
        )


def default_source() -> str:
    """Return ``/<host>/<program>``, a URI reference (RFC 3986) as CloudEvents asks for."""
    program = PurePath(sys.argv[0] if sys.argv else "").name or "python"
    return f"/{quote(socket.gethostname(), safe='')}/{quote(program, safe='')}"
