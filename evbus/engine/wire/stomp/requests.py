"""Requests by SEND with an address for the reply, and replies to such addresses.

Replies come to a queue of this process, which is gone with its connection. RabbitMQ and ActiveMQ have no kind
of it in common: see :func:`reply_queue`. Sections named here are those of the STOMP specification 1.2.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from evbus.engine.wire.base.profile import unfit
from evbus.engine.wire.base.publish import INVALID, rejected
from evbus.engine.wire.base.requests import Correlator, SingleFlight, anew
from evbus.engine.wire.stomp.connect import StompConnection
from evbus.engine.wire.stomp.frame import Frame, header_lines
from evbus.engine.wire.stomp.profile import ROUTING_KEY, Profile
from evbus.engine.wire.stomp.publish import Frames, Publisher
from evbus.engine.wire.stomp.session import Product, StompSession, sender_headers
from evbus.errors import DeliveryError, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Requester", "expiry_lines", "reply_queue"]

log = logging.getLogger("evbus.ingress.stomp")

CORRELATION, REPLY_TO = "correlation-id", "reply-to"
#: The longest expiry that RabbitMQ takes, in seconds.
MOST_EXPIRY = 4_294_967


def reply_queue(broker: Product, name: str) -> tuple[str, dict[str, str], str]:
    """Return a queue for replies, the headers to subscribe with, and the address that servers get.

    It ends with its subscription, or at the latest with its connection.

    RabbitMQ lets nobody subscribe to ``/temp-queue/``. A SEND to ``/queue/`` would declare the queue anew,
    which ends the connection of who sends, or leaves a queue behind that nobody reads; one to ``/amq/queue/``
    does not. ActiveMQ writes another address into the request, by which other connections know the queue.
    """
    if broker is Product.RABBITMQ:
        headers = {"durable": "false", "auto-delete": "true", "exclusive": "true"}
        return f"/queue/{name}", headers, f"/amq/queue/{name}"
    return f"/temp-queue/{name}", {}, f"/temp-queue/{name}"


def expiry_lines(broker: Product, seconds: float) -> bytes:
    """Return the headers by which a broker drops a request that nobody took for so long."""
    milliseconds = max(1, int(min(seconds, MOST_EXPIRY) * 1000))
    lines = b""
    if broker is not Product.ACTIVEMQ:
        lines += b"expiration:%d\n" % milliseconds
    if broker is not Product.RABBITMQ:
        lines += b"expires:%d\n" % (int(time.time() * 1000) + milliseconds)
    return lines


class _Outgoing:
    """A request or a reply that waits to be sent, and then for its receipt.

    :ivar encode: returns its frame; called with the number of its receipt when it is sent.
    :ivar told: called with what became of the frame, and whether it was sent.
    """

    __slots__ = ("encode", "told")

    def __init__(
        self, encode: Callable[[int], bytes], told: Callable[[DeliveryError | None, bool], None]
    ) -> None:
        self.encode = encode
        self.told = told

    def settle(self, index: int, outcome: DeliveryError | None) -> None:
        self.told(outcome, True)


class _Line:
    """Sends frames over one session in their order, as there is room."""

    def __init__(self, connection: StompConnection, session: StompSession, profile: Profile) -> None:
        self.connection = connection
        self.session = session
        session.prompt()
        # How the profile's queue is declared says nothing about a queue of somebody else.
        self.frames = Frames(msgspec.structs.replace(profile, declare={}), session.broker)
        self._window = profile.window
        self._outgoing: OrderedDict[_Outgoing, None] = OrderedDict()
        self._stuck = False

    def problem(self, outcome: DeliveryError) -> DeliveryError:
        """Return an outcome as an error of its own."""
        return anew(outcome, f"{self.connection.name}: {self.connection.clean(outcome)}")

    def put(self, frame: _Outgoing) -> None:
        """Send it as soon as there is room, after those that were put before."""
        self._outgoing[frame] = None
        if not self._stuck:
            self._send()

    def forget(self, frame: _Outgoing) -> None:
        """Do not send it, if it was not sent yet."""
        self._outgoing.pop(frame, None)

    def _send(self, _room: object = None) -> None:
        session = self.session
        self._stuck = False
        if session.lost.done():
            self.give_up()
        while self._outgoing and not session.full(self._window):
            frame, _ = self._outgoing.popitem(last=False)
            try:
                data = frame.encode(session.next_number)
            except INVALID as exc:
                frame.told(rejected(exc), False)
                continue
            session.expect(frame, 0)
            session.write_soon(data)
        if self._outgoing:
            # One for all who wait: each of thousands would wake with every receipt.
            self._stuck = True
            session.room().add_done_callback(self._send)

    def give_up(self) -> None:
        """Tell those that were not sent that the session is lost."""
        while self._outgoing:
            frame, _ = self._outgoing.popitem(last=False)
            reason = self.connection.clean(self.session.lost.result())
            text = f"{self.connection.name}: the connection was lost before SEND: {reason}"
            frame.told(Unavailable(text), False)


class _Inbox:
    """The queue of one session that replies come to, and the requests that wait for them."""

    def __init__(self, line: _Line, profile: Profile, name: str) -> None:
        self.line = line
        self.requests = Correlator(line.connection.name, log)
        self._name = name
        self._subscription = f"evbus-replies-{line.session.next_number}"
        self._subscribed = False
        self._expiry = profile.expiry
        broker = self._broker = line.session.broker
        self._queue, self._headers, address = reply_queue(broker, f"evbus-reply-{secrets.token_hex(16)}")
        fixed = {**profile.headers, REPLY_TO: address}
        request = msgspec.structs.replace(profile, headers=fixed, expiry=None)
        self._frames = Frames(request, broker, skip={CORRELATION})

    @property
    def open(self) -> bool:
        """Whether a request can be sent now."""
        return self._subscribed and not self.line.session.lost.done()

    async def subscribe(self) -> None:
        """Begin to take replies; acknowledging them would be of no use.

        :raises DeliveryError: that failed.
        """
        session = self.line.session
        session.lost.add_done_callback(self._lost)
        refusal = await session.subscribe(
            self._subscription, self._queue, self._headers, self._take, ack="auto"
        )
        if refusal is not None:
            await session.unsubscribe(self._subscription)
            name, reason = self.line.connection.name, self.line.connection.clean(refusal)
            raise anew(refusal, f"{name}: nothing was sent, as no reply could be received: {reason}")
        self._subscribed = True

    async def close(self, problem: Callable[[], Exception]) -> None:
        """End all requests, and the queue."""
        self._subscribed = False
        self.requests.end(problem)
        self.line.session.lost.remove_done_callback(self._lost)
        await self.line.session.unsubscribe(self._subscription)

    async def ask(self, event: Envelope, deadline: float, timeout: float) -> Envelope:
        """Send a request, and return the reply to it."""
        correlation_id = secrets.token_hex(16)

        def encode(number: int) -> bytes:
            left = deadline - asyncio.get_running_loop().time()
            left = left if self._expiry is None else min(left, self._expiry)
            extra = header_lines({CORRELATION: correlation_id}) + expiry_lines(self._broker, left)
            return self._frames.frame(event, number, extra=extra)

        def told(outcome: DeliveryError | None, sent: bool) -> None:
            # A lost session is told of by the inbox: a request that has its receipt is concerned, too.
            if outcome is not None and not (sent and isinstance(outcome, Unavailable)):
                self.requests.fail(correlation_id, self.line.problem(outcome) if sent else outcome)

        frame = _Outgoing(encode, told)
        reply = self.requests.expect(correlation_id, deadline, timeout)
        self.line.put(frame)
        try:
            return await self.requests.reply(correlation_id, reply)
        finally:
            self.line.forget(frame)

    def _take(self, frame: Frame) -> None:
        headers = frame.headers
        kept = sender_headers(headers, self._broker)
        reply = Envelope(self._name, headers.get(ROUTING_KEY, ""), frame.body, kept)
        self.requests.answer(headers.get(CORRELATION, ""), reply)

    def _lost(self, lost: asyncio.Future[str]) -> None:
        self.line.give_up()
        connection = self.line.connection
        text = (
            f"{connection.name}: the connection was lost before the reply came, and it is not known "
            f"whether the request was handled: {connection.clean(lost.result())}"
        )
        self.requests.end(lambda: Unavailable(text))


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
        self._opening = SingleFlight(self._open, self._over)
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        waiting = len(self._inbox.requests) if self._inbox is not None else 0
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
        deadline = asyncio.get_running_loop().time() + timeout
        inbox = self._inbox
        while inbox is None or not inbox.open:
            try:
                inbox = await self._opening.open(deadline - asyncio.get_running_loop().time())
            except TimeoutError:
                problem = (
                    DeliveryTimeout(timeout) if self.connection.session else self.connection.unavailable()
                )
                raise problem from None
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch(inbox.line.session, event))
        return await inbox.ask(event, deadline, timeout)

    async def reply(self, address: str, event: Envelope) -> None:
        """Send an event to an address, the header ``reply-to`` of a request.

        Who sent the request chose the address, and may name any that this profile's login can send to.

        :raises Rejected: the broker knows of no such address, or STOMP cannot carry it.
        :raises Unavailable: see :meth:`publish`.
        """
        if not address or unfit(address) or unfit(event.routing_key):
            raise Rejected("the address of a reply, or its routing key, is empty or no header can carry it")
        line = self._line_of(self.connection.up())
        if line.session.broker is Product.RABBITMQ and not address.startswith("/"):
            # What an AMQP client asks for is a queue's plain name, or one of its direct reply-to.
            address = f"/reply-queue/{address}"
        outcome: asyncio.Future[DeliveryError | None] = asyncio.get_running_loop().create_future()

        def encode(number: int) -> bytes:
            return line.frames.frame(event, number, to=address)

        def told(found: DeliveryError | None, sent: bool) -> None:
            if not outcome.done():
                outcome.set_result(line.problem(found) if sent and found is not None else found)

        frame = _Outgoing(encode, told)
        timer = asyncio.get_running_loop().call_later(self._patience, told, self._silent(), False)
        line.put(frame)
        try:
            problem = await outcome
        finally:
            timer.cancel()
            line.forget(frame)
        if problem is not None:
            raise problem

    async def close(self) -> None:
        """End all requests: they raise :class:`Unavailable`."""
        await self._opening.close()
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.close(self._over)

    async def _watch(self, session: StompSession, event: Envelope) -> None:
        """Give the connection up when receipts are missing and none comes, as it stands still.

        A server may be slow to reply, and the broker has the request all the same.
        """
        while session.receipts and not session.lost.done():
            taken = session.taken
            await asyncio.wait({session.lost}, timeout=self._patience)
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

    async def _open(self) -> _Inbox:
        """Wait for a session, for as long as it takes, and subscribe."""
        session = await self.connection.live()
        if session is None:
            raise self.connection.unavailable()
        # Kept before it is open, so that close() can end it in any case.
        inbox = self._inbox = _Inbox(self._line_of(session), self._plain, self._name)
        await inbox.subscribe()
        return inbox
