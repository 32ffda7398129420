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
        self._keys = {key.id: key.secret for key in keys}
        self._first = keys[0]
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
        for name in [name for name in envelope.headers if name.lower() in _OURS]:
            del envelope.headers[name]
        if envelope.profile and not _lowered(envelope).get(_EVENT_ID):
            envelope.headers[_EVENT_ID] = new_id()
        signed_at = int(self._clock())
        digest = _digest(self._first.secret, signed_at, envelope.routing_key, envelope)
        envelope.headers[SIGNED_AT] = str(signed_at)
        if envelope.profile:
            envelope.headers[ROUTING_KEY] = envelope.routing_key
        envelope.headers[SIGNATURE] = f"v1,{self._first.id},{base64.b64encode(digest).decode()}"

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
        headers = _lowered(envelope)
        claim = _claim(headers)
        secret = self._keys.get(claim.key_id)
        if secret is None:
            raise Rejected(f"the event is signed with the unknown key {one_line(claim.key_id, 64)!r}")
        routing_key = headers.get(ROUTING_KEY, "")
        if not hmac.compare_digest(_digest(secret, claim.signed_at, routing_key, envelope), claim.digest):
            raise Rejected(
                f"the signature of the event is wrong: it was altered after it was signed with the key "
                f"{claim.key_id!r}, or the keys of that id differ"
            )
        self._check_age(claim.signed_at)
        if routing_key != envelope.routing_key:
            envelope = envelope.replace(routing_key=routing_key, headers=envelope.headers)
        # Half of the digest is enough to tell events apart, and half the memory.
        key = (receiver, claim.digest[:16]) if receiver else claim.digest[:16]
        result = await self._once.run(key, lambda: call_next(envelope))
        if result is DUPLICATE:
            raise Rejected("the event is a replay: one with this signature was handled before")
        self._warn()
        return result

    def _check_local(self, envelope: Envelope) -> None:
        try:
            claim = _claim(_lowered(envelope))
        except Rejected:
            claim = _Claim("", b"", 0)
        digest = _digest(self._first.secret, claim.signed_at, envelope.routing_key, envelope)
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


def _claim(headers: Mapping[str, str]) -> _Claim:
    """Parse the signature in headers, whose names are in lower case."""
    given, at = headers.get(SIGNATURE), headers.get(SIGNED_AT)
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


def _digest(secret: bytes, signed_at: int, routing_key: str, envelope: Envelope) -> bytes:
    """Return the HMAC of an event; see the top of this file."""
    headers = _lowered(envelope)
    texts = [
        "evbus-v1" if envelope.profile else "evbus-v1-local",
        str(signed_at),
        headers.get(_EVENT_ID, ""),
        routing_key,
        headers.get(CONTENT_TYPE, ""),
    ]
    for name in sorted(headers):
        if _signed(name):
            texts += (name, headers[name])
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    parts.append(envelope.body)
    message = b"".join([struct.pack(">I", len(part)) + part for part in parts])
    return hmac.digest(secret, message, "sha256")


def _lowered(envelope: Envelope) -> dict[str, str]:
    """Return the headers with their names in lower case, as HTTP carries them."""
    headers = {name.lower(): value for name, value in envelope.headers.items()}
    if len(headers) != len(envelope.headers):
        # One would be signed, and the other read.
        raise Rejected("the event cannot be signed: the names of two of its headers differ in case only")
    return headers


def _signed(name: str) -> bool:
    if name in _NOT_SIGNED or name.startswith(_OF_DEAD_LETTERS):
        return False
    return name.startswith(_PREFIXES) or name == "content-encoding"
