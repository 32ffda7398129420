"""Requests over AMQP 0-9-1, answered by RabbitMQ's direct reply-to, and replies to those of others.

The replies to all requests of a profile come back over one channel: it consumes from the pseudo-queue
``amq.rabbitmq.reply-to``, which no declaration makes, and publishes the requests. The broker writes into each
of them an address that leads to that channel (https://www.rabbitmq.com/docs/direct-reply-to).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections.abc import Coroutine
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

import msgspec
from aio_pika.abc import AbstractChannel

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.confirms import Outcome, read_return
from evbus.engine.wire.amqp.connect import AmqpSession, never
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.publish import Publisher, properties_for, refused, rejected, unroutable
from evbus.engine.wire.amqp.topology import declared
from evbus.engine.wire.amqp.transport import Sink
from evbus.engine.wire.base.requests import Correlator, SingleFlight, anew
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryError, DeliveryTimeout, PayloadError, Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Requester", "Requests"]

log = logging.getLogger("evbus.ingress.amqp")

_CORRELATION_ID = "correlation-id"
_REPLY_TO = "amq.rabbitmq.reply-to"
#: How the addresses of direct reply-to begin.
_DIRECT = f"{_REPLY_TO}."
#: How those begin that STOMP clients of the same broker give.
_STOMP = ("/amq/queue/", "/reply-queue/", "/queue/")
_TAG = struct.Struct(">QB")


class Requests(Sink):
    """The requests under way on one channel, whose publishes are confirmed, and their replies.

    :param link: the channel, opened on ``session``.
    :param profile: the profile of them, and ``profile_name`` what the envelopes of replies carry.
    :param name: what the connection is called in errors.
    :ivar number: the number of the channel.
    :ivar ended: why it takes no more requests, ``""`` while it does.
    """

    def __init__(
        self, session: AmqpSession, link: AbstractChannel, profile: Profile, profile_name: str, name: str
    ) -> None:
        super().__init__()
        self.session = session
        self.number = session.wire.attach(link.number, self)
        self.ended = ""
        self._link = link
        self._profile = profile
        self._profile_name = profile_name
        self._name = name
        self._requests = Correlator(name, log)
        self._loop = asyncio.get_running_loop()
        self._sent = self._confirmed = 0
        self._unconfirmed: dict[int, str] = {}
        self._listening: asyncio.TimerHandle | None = None
        self._out: list[bytes] = []
        self._returned: Rejected | None = None

    def __repr__(self) -> str:
        return f"<Requests requests={len(self._requests)} ended={self.ended!r}>"

    @property
    def open(self) -> bool:
        """Whether a request can be sent now."""
        return not self.ended and not self.session.blocked

    def new_id(self) -> str:
        """Return the correlation id of the next request."""
        return self._requests.new_id()

    def ask(
        self, message: bytes, correlation_id: str, deadline: float, timeout: float
    ) -> Coroutine[Any, Any, Envelope]:
        """Write a request, as its frames, and return what awaits the reply to it.

        :param deadline: until when it is waited for, by the loop's clock; ``timeout`` is for the error.
        """
        reply = self._requests.expect(correlation_id, deadline, timeout)
        self._sent += 1
        self._unconfirmed[self._sent] = correlation_id
        if self._listening is None:
            self._listen()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)
        return self._requests.reply(correlation_id, reply)

    def _flush(self) -> None:
        """Write all requests of one turn of the loop at once."""
        out, self._out = self._out, []
        # A frame on a channel that is closed would end the whole connection.
        if not self.ended:
            self.session.wire.write(b"".join(out))

    async def leave(self) -> None:
        """Close the channel; whoever waits for a reply is told."""
        self.end("the lane was closed")
        await self.session.leave(self._link, self)

    # Silence: a server may be slow, and a broker confirms all the same

    def _listen(self) -> None:
        patience = self._profile.confirm_timeout
        self._listening = self._loop.call_later(patience, self._heard, self._confirmed)

    def _heard(self, confirmed: int) -> None:
        """Tell when nothing was confirmed; one timer for the channel costs less than one for each request."""
        self._listening = None
        if self._unconfirmed:
            if self._confirmed == confirmed:
                self.session.probe(self._profile.confirm_timeout)
            self._listen()

    # Reading

    def lost(self, reason: str) -> None:
        """End all requests: the connection is gone."""
        self.end(f"the connection was lost: {one_line(reason)}")

    def end(self, reason: str, *, fault: bool = False) -> None:
        """Take no more requests.

        :param fault: a request is at fault, and if there is one only, it is that one.
        """
        if self.ended:
            return
        self.ended = reason
        if self._listening is not None:
            self._listening.cancel()
        self._unconfirmed.clear()
        said = f"{self._name}: {reason}"
        at_fault = fault and len(self._requests) == 1

        def problem() -> Exception:
            if at_fault:
                return Rejected(said)
            return Unavailable(f"{said}; it is not known whether the request was handled")

        self._requests.end(problem)

    def method(self, method: int, payload: bytes) -> bool:
        """Take a confirm, or the beginning of a reply or a return; everything else is aio-pika's."""
        if method == frames.DELIVER:
            self._returned = None
        elif method == frames.RETURN:
            self._returned = unroutable(self._name, *read_return(payload))
        elif method in (frames.ACK, frames.NACK):
            tag, bits = _TAG.unpack_from(payload, 4)
            self._settle(tag, confirmed=method == frames.ACK, multiple=bool(bits & 1))
        else:
            self._look_at(method, payload)
            return False
        return True

    def _look_at(self, method: int, payload: bytes) -> None:
        if method == frames.CHANNEL_CLOSE:
            code, text = frames.read_close(payload)
            # 404 and 403 are about the exchange, and so about every request; the others may be about one.
            self.end(
                f"the broker closed the channel: {one_line(text)} ({code})", fault=code not in (403, 404)
            )
        elif method == frames.CANCEL:
            self.end("the broker cancelled the consumer of replies")

    def _settle(self, tag: int, *, confirmed: bool, multiple: bool) -> None:
        self._confirmed += 1
        unconfirmed = self._unconfirmed
        for each in list(takewhile(tag.__ge__, unconfirmed)) if multiple else (tag,):
            correlation_id = unconfirmed.pop(each, "")
            if not confirmed:
                self._requests.fail(correlation_id, refused(self._name, self._profile))

    def message(self, properties: bytes, body: bytes) -> None:
        """Hand a reply, or what came back, to whoever waits for it."""
        try:
            headers = frames.properties_of(properties).headers
        except ValueError as exc:
            log.debug("%s: a reply is ignored: %s", self._name, one_line(exc))
            return
        reply = self._returned or Envelope(self._profile_name, "", body, headers, time.monotonic())
        self._requests.answer(headers.get(_CORRELATION_ID, ""), reply)


