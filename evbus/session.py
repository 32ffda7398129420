"""The session of an application, known wherever its events are handled: who is at work, for which tenant.

The pipeline plugin ``session`` carries it, in the header ``evbus-session``, from where an event is put to
its handlers::

    from evbus.api import session

    with session.use(user="joe", tenant="acme"):
        await hub.evbus.broker.put(routing_key="orders", body={"id": 1})

    async def handle(hub, message):
        user = session.current().get("user")
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from evbus.errors import InvalidHeader

__all__ = ["HEADER", "LIMIT", "Session", "current", "inside", "read", "text", "use"]

#: The header that carries a session, as a JSON object of strings in ASCII.
HEADER = "evbus-session"
#: Most characters of that header.
LIMIT = 8192


class Session(NamedTuple):
    """Its values, and the same as the header holds them."""

    values: Mapping[str, str]
    text: str


_NONE = Session(MappingProxyType({}), "")
_current: ContextVar[Session] = ContextVar("evbus_session", default=_NONE)
_decode = msgspec.json.Decoder(dict[str, str]).decode


def current() -> Mapping[str, str]:
    """Return the session of this context, read-only; empty when there is none."""
    return _current.get().values


@contextmanager
def use(**values: str) -> Iterator[Mapping[str, str]]:
    """Add ``values`` to the session of this context until the ``with`` block ends.

    :raises InvalidHeader: a value is no string, or the session is larger than 8 KiB in JSON.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            # Not the value: it may be a secret.
            raise InvalidHeader(f"a session holds strings, but {name!r} is a {type(value).__name__}")
    merged = {**_current.get().values, **values}
    written = json.dumps(merged, separators=(",", ":")) if merged else ""
    if len(written) > LIMIT:
        raise InvalidHeader(
            f"the session has {len(written)} bytes in JSON, more than the {LIMIT} that a header may hold; "
            "keep in it what names things, and the things elsewhere"
        )
    session = Session(MappingProxyType(merged), written)
    with inside(session):
        yield session.values


def text() -> str:
    """Return the session of this context as :data:`HEADER` holds it, ``""`` when there is none."""
    return _current.get().text


def read(header: str | None) -> Session:
    """Return the session that a header holds, an empty one for None.

    :raises InvalidHeader: it holds no session.
    """
    if header is None:
        return _NONE
    if len(header) > LIMIT:
        raise InvalidHeader(f"the header {HEADER} has {len(header)} characters, more than {LIMIT}")
    try:
        return Session(MappingProxyType(_decode(header)), header)
    except (msgspec.DecodeError, UnicodeError):
        # What it does hold is not repeated: it may be a secret.
        raise InvalidHeader(f"the header {HEADER} is no JSON object of strings") from None


@contextmanager
def inside(session: Session) -> Iterator[None]:
    """Put the context into a session, instead of the one that it is in, until the ``with`` block ends."""
    token = _current.set(session)
    try:
        yield
    finally:
        _current.reset(token)
