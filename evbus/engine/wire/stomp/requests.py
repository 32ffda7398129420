"""Requests by SEND with an address for the reply, and replies to such addresses.

Replies come to a queue of this process, which is gone with its connection. RabbitMQ and ActiveMQ have no kind
of it in common: see :func:`reply_queue`. Sections named here are those of the STOMP specification 1.2.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import NamedTuple

import msgspec

from evbus.engine.wire.base.text import unfit
from evbus.engine.wire.stomp.connect import StompConnection
from evbus.engine.wire.stomp.frame import Frame, header_lines
from evbus.engine.wire.stomp.outbox import Outbox
from evbus.engine.wire.stomp.profile import ROUTING_KEY, Profile
from evbus.engine.wire.stomp.publish import Frames, Publisher
from evbus.engine.wire.stomp.session import Product, StompSession, sender_headers
from evbus.errors import ConnectionLost, DeliveryError, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["ReplyQueue", "Requester", "expiry_lines", "reply_queue"]

log = logging.getLogger("evbus.ingress.stomp")

CORRELATION, REPLY_TO = "correlation-id", "reply-to"
#: The longest expiry that RabbitMQ takes, in seconds.
MOST_EXPIRY = 4_294_967


class ReplyQueue(NamedTuple):
    """A queue for replies: its name and headers to subscribe with, and the address that servers get."""

    queue: str
    headers: dict[str, str]
    address: str


def reply_queue(broker: Product, name: str) -> ReplyQueue:
    """Return a queue for replies that ends with its subscription, or at the latest with its connection.

    RabbitMQ lets nobody subscribe to ``/temp-queue/``. A SEND to ``/queue/`` would declare the queue anew,
    which ends the connection of who sends, or leaves a queue behind that nobody reads; one to ``/amq/queue/``
    does not. ActiveMQ writes another address into the request, by which other connections know the queue.
    """
    if broker is Product.RABBITMQ:
        headers = {"durable": "false", "auto-delete": "true", "exclusive": "true"}
        return ReplyQueue(f"/queue/{name}", headers, f"/amq/queue/{name}")
    return ReplyQueue(f"/temp-queue/{name}", {}, f"/temp-queue/{name}")


def expiry_lines(broker: Product, seconds: float) -> bytes:
    """Return the headers by which a broker drops a request that nobody took for so long."""
    milliseconds = max(1, int(min(seconds, MOST_EXPIRY) * 1000))
    lines = b""
    if broker is not Product.ACTIVEMQ:
        lines += b"expiration:%d\n" % milliseconds
    if broker is not Product.RABBITMQ:
        lines += b"expires:%d\n" % (int(time.time() * 1000) + milliseconds)
    return lines


def _anew(problem: DeliveryError, text: str) -> DeliveryError:
    if isinstance(problem, ConnectionLost):
        return ConnectionLost(text, alone=problem.alone)
    return Unavailable(text) if isinstance(problem, Unavailable) else type(problem)(text)


class _Line:
    """The outbox of one session, and the encoder of the replies that go."""

    def __init__(self, connection: StompConnection, session: StompSession, profile: Profile) -> None:
        self.connection = connection
        self.session = session
        session.prompt()
        self.outbox = Outbox(connection, session, profile.window)
        # How the profile's queue is declared says nothing about a queue of somebody else.
        self.frames = Frames(msgspec.structs.replace(profile, declare={}), session.broker)

    def problem(self, outcome: DeliveryError) -> DeliveryError:
        """Return an outcome as an error of its own: one may be that of many, and each is raised once."""
        return _anew(outcome, f"{self.connection.name}: {self.connection.clean(outcome)}")


class _OutgoingRequest:
    """A request, until its reply comes."""

    __slots__ = ("answer", "deadline", "event", "id", "inbox")

    def __init__(self, inbox: _Inbox, event: Envelope, deadline: float) -> None:
        self.inbox = inbox
        self.event = event
        self.deadline = deadline
        self.id = secrets.token_hex(16)
        self.answer: asyncio.Future[Envelope | DeliveryError] = asyncio.get_running_loop().create_future()

    def frame(self, number: int) -> bytes:
        return self.inbox.frame(self, number)

    def settle(self, index: int, outcome: DeliveryError | None) -> None:
        # A lost session is told of by the inbox: a request that has its receipt is concerned, too.
        if outcome is not None and not isinstance(outcome, Unavailable):
            self.fail(self.inbox.line.problem(outcome))

    def fail(self, problem: DeliveryError) -> None:
        if not self.answer.done():
            self.answer.set_result(problem)


class _OutgoingReply:
    """A reply that goes, until its receipt comes."""

    __slots__ = ("_address", "_event", "_line", "outcome")

    def __init__(self, line: _Line, address: str, event: Envelope) -> None:
        self._line = line
        self._address = address
        self._event = event
        self.outcome: asyncio.Future[DeliveryError | None] = asyncio.get_running_loop().create_future()

    def frame(self, number: int) -> bytes:
        return self._line.frames.frame(self._event, number, to=self._address)

    def settle(self, index: int, outcome: DeliveryError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(None if outcome is None else self._line.problem(outcome))

    def fail(self, problem: DeliveryError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(problem)


class _Inbox:
    """The queue of one session that replies come to, and who waits for them."""

    def __init__(self, line: _Line, profile: Profile, name: str) -> None:
        self.line = line
        self._name = name
        self._waiting: dict[str, _OutgoingRequest] = {}
        self._subscription = f"evbus-replies-{line.session.next_number}"
        self._subscribed = False
        self._expiry = profile.expiry
        broker = self._broker = line.session.broker
        self._reply_queue = reply_queue(broker, f"evbus-reply-{secrets.token_hex(16)}")
        fixed = {**profile.headers, REPLY_TO: self._reply_queue.address}
        request = msgspec.structs.replace(profile, headers=fixed, expiry=None)
        self._frames = Frames(request, broker, skip={CORRELATION})

    @property
    def open(self) -> bool:
        """Whether a request can be sent now."""
        return self._subscribed and not self.line.session.lost.done()

    @property
    def waiting(self) -> int:
        """The number of requests that were sent and have no reply."""
        return len(self._waiting)

    async def subscribe(self) -> DeliveryError | None:
        """Begin to take replies; return why that failed. Acknowledging a reply would be of no use."""
        session = self.line.session
        session.lost.add_done_callback(self._lost)
        queue, headers, _ = self._reply_queue
        refusal = await session.subscribe(self._subscription, queue, headers, self._take, ack="auto")
        if refusal is None:
            self._subscribed = True
            return None
        await session.unsubscribe(self._subscription)
        name, reason = self.line.connection.name, self.line.connection.clean(refusal)
        return _anew(refusal, f"{name}: nothing was sent, as no reply could be received: {reason}")

    async def close(self, problem: DeliveryError) -> None:
        """End all requests, and the queue."""
        self._subscribed = False
        self._fail(problem)
        self.line.session.lost.remove_done_callback(self._lost)
        await self.line.session.unsubscribe(self._subscription)

    def frame(self, request: _OutgoingRequest, number: int) -> bytes:
        """Return the frame of a request that is to be sent now, whose reply is waited for from now on."""
        left = request.deadline - asyncio.get_running_loop().time()
        if self._expiry is not None:
            left = min(left, self._expiry)
        extra = header_lines({CORRELATION: request.id}) + expiry_lines(self.line.session.broker, left)
        raw = self._frames.frame(request.event, number, extra=extra)
        self._waiting[request.id] = request
        return raw

    def forget(self, request: _OutgoingRequest) -> None:
        """Wait for its reply no longer."""
        self._waiting.pop(request.id, None)
        self.line.outbox.forget(request)

    def _take(self, frame: Frame) -> None:
        headers = frame.headers
        request = self._waiting.pop(headers.get(CORRELATION, ""), None)
        if request is None:
            log.debug("%s: a reply came that nobody waits for (any more)", self.line.connection.name)
        elif not request.answer.done():
            key = headers.get(ROUTING_KEY, "")
            request.answer.set_result(
                Envelope(self._name, key, frame.body, sender_headers(headers, self._broker))
            )

    def _lost(self, lost: asyncio.Future[str]) -> None:
        connection = self.line.connection
        self._fail(
            Unavailable(
                f"{connection.name}: the connection was lost before the reply came, and it is not known "
                f"whether the request was handled: {connection.clean(lost.result())}"
            )
        )

    def _fail(self, problem: DeliveryError) -> None:
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            request.fail(_anew(problem, str(problem)))


class Requester(Publisher):
    """A publisher that asks and answers, too.

    :param name: the name of the profile, which the envelopes of replies carry.
    """

    def __init__(self, connection: StompConnection, profile: Profile, name: str) -> None:
        super().__init__(connection, profile)
        self._name = name
        # These two say which reply belongs to which request: no fixed header may.
        fixed = {
            key: text for key, text in profile.headers.items() if key.lower() not in (CORRELATION, REPLY_TO)
        }
        self._plain = msgspec.structs.replace(profile, headers=fixed)
        self._line: _Line | None = None
        self._inbox: _Inbox | None = None
        self._opening: asyncio.Task[_Inbox | DeliveryError] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        waiting = self._inbox.waiting if self._inbox is not None else 0
        return f"<Requester {self.connection!r} waiting={waiting}>"

    async def request(self, event: Envelope, timeout: float) -> Envelope:
        """Send an event and return the reply to it.

        :param timeout: seconds, at the end of which the broker drops a request that nobody has taken.
        :raises DeliveryTimeout: no reply came in time.
        :raises Rejected: STOMP cannot carry it, or the broker refused it.
        :raises Unavailable: no connection in time, and nothing was sent; or it was lost before the reply.
        """
        if timeout <= 0:
            raise DeliveryTimeout(timeout)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        inbox = self._inbox
        if inbox is None or not inbox.open:
            inbox = await self._opened(timeout, deadline)
        request = _OutgoingRequest(inbox, event, deadline)
        timer = loop.call_at(deadline, request.fail, DeliveryTimeout(timeout))
        inbox.line.outbox.put(request)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch(inbox.line.session, event))
        try:
            found = await request.answer
        finally:
            timer.cancel()
            inbox.forget(request)
        if isinstance(found, DeliveryError):
            raise found
        return found

    async def reply(self, address: str, event: Envelope) -> None:
        """Send an event to an address, the header ``reply-to`` of a request.

        Who sent the request chose the address, and may name any that this profile's login can send to.

        :raises Rejected: the broker knows of no such address, or STOMP cannot carry it.
        :raises Unavailable: see :meth:`publish`.
        """
        if not address or unfit(address) or unfit(event.routing_key):
            raise Rejected("the address of a reply, or its routing key, is empty or no header can carry it")
        line = self._line_of(self.connection.up())
        if line.session.lost.done():
            raise self._gone(line.session)
        if line.session.broker is Product.RABBITMQ and not address.startswith("/"):
            # What an AMQP client asks for is a queue's plain name, or one of its direct reply-to.
            address = f"/reply-queue/{address}"
        reply = _OutgoingReply(line, address, event)
        seconds = self._profile.receipt_timeout
        timer = asyncio.get_running_loop().call_later(seconds, reply.fail, self._silent())
        line.outbox.put(reply)
        try:
            outcome = await reply.outcome
        finally:
            timer.cancel()
            line.outbox.forget(reply)
        if outcome is not None:
            raise outcome

    async def close(self) -> None:
        """End all requests: they raise :class:`Unavailable`."""
        self._closed = True
        for task in (self._opening, self._watching):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait({task})
        self._opening = self._watching = None
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.close(self._over())

    async def _watch(self, session: StompSession, event: Envelope) -> None:
        """Give the connection up when receipts are missing and none comes, as it stands still.

        A server may be slow to reply, and the broker has the request all the same.
        """
        while session.receipts and not session.lost.done():
            taken = session.taken
            await asyncio.wait({session.lost}, timeout=self._profile.receipt_timeout)
            if session.taken == taken and session.receipts:
                await self._nothing_came(session, event)
            else:
                self._silences = 0

    def _over(self) -> Unavailable:
        return Unavailable(f"{self.connection.name}: the profile is closed and takes no requests any more")

    def _line_of(self, session: StompSession) -> _Line:
        if self._line is None or self._line.session is not session:
            self._line = _Line(self.connection, session, self._plain)
        return self._line

    async def _opened(self, timeout: float, deadline: float) -> _Inbox:
        """Return an inbox once there is one; all who need it wait for the same."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.ensure_future(self._open())
            opening = self._opening
            done, _ = await asyncio.wait({opening}, timeout=deadline - loop.time())
            if not done:
                raise DeliveryTimeout(timeout) if self.connection.session else self.connection.unavailable()
            if opening.cancelled():
                break
            found = opening.result()
            if isinstance(found, DeliveryError):
                raise _anew(found, str(found))
            if found.open:
                return found
        raise self._over()

    async def _open(self) -> _Inbox | DeliveryError:
        """Wait for a session, for as long as it takes, and subscribe."""
        connection = self.connection
        session = await connection.live()
        if session is None:
            return connection.unavailable()
        # Kept before it is open, so that close() can end it in any case.
        inbox = self._inbox = _Inbox(self._line_of(session), self._plain, self._name)
        return await inbox.subscribe() or inbox
