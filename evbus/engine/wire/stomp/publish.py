"""Send events as SEND frames, many with one write, and wait for their receipts.

Sections named here are those of the STOMP specification 1.2.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from evbus.engine.kit.waiting import call
from evbus.engine.wire.base.inflight import InFlight, Outcomes
from evbus.engine.wire.base.text import unfit
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
from evbus.errors import (
    DeliveryError,
    DeliveryTimeout,
    InvalidHeader,
    InvalidRoutingKey,
    Rejected,
    Unavailable,
)
from evbus.types import CONTENT_TYPE, Envelope, SharedHeaders

__all__ = ["NEVER_FORWARDED", "Frames", "Publisher"]

Outcome = DeliveryError | None
_Receipts = Outcomes[DeliveryError]

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


class _Left:
    """A frame that was sent and whose receipt nobody waits for any more: its event is offered again."""

    __slots__ = ("number", "outcome", "settled")

    def __init__(self, number: int, *, settled: bool) -> None:
        self.number = number
        self.settled = settled
        self.outcome: Outcome = None

    def settle(self, index: int, outcome: Outcome) -> None:
        """Take the outcome."""
        self.settled = True
        self.outcome = outcome


class Publisher:
    """Sends the events of one lane over the connection of its profile."""

    def __init__(self, connection: StompConnection, profile: Profile) -> None:
        self.connection = connection
        self._profile = profile
        self._session: StompSession | None = None
        self._silences = 0
        self._frames = Frames(profile, Product.OTHER)
        self._left: InFlight[_Left] = InFlight(10 * profile.window)

    def __repr__(self) -> str:
        return f"<Publisher {self.connection!r}>"

    def ready(self) -> tuple[str, Awaitable[None]] | None:
        """Return None when events can be taken, else why not, and what to await until they can."""
        return self.connection.ready()

    async def publish(self, events: list[Envelope]) -> list[Outcome]:
        """Send events and return one outcome each: None with its receipt ("RECEIPT").

        :class:`Rejected` is what STOMP cannot carry, or the broker refused; :class:`Unavailable` what has no
        receipt because the connection was lost or the broker does not answer.
        """
        try:
            session = self.connection.up()
        except Unavailable as exc:
            return [exc] * len(events)
        if session is not self._session:
            self._session = session
            self._silences = 0
            self._frames = Frames(self._profile, session.broker)
            self._left.clear()
        batch: _Receipts = Outcomes(len(events))
        numbers: list[int] = []
        try:
            problem = await self._send(session, batch, events, numbers)
            if problem is None:
                problem = await self._wait(session, batch, events)
        except BaseException:
            # Cancelled: nobody learns the outcomes, and all of the events are offered again.
            self._leave(session, batch, events, numbers, known=True)
            raise
        if problem is not None:
            self._leave(session, batch, events, numbers)
            for index, number in enumerate(numbers):
                if number in session.receipts:
                    batch.outcomes[index] = problem
            for index in range(len(numbers), len(events)):
                batch.outcomes[index] = problem
        return batch.outcomes

    async def _send(
        self,
        session: StompSession,
        batch: _Receipts,
        events: list[Envelope],
        numbers: list[int],
    ) -> Unavailable | None:
        chunk: list[bytes] = []
        size, again = 0, bool(self._left)
        for index, event in enumerate(events):
            if again and self._adopt(session, batch, index, event, numbers):
                continue
            if len(session.receipts) >= self._profile.window or size >= CHUNK:
                session.write(b"".join(chunk))
                chunk.clear()
                size = 0
                problem = await self._room(session, event)
                if problem is not None:
                    return problem
            try:
                frame = self._frames.frame(event, session.next_number)
            except (InvalidHeader, InvalidRoutingKey) as exc:
                refused = Rejected(str(exc))
                refused.__cause__ = exc
                batch.outcomes[index] = refused
                numbers.append(0)
                continue
            numbers.append(session.expect(batch, index))
            batch.left += 1
            chunk.append(frame)
            size += len(frame)
        if chunk:
            session.write(b"".join(chunk))
        return None

    async def _room(self, session: StompSession, event: Envelope) -> Unavailable | None:
        """Wait until more may be sent; return why that was given up."""
        while session.full(self._profile.window):
            # Only receipts count as life: heartbeats come from a broker under an alarm, too.
            done, _ = await asyncio.wait({session.room()}, timeout=self._profile.receipt_timeout)
            if not done:
                return await self._nothing_came(session, event)
            self._silences = 0
        if session.lost.done():
            return self._gone(session)
        return None

    async def _wait(
        self, session: StompSession, batch: _Receipts, events: list[Envelope]
    ) -> Unavailable | None:
        """Wait for all receipts; return why that was given up."""
        if not await batch.complete(self._profile.receipt_timeout):
            return await self._nothing_came(session, events[0])
        self._silences = 0
        return None

    async def _nothing_came(self, session: StompSession, event: Envelope) -> Unavailable:
        """Return the error of what has no receipt; the second time give up a connection that stands still.

        A broker that blocks publishers is silent as well, and what was sent would be sent once more. So
        another connection is asked first.
        """
        self._silences += 1
        if self._silences >= 2 and await self._another_answers(session, event):
            session.fail("it answers nothing any more, and another connection is answered (receipt_timeout)")
        return self._silent()

    async def _another_answers(self, session: StompSession, event: Envelope) -> bool:
        if session.redial is None:
            return False
        seconds = self._profile.receipt_timeout
        try:
            sent = self._frames.frame(event, 0, extra=b"transaction:evbus\n")
            other = await call(session.redial(), seconds)
        except (DeliveryError, InvalidHeader, InvalidRoutingKey):
            return False
        try:
            return await call(other.ask(sent), seconds) is None
        except DeliveryTimeout:
            return False
        finally:
            other.abort()

    def _silent(self) -> Unavailable:
        seconds = self._profile.receipt_timeout
        return Unavailable(
            f"{self.connection.name}: no receipt came from the broker within {seconds:g} s (receipt_timeout)"
        )

    def _gone(self, session: StompSession) -> Unavailable:
        return Unavailable(f"{self.connection.name}: the connection was lost: {session.lost.result()}")

    # Events that come again

    def _leave(
        self,
        session: StompSession,
        batch: _Receipts,
        events: list[Envelope],
        numbers: list[int],
        *,
        known: bool = False,
    ) -> None:
        """Remember what was sent and has no receipt yet, or with ``known`` one that nobody was told of."""
        if session.lost.done():
            return
        for index, number in enumerate(numbers):
            pending = number in session.receipts
            if pending or (known and batch.outcomes[index] is None):
                left = _Left(number, settled=not pending)
                if pending:
                    session.receipts[number] = (left, 0)
                self._left.keep(events[index], left)

    def _adopt(
        self,
        session: StompSession,
        batch: _Receipts,
        index: int,
        event: Envelope,
        numbers: list[int],
    ) -> bool:
        """Wait for the receipt of an event that was sent before, if there is such a one."""
        left = self._left.take(event)
        if left is None:
            return False
        if left.settled:
            if left.outcome is not None:
                return False
            numbers.append(0)
            return True
        session.receipts[left.number] = (batch, index)
        batch.left += 1
        numbers.append(left.number)
        return True
