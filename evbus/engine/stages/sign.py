"""Signatures of events: HMAC-SHA256 (RFC 2104) over what a sender said.

Signed is the concatenation of these fields, each as its length in bytes (32 bits, big-endian) and its bytes,
texts in UTF-8:

1. ``evbus-v1``; of a message in process ``evbus-v1-local``, so that neither passes for the other,
2. when it was signed, in seconds since 1970, in decimal,
3. the event's id (``ce-id``), its routing key and its content type, empty where there is none,
4. of every signed header, sorted, its name in lower case and its value: ``content-encoding``, and those that
   begin with ``ce-`` or ``evbus-``, but for the ones below and those that the way itself adds,
5. the body.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evbus.engine.kit.redact import one_line
from evbus.engine.stages.keys import SignKey
from evbus.engine.stages.once import DUPLICATE, Memory, Once
from evbus.engine.stages.stamp import new_id
from evbus.errors import Rejected
from evbus.types import CONTENT_TYPE, Envelope

__all__ = ["AHEAD", "ROUTING_KEY", "SIGNATURE", "SIGNED_AT", "Signer"]

log = logging.getLogger("evbus.pipeline.sign")

#: ``v1,<key id>,<base64>``.
SIGNATURE = "evbus-signature"
#: When it was made, in seconds since 1970.
SIGNED_AT = "evbus-signed-at"
#: The routing key that was signed: a profile may send the event with another one.
ROUTING_KEY = "evbus-signed-routing-key"

#: Seconds by which the clock of a sender may be ahead.
AHEAD = 5

_EVENT_ID = "ce-id"
_PREFIXES = ("ce-", "evbus-")
_OURS = frozenset({SIGNATURE, SIGNED_AT, ROUTING_KEY})
# STOMP and webhooks carry the routing key in a header of their own; in others a lane says why an event is
# dead.
_NOT_SIGNED = _OURS | {"evbus-routing-key"}
_OF_DEAD_LETTERS = "evbus-dead-"
_length = struct.Struct(">I").pack


class _Claim(NamedTuple):
    """The signature that a received event claims to have."""

    key_id: str
    digest: bytes
    signed_at: int


class Signer:
    """Signs events and verifies them.

    :param keys: the first signs, all verify.
    :param tolerance: seconds for which a signature is good.
    :param limit: most signatures that are remembered, so that none is taken twice.
    :param clock: tells the time, in seconds since 1970.
    """

    def __init__(
        self, keys: Sequence[SignKey], tolerance: float, limit: int, clock: Callable[[], float] = time.time
    ) -> None:
        # With what every digest of a key begins with done; a copy goes on.
        self._keys = {key.id: hmac.new(key.secret, digestmod="sha256") for key in keys}
        self._first = keys[0].id
        self._tolerance = tolerance
        self._clock = clock
        self._seen = Memory(tolerance + AHEAD + 1, limit, clock)
        self._once = Once(self._seen)
        self._warned = False

    def __repr__(self) -> str:
        return f"<Signer keys={','.join(self._keys)} tolerance={self._tolerance:g} s>"

    def send(self, envelope: Envelope) -> None:
        """Sign an event, as it is now. A signature that it has is replaced: it was made for another one.

        An event without an id gets one, or two that say the same would be taken for a replay.

        :raises Rejected: the names of two of its headers differ in case only.
        """
        headers = envelope.headers
        ours, lowered, _ = _names(tuple(headers))
        for name in ours:
            del headers[name]
        if envelope.profile and not _said(headers, lowered, _EVENT_ID):
            headers[_EVENT_ID] = new_id()
        signed_at = int(self._clock())
        digest = _digest(self._keys[self._first], signed_at, envelope.routing_key, envelope)
        headers[SIGNED_AT] = str(signed_at)
        if envelope.profile:
            headers[ROUTING_KEY] = envelope.routing_key
        headers[SIGNATURE] = f"v1,{self._first},{base64.b64encode(digest).decode()}"

    async def handle(
        self, envelope: Envelope, receiver: str, call_next: Callable[[Envelope], Awaitable[Any]]
    ) -> Any:
        """Verify an event and hand it on, with the routing key that was signed.

        It is remembered when that has succeeded: an event that failed may be delivered again.

        :raises Rejected: it is not signed, altered, too old, from the future, or was handled before.
        """
        if not envelope.profile:
            # Within the process nothing is old or replayed, but handed to several handlers.
            self._check_local(envelope)
            return await call_next(envelope)
        lowered = _lowered(envelope.headers)
        claim = _claim(envelope.headers, lowered)
        key = self._keys.get(claim.key_id)
        if key is None:
            raise Rejected(f"the event is signed with the unknown key {one_line(claim.key_id, 64)!r}")
        routing_key = _said(envelope.headers, lowered, ROUTING_KEY)
        if not hmac.compare_digest(_digest(key, claim.signed_at, routing_key, envelope), claim.digest):
            raise Rejected(
                f"the signature of the event is wrong: it was altered after it was signed with the key "
                f"{claim.key_id!r}, or the keys of that id differ"
            )
        self._check_age(claim.signed_at)
        if routing_key != envelope.routing_key:
            envelope = envelope.replace(routing_key=routing_key, headers=envelope.headers)
        # Half of the digest is enough to tell events apart, and half the memory.
        known = (receiver, claim.digest[:16]) if receiver else claim.digest[:16]
        result = await self._once.run(known, lambda: call_next(envelope))
        if result is DUPLICATE:
            raise Rejected("the event is a replay: one with this signature was handled before")
        self._warn()
        return result

    def _check_local(self, envelope: Envelope) -> None:
        try:
            claim = _claim(envelope.headers, _lowered(envelope.headers))
        except Rejected:
            claim = _Claim("", b"", 0)
        digest = _digest(self._keys[self._first], claim.signed_at, envelope.routing_key, envelope)
        if not hmac.compare_digest(digest, claim.digest):
            raise Rejected(
                "the message was not signed in this process: what others send is verified where it is "
                "received, with its body"
            )

    def _check_age(self, signed_at: int) -> None:
        age = self._clock() - signed_at
        if age > self._tolerance:
            raise Rejected(
                f"the event was signed {age:.0f} s ago, more than the {self._tolerance:g} s of sign_tolerance"
            )
        if age < -AHEAD:
            raise Rejected(
                f"the event was signed {-age:.0f} s in the future: the clocks differ, or it is forged"
            )

    def _warn(self) -> None:
        if self._seen.forgotten and not self._warned:
            self._warned = True
            log.warning(
                "more than %d signed events within %g s: a replay of the oldest would not be noticed; "
                "raise sign_limit",
                self._seen.limit,
                self._seen.seconds,
            )


def _claim(headers: Mapping[str, str], lowered: Mapping[str, str]) -> _Claim:
    """Parse the signature in headers, of which ``lowered`` has the names."""
    given, at = _said(headers, lowered, SIGNATURE), _said(headers, lowered, SIGNED_AT)
    if not given or not at:
        raise Rejected(f"the event is not signed: it has no header {SIGNATURE if not given else SIGNED_AT}")
    version, _, rest = given.partition(",")
    key_id, _, encoded = rest.partition(",")
    if version != "v1":
        raise Rejected(f"the signature has the version {one_line(version, 20)!r}, and v1 is what is known")
    # int() would take signs, spaces and underscores, and a number as long as it takes.
    if not (at.isascii() and at.isdigit() and len(at) <= 15):
        raise Rejected(f"the header {SIGNED_AT} is no number of seconds: {one_line(at, 30)!r}")
    try:
        return _Claim(key_id, base64.b64decode(encoded, validate=True), int(at))
    except (binascii.Error, ValueError):
        raise Rejected(f"the header {SIGNATURE} is not of the form v1,<key id>,<base64>") from None


def _digest(key: hmac.HMAC, signed_at: int, routing_key: str, envelope: Envelope) -> bytes:
    """Return the HMAC of an event; see the top of this file."""
    headers, body = envelope.headers, envelope.body
    lowered = _lowered(headers)
    fields = [
        _field("evbus-v1" if envelope.profile else "evbus-v1-local"),
        _field(str(signed_at)),
        _field(_said(headers, lowered, _EVENT_ID)),
        _field(routing_key),
        _field(_said(headers, lowered, CONTENT_TYPE)),
    ]
    for name, written in _names(tuple(headers))[2]:
        fields += (written, _field(headers[name]))
    fields += (_length(len(body)), body)
    made = key.copy()
    made.update(b"".join(fields))
    return made.digest()


def _field(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return _length(len(data)) + data


def _said(headers: Mapping[str, str], lowered: Mapping[str, str], name: str) -> str:
    """Return a header by its name in lower case, ``""`` when it is not there."""
    return headers.get(lowered[name], "") if name in lowered else ""


def _lowered(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the names of headers by those in lower case, as HTTP carries them."""
    lowered = _names(tuple(headers))[1]
    if len(lowered) != len(headers):
        # One would be signed, and the other read.
        raise Rejected("the event cannot be signed: the names of two of its headers differ in case only")
    return lowered


@functools.lru_cache(maxsize=256)
def _names(names: tuple[str, ...]) -> tuple[list[str], Mapping[str, str], list[tuple[str, bytes]]]:
    """Sort the names of headers: those of signatures; all of them, by the name in lower case; those signed.

    The last are in order, each with its name as it is signed.
    """
    lowered = {name.lower(): name for name in names}
    signed = [(lowered[name], _field(name)) for name in sorted(lowered) if _signed(name)]
    return [name for name in names if name.lower() in _OURS], lowered, signed


def _signed(name: str) -> bool:
    if name in _NOT_SIGNED or name.startswith(_OF_DEAD_LETTERS):
        return False
    return name.startswith(_PREFIXES) or name == "content-encoding"