class _Replies(Publisher):
    """Replies: those of one turn of the loop are published together."""

    def __init__(self, connection: Connection[AmqpSession], profile: Profile) -> None:
        super().__init__(connection, profile)
        self._turn: list[tuple[Envelope, asyncio.Future[Outcome]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, reply: Envelope) -> Outcome:
        """Publish a reply; return what :meth:`publish` says of it, and raise what that raises."""
        loop = asyncio.get_running_loop()
        if not self._turn:
            loop.call_soon(self._flush)
        outcome: asyncio.Future[Outcome] = loop.create_future()
        self._turn.append((reply, outcome))
        return await outcome

    def _flush(self) -> None:
        turn, self._turn = self._turn, []
        # Nobody waits for those that were cancelled in this turn.
        wanted = [one for one in turn if not one[1].done()]
        if wanted:
            task = asyncio.ensure_future(self._publish_all(wanted))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _publish_all(self, turn: list[tuple[Envelope, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes = await self.publish([reply for reply, _ in turn])
        except DeliveryError as exc:
            for number, (_, outcome) in enumerate(turn):
                if not outcome.done():
                    outcome.set_exception(exc if not number else anew(exc))
            return
        except BaseException:
            for _, outcome in turn:
                outcome.cancel()
            raise
        for (_, outcome), found in zip(turn, outcomes, strict=True):
            if not outcome.done():
                outcome.set_result(found)

    async def close(self) -> None:
        """Close the channel; replies that are not confirmed fail."""
        await super().close()
        if self._sending:
            await asyncio.wait(set(self._sending))


class Requester(Publisher):
    """All that a profile sends: events; requests, any number at a time over one channel; and replies.

    :param name: the name of the profile, which the envelopes of replies carry.
    """

    def __init__(self, connection: Connection[AmqpSession], profile: Profile, name: str) -> None:
        super().__init__(connection, profile)
        plain = msgspec.structs.replace(profile, exchange="", queue=None, routing_key=None, mandatory=True)
        # A queue that is gone makes the broker return a mandatory message. With direct reply-to that says
        # nothing: RabbitMQ 3.10 returns each, also those that it delivers. So nobody is told there that a
        # client is gone; asking the broker beside each reply (a passive declaration of the address) would
        # halve what goes through.
        self._queues = _Replies(connection, plain)
        self._direct = _Replies(connection, msgspec.structs.replace(plain, mandatory=False))
        self._profile_name = name
        self._requests: Requests | None = None
        self._opener = SingleFlight(self._open_requests, self._gone)

    def __repr__(self) -> str:
        return f"<Requester {self._name} {self._requests or 'no channel'}>"

    async def request(self, event: Envelope, timeout: float) -> Envelope:
        """Publish an event and return the reply to it, whose routing key is ``""``.

        The broker drops the request when it is not handled within ``timeout`` seconds. Cancelled, the request
        is forgotten, though it may still be handled.

        :param timeout: seconds.
        :raises DeliveryTimeout: no reply came in time.
        :raises Rejected: no queue is bound for it, or AMQP cannot carry it.
        :raises DeliveryError: the broker refused it (``basic.nack``).
        :raises Unavailable: no connection in time; or the connection or its channel was lost meanwhile, and
            it is not known whether it was handled.
        """
        loop = asyncio.get_running_loop()
        deadline, left = loop.time() + timeout, timeout
        requests = self._requests
        while requests is None or not requests.open or left <= 0:
            if left <= 0:
                raise self._late(timeout)
            with contextlib.suppress(TimeoutError):  # which is told above
                requests = await self._opener.open(left)
            left = deadline - loop.time()
        correlation_id = requests.new_id()
        try:
            message = self._request(requests, event, correlation_id, left)
        except PayloadError as exc:
            raise rejected(self._name, exc) from exc
        return await requests.ask(message, correlation_id, deadline, timeout)

    def _request(self, requests: Requests, event: Envelope, correlation_id: str, left: float) -> bytes:
        number, frame_max = requests.number, requests.session.frame_max
        headers = {**event.headers, _CORRELATION_ID: correlation_id, "reply-to": _REPLY_TO}
        if self._profile.expiry is not None:
            left = min(left, self._profile.expiry)
        milliseconds = max(1, left * 1000)
        if milliseconds <= frames.LONGEST_EXPIRATION:  # one that may live longer never expires
            headers["expiration"] = str(round(milliseconds))
        properties = properties_for(headers, self._profile, frame_max)
        method = frames.publish_method(number, self._exchange, event.routing_key, mandatory=True)
        head = method + frames.content_header(number, len(event.body), properties)
        return frames.message(number, frame_max, head, event.body)

    async def reply(self, address: str, event: Envelope) -> None:
        """Publish an event to whoever waits at ``address``; return when the broker has it.

        :raises Rejected: the queue is gone, or AMQP cannot carry it.
        :raises DeliveryError: refused by ``basic.nack``.
        :raises Unavailable: no connection, no permission, or no answer.
        """
        address = _queue_of(address)
        if not address:
            raise Rejected(f"{self._name}: there is no address to reply to; the header reply-to names it")
        # Without a time it is not remembered when its outcome is unknown: nobody sends it again as it is.
        envelope = Envelope(event.profile, address, event.body, event.headers)
        replies = self._direct if address.startswith(_DIRECT) else self._queues
        outcome = await replies.send(envelope)
        if outcome is not None:
            raise outcome

    async def close(self) -> None:
        """Close the channels; whoever waits for a reply is told."""
        async with contextlib.AsyncExitStack() as stack:
            for close in (super().close, self._direct.close, self._queues.close, self._leave):
                stack.push_async_callback(close)
            await self._opener.close()

    # The channel of requests

    def _gone(self) -> Unavailable:
        return Unavailable(f"{self._name}: the lane was closed")

    def _late(self, timeout: float) -> DeliveryTimeout | Unavailable:
        """Return the error of a request that could not be sent in time."""
        session = self.connection.session
        if session is None and timeout > 0:
            return self.connection.unavailable()
        if session is not None and session.blocked:
            return Unavailable(f"{self._name}: the broker blocks publishers: {one_line(session.blocked)}")
        return DeliveryTimeout(timeout)

    async def _open_requests(self) -> Requests:
        """Wait until the broker takes requests, and return a channel for them.

        :raises Unavailable: there can be none.
        """
        while True:
            found = self.connection.ready()
            if found is not None:
                await found[1]
            session = self.connection.up()
            if session.blocked:
                continue
            requests = self._requests
            if requests is not None and requests.session is session and not requests.ended:
                return requests
            await self._leave()
            try:
                self._requests = requests = await self._open_on(session)
            except Exception as exc:
                if not session.lost.done():
                    what = str(exc) if isinstance(exc, Unavailable) else f"no channel: {one_line(str(exc))}"
                    raise Unavailable(f"{self._name}: {what}") from exc
            else:
                return requests
            # The connection gets to know of its loss a little later.
            while self.connection.session is session:
                await self.connection.changed()

    async def _open_on(self, session: AmqpSession) -> Requests:
        await declared(session, self._profile)
        link = await session.channel(confirms=True)
        requests = Requests(session, link, self._profile, self._profile_name, self._name)
        try:
            await session.rpc(_consume(link))
        except BaseException:
            await requests.leave()
            raise
        return requests

    async def _leave(self) -> None:
        requests, self._requests = self._requests, None
        if requests is not None:
            await requests.leave()


async def _consume(link: AbstractChannel) -> None:
    replies = await link.get_queue(_REPLY_TO, ensure=False)
    await replies.consume(never, no_ack=True)


def _queue_of(address: str) -> str:
    """Return the queue of an address that a client of RabbitMQ's STOMP plugin gave, others as they are."""
    for prefix in _STOMP:
        if address.startswith(prefix):
            return unquote(address[len(prefix) :])
    return address
