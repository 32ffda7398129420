"""Requests over AMQP 0-9-1, answered by RabbitMQ's direct reply-to.

The replies to all requests of a profile come back over one channel: it consumes from the pseudo-queue
``amq.rabbitmq.reply-to``, which no declaration makes, and publishes the requests. The broker writes into each
of them an address that leads to that channel (https://www.rabbitmq.com/docs/direct-reply-to).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from aio_pika.abc import AbstractChannel

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.connect import AmqpSession, never
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.publish import Publisher, fixed_of, properties_for, refused, rejected, unroutable
from evbus.engine.wire.amqp.replies import Replier
from evbus.engine.wire.amqp.topology import declared
from evbus.engine.wire.amqp.waiting import Waiting
from evbus.engine.wire.base.single import SingleFlight
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryTimeout, PayloadError, Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Correspondent", "Requester"]

_REPLY_TO = "amq.rabbitmq.reply-to"


class _RequestChannel(NamedTuple):
    """A channel that sends requests and takes their replies."""

    session: AmqpSession
    number: int
    link: AbstractChannel
    waiting: Waiting


class Correspondent(Publisher):
    """All that a profile sends: events, requests, and replies to other people's requests.

    :param name: the name of the profile, which the envelopes of replies carry.
    """

    def __init__(self, connection: Connection[AmqpSession], profile: Profile, name: str) -> None:
        super().__init__(connection, profile)
        self.requester = Requester(connection, profile, name)
        self.replier = Replier(connection, profile)
        self.request = self.requester.request
        self.reply = self.replier.reply

    async def close(self) -> None:
        """Close the channels; whoever waits for a reply is told."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(super().close)
            stack.push_async_callback(self.replier.close)
            stack.push_async_callback(self.requester.close)


class Requester:
    """One profile's way to ask: any number of requests at a time over one channel."""

    def __init__(self, connection: Connection[AmqpSession], profile: Profile, name: str) -> None:
        self.connection = connection
        self._profile_name = name
        self._profile = profile
        self._name = connection.name
        self._exchange = profile.exchange_name()
        self._fixed = fixed_of(profile)
        self._channel: _RequestChannel | None = None
        self._opener = SingleFlight(self._open, self._gone)

    def __repr__(self) -> str:
        return f"<Requester {self._name} {self._channel.waiting if self._channel else 'no channel'}>"

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
        now = asyncio.get_running_loop().time()
        deadline, left = now + timeout, timeout
        channel = self._channel
        if channel is None or channel.waiting.ended or channel.session.blocked or timeout <= 0:
            channel = await self._opened(deadline, timeout)
            left = deadline - asyncio.get_running_loop().time()
        waiting = channel.waiting
        correlation_id = waiting.new_id()
        try:
            message = self._message(channel, event, correlation_id, left)
        except PayloadError as exc:
            raise rejected(self._name, exc) from exc
        return await waiting.ask(message, correlation_id, deadline, timeout)

    def _message(self, channel: _RequestChannel, event: Envelope, correlation_id: str, left: float) -> bytes:
        number, frame_max = channel.number, channel.session.frame_max
        headers = {**event.headers, "correlation-id": correlation_id, "reply-to": _REPLY_TO}
        if self._profile.expiry is not None:
            left = min(left, self._profile.expiry)
        milliseconds = max(1, left * 1000)
        if milliseconds <= frames.LONGEST_EXPIRATION:  # one that may live longer never expires
            headers["expiration"] = str(round(milliseconds))
        properties = properties_for(headers, self._profile, self._fixed, frame_max)
        method = frames.publish_method(number, self._exchange, event.routing_key, mandatory=True)
        head = method + frames.content_header(number, len(event.body), properties)
        return frames.message(number, frame_max, head, event.body)

    async def close(self) -> None:
        """Close the channel; whoever waits for a reply is told."""
        await self._opener.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await self._leave(channel)

    # The channel

    async def _opened(self, deadline: float, timeout: float) -> _RequestChannel:
        """Return the channel that takes requests, opened if need be, and as soon as there is a connection."""
        loop = asyncio.get_running_loop()
        while True:
            left = deadline - loop.time()
            if left <= 0:
                raise self._late(timeout)
            channel = self._channel
            if channel is not None and not channel.waiting.ended and not channel.session.blocked:
                return channel
            with contextlib.suppress(TimeoutError):  # which is told above
                await self._opener.open(left)

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

    async def _open(self) -> None:
        """Wait until the broker takes requests, with a channel for them.

        :raises Unavailable: there can be none.
        """
        while True:
            found = self.connection.ready()
            if found is not None:
                await found[1]
            session = self.connection.up()
            if session.blocked:
                continue
            channel = self._channel
            if channel is not None:
                if channel.session is session and not channel.waiting.ended:
                    return
                self._channel = None
                await self._leave(channel)
            try:
                self._channel = await self._open_on(session)
            except Exception as exc:
                if not session.lost.done():
                    what = str(exc) if isinstance(exc, Unavailable) else f"no channel: {one_line(str(exc))}"
                    raise Unavailable(f"{self._name}: {what}") from exc
            else:
                return
            # The connection gets to know of its loss a little later.
            while self.connection.session is session:
                await self.connection.changed()

    async def _open_on(self, session: AmqpSession) -> _RequestChannel:
        await declared(session, self._profile)
        link = await session.channel(confirms=True)
        patience = self._profile.confirm_timeout
        waiting = Waiting(
            session.wire.write,
            self._profile_name,
            self._name,
            self._refused,
            self._unroutable,
            lambda: session.probe(patience),
            patience,
        )
        channel = _RequestChannel(session, session.wire.attach(link.number, waiting), link, waiting)
        try:
            await session.rpc(_consume(link))
        except BaseException:
            await self._leave(channel)
            raise
        return channel

    def _refused(self) -> Exception:
        return refused(self._name, self._profile)

    def _unroutable(self, code: int, text: str, exchange: str, routing_key: str) -> Rejected:
        return unroutable(self._name, code, text, exchange, routing_key)

    async def _leave(self, channel: _RequestChannel) -> None:
        channel.waiting.end("the lane was closed")
        await channel.session.leave(channel.link, channel.waiting)


async def _consume(link: AbstractChannel) -> None:
    replies = await link.get_queue(_REPLY_TO, ensure=False)
    await replies.consume(never, no_ack=True)
