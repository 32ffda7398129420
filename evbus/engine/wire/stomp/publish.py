"""Send events as SEND frames, many with one write, and wait for their receipts.

Sections named here are those of the STOMP specification 1.2.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping

from evbus.engine.kit.waiting import call
from evbus.engine.wire.base.profile import unfit
from evbus.engine.wire.base.publish import INVALID, Batch, BrokerPublisher, rejected
from evbus.engine.wire.stomp.connect import StompConnection
from evbus.engine.wire.stomp.frame import escape, header_lines
from evbus.engine.wire.stomp.profile import KEY, ROUTING_KEY, Profile
from evbus.engine.wire.stomp.session import (
    MESSAGE_ID,
    TIMESTAMP,
    Product,
    StompSession,
    fill,
    taken_apart,
)
from evbus.errors import DeliveryError, DeliveryTimeout, InvalidHeader, InvalidRoutingKey, Unavailable
from evbus.types import CONTENT_TYPE, Envelope, SharedHeaders

__all__ = ["NEVER_FORWARDED", "Frames", "Publisher"]

#: Bytes that are handed to the socket at once.
CHUNK = 64 * 1024
#: The most bytes that an AMQP client behind RabbitMQ can take as a routing key or the name of a header.
SHORT = 255

# These say what is done with a frame ("SEND", "Standard Headers"), or how RabbitMQ declares the queue: an
# event has no say in that. The profile has. And what a broker noted about a former life is its own.
NEVER_FORWARDED = frozenset(
    {
        "ack",
        "auto-delete",
        "content-length",
        "destination",
        "durable",
        "exclusive",
        "expiration",
        "expires",
        "heart-beat",
        "id",
        "login",
        "passcode",
        "persistent",
        "priority",
        "receipt",
        "receipt-id",
        "redelivered",
        "selector",
        "session",
        "subscription",
        "transaction",
        "user-id",
        "version",
        CONTENT_TYPE,
        ROUTING_KEY,
    }
)
_DECLARING = re.compile(
    r"x-(queue-.*|max-.*|message-ttl|expires|overflow|dead-letter-.*|single-active-consumer|stream-.*|"
    r"cancel-on-ha-failover|initial-cluster-size|death|(first|last)-death-.*|delivery-count|acquired-count)"
)


#: How the names of headers begin by which ActiveMQ is told what is done with a message.
_OBEYED = ("JMS", "AMQ_SCHEDULED_", "amq-msg-type", "transformation")
#: Headers that RabbitMQ makes properties of, which are short.
_PROPERTIES = frozenset(
    {"app-id", "content-encoding", CONTENT_TYPE, "correlation-id", *MESSAGE_ID, "reply-to", "type"}
)


class Frames:
    """Makes the SEND frames of one profile.

    :param broker: whom they are for: the brokers differ in how expiry is said and destinations are written.
    :param clock: tells the time, in seconds since 1970.
    :param skip: names in lower case of headers that events have no say in, besides `NEVER_FORWARDED`.
    """

    __slots__ = (
        "_broker",
        "_clock",
        "_expiry",
        "_fixed",
        "_heads",
        "_keyed",
        "_profile",
        "_renamed",
        "_shared",
        "_skip",
    )

    def __init__(
        self,
        profile: Profile,
        broker: Product,
        *,
        clock: Callable[[], float] = time.time,
        skip: Collection[str] = (),
    ) -> None:
        self._profile = profile
        self._broker = broker
        self._clock = clock
        self._fixed = header_lines(self._fixed_headers())
        self._skip = NEVER_FORWARDED.union((name.lower() for name in profile.headers), skip)
        # Only what stands at the end of a queue or topic can be told from the MESSAGE that comes of it.
        self._keyed = not profile.destination.endswith("/" + KEY)
        self._expiry = profile.expiry if broker is not Product.RABBITMQ else None
        self._renamed = dict([MESSAGE_ID] if broker is Product.RABBITMQ else [MESSAGE_ID, TIMESTAMP])
        self._heads: dict[str, bytes] = {}
        self._shared: tuple[Mapping[str, str], bytes] | None = None

    def _fixed_headers(self) -> dict[str, str]:
        profile = self._profile
        fixed = {**profile.headers}
        if self._broker is not Product.ACTIVEMQ:
            fixed.update(profile.declare)
        if profile.persistent:
            fixed["persistent"] = "true"
        if profile.priority is not None:
            fixed["priority"] = str(profile.priority)
        if profile.expiry is not None and self._broker is not Product.ACTIVEMQ:
            fixed["expiration"] = str(int(profile.expiry * 1000))
        return fixed

    def frame(self, event: Envelope, receipt: int, *, to: str = "", extra: bytes = b"") -> bytes:
        """Return the SEND frame of an event.

        :param to: a destination that takes the place of the profile's.
        :param extra: lines of further headers.
        :raises InvalidHeader: STOMP cannot carry one of its headers.
        :raises InvalidRoutingKey: its routing key makes no destination.
        """
        head = self._heads.get(event.routing_key) if not to else self._head(to, event.routing_key)
        if head is None:
            head = self._head(self.destination(event.routing_key), event.routing_key, keyed=self._keyed)
            if len(self._heads) < 10_000:
                self._heads[event.routing_key] = head
        tail = b"content-length:%d\nreceipt:%d\n\n" % (len(event.body), receipt)
        if self._expiry is not None:
            tail = b"expires:%d\n%s" % (int((self._clock() + self._expiry) * 1000), tail)
        return b"".join((head, extra, self._own(event.headers), tail, event.body, b"\0"))

    def _head(self, destination: str, key: str, *, keyed: bool = True) -> bytes:
        head = f"SEND\ndestination:{escape(destination)}\n".encode() + self._fixed
        return head + header_lines({ROUTING_KEY: key}) if keyed and key else head

    def destination(self, key: str) -> str:
        """Return the destination of an event, by its routing key."""
        if unfit(key):
            raise InvalidRoutingKey("the routing key holds a NUL or a lone surrogate")
        template = self._profile.destination
        if KEY not in template:
            return template
        if not key:
            raise InvalidRoutingKey(f"the event has no routing key, and destination {template!r} needs one")
        if template == KEY:
            if not key.startswith("/"):
                raise InvalidRoutingKey(f"the routing key {key[:100]!r} begins with no '/'")
            return self._whole(key, key)
        if self._broker is Product.RABBITMQ:
            size = len(key.encode())
            if size > SHORT:
                raise InvalidRoutingKey(f"the routing key has {size} bytes, more than the {SHORT} of AMQP")
            if "%2f" in key.lower():
                raise InvalidRoutingKey(
                    f"the routing key {key[:100]!r} holds %2F, which RabbitMQ takes for '/'"
                )
        return self._whole(fill(template, key, broker=self._broker), key)

    def _whole(self, destination: str, key: str) -> str:
        why = taken_apart(destination) if self._broker is Product.ACTIVEMQ else ""
        if why:
            raise InvalidRoutingKey(
                f"the routing key {key[:100]!r} makes no destination: {destination[:100]!r} {why}"
            )
        return destination

    def _own(self, headers: Mapping[str, str]) -> bytes:
        shared = self._shared
        if shared is not None and shared[0] is headers:
            return shared[1]
        lines = self._lines(headers)
        if isinstance(headers, SharedHeaders):
            self._shared = headers, lines
        return lines

    def _lines(self, headers: Mapping[str, str]) -> bytes:
        kept: dict[str, str] = {}
        content = "application/octet-stream"
        for name, value in headers.items():
            _check(name, value, self._broker)
            lower = name.lower()
            if lower == CONTENT_TYPE:
                content = value
            elif not self._decides(name, lower):
                kept[self._renamed.get(name, name)] = value
        if CONTENT_TYPE not in self._skip - NEVER_FORWARDED:
            kept[CONTENT_TYPE] = content
        return header_lines(kept)

    def _decides(self, name: str, lower: str) -> bool:
        """Return whether a header is none that events have a say in."""
        if lower in self._skip or (lower.startswith("x-") and _DECLARING.fullmatch(lower)):
            return True
        return self._broker is Product.ACTIVEMQ and name.startswith(_OBEYED)


def _check(name: object, value: object, broker: Product) -> None:
    if not isinstance(name, str) or not isinstance(value, str):
        raise InvalidHeader(f"the header {name!r} cannot be sent: its name and its value have to be strings")
    if not name or unfit(name) or unfit(value):
        # The value may be a secret, so it is not shown.
        raise InvalidHeader(
            f"the header {name[:100]!r} cannot be sent: it has no name, or holds a NUL or a lone surrogate"
        )
    if broker is not Product.RABBITMQ:
        return
    if _long(name):
        raise InvalidHeader(f"the header {name[:100]!r} cannot be sent: its name has more than {SHORT} bytes")
    if _long(value) and name.lower() in _PROPERTIES:
        raise InvalidHeader(f"the header {name!r} cannot be sent: it has more than {SHORT} bytes")
    if name == TIMESTAMP[0] and not _is_time(value):
        raise InvalidHeader(
            f"the header {name!r} cannot be sent: it is no whole number of seconds since 1970, from 0 on"
        )


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63


def _long(text: str) -> bool:
    return len(text) > SHORT // 4 and len(text.encode()) > SHORT


class Publisher(BrokerPublisher[StompSession]):
    """Sends the events of one lane: delivered is what has its receipt ("RECEIPT")."""

    SILENT = "no receipt came from the broker", "receipt_timeout"
    STILL = "it answers nothing any more, and another connection is answered"

    def __init__(self, connection: StompConnection, profile: Profile) -> None:
        super().__init__(connection, profile.window, profile.receipt_timeout)
        self._profile = profile

    def _begin(self, session: StompSession) -> None:
        self._frames = Frames(self._profile, session.broker)

    async def _send(
        self, session: StompSession, batch: Batch, events: list[Envelope], numbers: list[int]
    ) -> Unavailable | None:
        chunk: list[bytes] = []
        size, again = 0, bool(self._left)
        for index, event in enumerate(events):
            if again and self._adopt(session, batch, index, event, numbers):
                continue
            if len(session.receipts) >= self._window or size >= CHUNK:
                session.write(b"".join(chunk))
                chunk.clear()
                size = 0
                while session.full(self._window):
                    problem = await self._room(session, event)
                    if problem is not None:
                        return problem
                if session.lost.done():
                    return self._gone(session)
            try:
                frame = self._frames.frame(event, session.next_number)
            except INVALID as exc:
                batch.outcomes[index] = rejected(exc)
                numbers.append(0)
                continue
            numbers.append(session.expect(batch, index))
            batch.left += 1
            chunk.append(frame)
            size += len(frame)
        if chunk:
            session.write(b"".join(chunk))
        return None

    async def _stands_still(self, session: StompSession, event: Envelope | None) -> bool:
        """Return whether another connection is answered.

        A broker that blocks publishers is silent as well, and what was sent would be sent once more.
        """
        if session.redial is None or event is None:
            return False
        try:
            sent = Frames(self._profile, session.broker).frame(event, 0, extra=b"transaction:evbus\n")
            other = await call(session.redial(), self._patience)
        except (DeliveryError, *INVALID):
            return False
        try:
            return await call(other.ask(sent), self._patience) is None
        except DeliveryTimeout:
            return False
        finally:
            other.abort()

    def _gone(self, session: StompSession) -> Unavailable:
        return Unavailable(f"{self.connection.name}: the connection was lost: {session.lost.result()}")
